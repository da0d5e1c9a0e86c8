//! Feeds every stored input to its target: the seeds, and all that once made
//! trouble. Runs on any toolchain, fuzzers not needed.

use std::fs;
use std::path::Path;

use procession_fuzz::TARGETS;

#[test]
fn stored_inputs_keep_the_promises() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, target) in TARGETS {
        let mut count = 0;
        for kind in ["corpus", "regressions"] {
            // Of some targets no regression is known.
            let Ok(inputs) = fs::read_dir(root.join(kind).join(name)) else { continue };
            for input in inputs {
                let path = input.unwrap().path();
                println!("{}", path.display());
                target(&fs::read(&path).unwrap());
                count += 1;
            }
        }
        assert!(count > 0, "{name} has no inputs");
    }
}

#[test]
fn every_binary_has_its_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut binaries: Vec<_> = fs::read_dir(root.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    binaries.sort();
    assert_eq!(binaries, TARGETS.map(|(name, _)| name));
}

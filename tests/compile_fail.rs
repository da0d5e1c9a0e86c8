//! What cannot be a task is refused while compiling, in words that help.
//!
//! Builds tiny programs that depend on this crate. Looks for our sentences
//! only: the compiler's own words change from release to release.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

const CAPTURES_NOTHING: &str = "a task must be a function or a closure that captures nothing";
const SERIALIZE: &str = "its arguments and its result must be `Serialize + DeserializeOwned`";
const EIGHT_ARGUMENTS: &str = "a task takes up to 8 arguments";

/// Builds a program whose `main` is `body`. A build, not a check: constant
/// assertions in generic code fail only when code is generated.
fn build(name: &str, body: &str) -> Output {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    let program = scratch.join(name);
    fs::create_dir_all(program.join("src")).unwrap();
    fs::write(program.join("src/main.rs"), format!("fn main() {{\n{body}\n}}\n")).unwrap();
    let this_crate = env!("CARGO_MANIFEST_DIR");
    fs::write(
        program.join("Cargo.toml"),
        format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
             [dependencies]\nprocession = {{ path = {this_crate:?} }}\n\n[workspace]\n"
        ),
    )
    .unwrap();
    // The versions that were downloaded for this crate.
    let lock = Path::new(this_crate).join("Cargo.lock");
    if lock.exists() {
        fs::copy(lock, program.join("Cargo.lock")).unwrap();
    }
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--offline", "--quiet", "--target-dir"])
        .arg(scratch.join("target"))
        .current_dir(&program)
        .output()
        .expect("cargo starts")
}

#[track_caller]
fn refused(name: &str, body: &str, sentence: &str) {
    let output = build(name, body);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{name} compiles");
    assert!(stderr.contains(sentence), "{name} fails without saying \"{sentence}\":\n{stderr}");
}

/// The others mean nothing unless this one compiles.
#[test]
fn a_function_and_a_plain_closure_are_tasks() {
    let output = build(
        "plain",
        "fn square(n: u64) -> u64 { n * n }
         let pool = procession::Pool::new().unwrap();
         let _ = pool.apply(square, 3);
         let _ = pool.apply(|a: u64, b: u64| a + b, (1, 2));",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_capturing_closure_is_refused() {
    refused(
        "capturing",
        "let by = std::env::args().count() as u64;
         let pool = procession::Pool::new().unwrap();
         let _ = pool.apply(move |n: u64| n + by, 3);",
        CAPTURES_NOTHING,
    );
}

#[test]
fn a_function_pointer_is_refused() {
    refused(
        "pointer",
        "fn square(n: u64) -> u64 { n * n }
         let pointer: fn(u64) -> u64 = square;
         let pool = procession::Pool::new().unwrap();
         let _ = pool.apply(pointer, 3);",
        CAPTURES_NOTHING,
    );
}

#[test]
fn an_argument_that_cannot_travel_is_refused() {
    refused(
        "argument",
        "struct Opaque;
         fn take(_: Opaque) {}
         let pool = procession::Pool::new().unwrap();
         let _ = pool.apply(take, Opaque);",
        SERIALIZE,
    );
}

#[test]
fn a_result_that_cannot_travel_is_refused() {
    refused(
        "result",
        "struct Opaque;
         fn give() -> Opaque { Opaque }
         let pool = procession::Pool::new().unwrap();
         let _ = pool.apply(give, ());",
        SERIALIZE,
    );
}

#[test]
fn nine_arguments_are_refused() {
    refused(
        "nine",
        "#[allow(clippy::too_many_arguments)]
         fn nine(_: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8, _: u8) {}
         let pool = procession::Pool::new().unwrap();
         let _ = pool.apply(nine, (1, 2, 3, 4, 5, 6, 7, 8, 9));",
        EIGHT_ARGUMENTS,
    );
}

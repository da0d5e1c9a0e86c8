use std::fs;
use std::os::unix::fs::PermissionsExt;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Batch, children_of, ended, picture, until};

/// 8 KiB of every ten million.
fn bomb(path: &std::path::Path) {
    let (width, height) = (12_000, 12_000);
    let mut file = fs::File::create(path).unwrap();
    let encoder =
        PngEncoder::new_with_quality(&mut file, CompressionType::Best, FilterType::NoFilter);
    let zeroes = vec![0; width * height];
    encoder.write_image(&zeroes, width as u32, height as u32, ExtendedColorType::L8).unwrap();
    drop(zeroes);
    assert!(fs::metadata(path).unwrap().len() < 1 << 20, "it is no bomb");
}

#[test]
fn what_cannot_be_made_is_said_and_the_rest_is_made() {
    let batch = Batch::new();
    for n in 0..6 {
        picture(&batch.source(&format!("{n}.png")), 300, 200);
    }
    fs::write(batch.source("2a.png"), "this is no image").unwrap();
    let whole = fs::read(batch.source("3.png")).unwrap();
    fs::write(batch.source("3a.png"), &whole[..whole.len() / 2]).unwrap();
    bomb(&batch.source("4a.png"));
    fs::write(batch.source("empty.jpg"), "").unwrap();
    let first = batch.run(&["--jobs", "2", "--memory", "64"]);
    assert_eq!(first.code, 1);
    assert!(first.output.starts_with("6 thumbnails made, 4 failed, 0 were there"), "{first:?}");
    let said = |name: &str| {
        let start = format!("batch: {name}: ");
        let line = first.errors.lines().find(|line| line.starts_with(&start));
        line.unwrap_or_else(|| panic!("{name}: {first:?}"))[start.len()..].to_owned()
    };
    assert!(said("4a.png").starts_with("its decoder was over its memory limit of 64 MiB, with "));
    assert!(!said("2a.png").contains("decoder was") && !said("3a.png").contains("decoder was"));
    said("empty.jpg");
    assert_eq!(first.errors.lines().count(), 4, "{first:?}");
    batch.assert_whole();

    // What failed is tried again, with more memory, and mended.
    fs::write(batch.source("2a.png"), &whole).unwrap();
    let second = batch.run(&["--memory", "1024"]);
    assert!(second.output.starts_with("2 thumbnails made, 2 failed, 6 were there"), "{second:?}");
}

#[test]
fn the_first_that_fails_is_the_last_if_so_wished() {
    let batch = Batch::new();
    for n in 0..50 {
        picture(&batch.source(&format!("{n:02}.png")), 400, 400);
    }
    fs::write(batch.source("03a.png"), "this is no image").unwrap();
    let ended = batch.run(&["--jobs", "1", "--on-error", "stop"]);
    assert_eq!(ended.code, 1);
    assert!(ended.output.contains(" 1 failed, 0 were there"), "{ended:?}");
    assert!(ended.errors.contains("batch: stopped at the first that failed, with "), "{ended:?}");
    assert!(batch.times().len() < 50, "it went on");
    batch.assert_whole();
}

/// The kernel does so to those who take all memory there is.
#[test]
fn a_worker_that_is_killed_takes_its_image_with_it_and_no_other() {
    let batch = Batch::new();
    let images = 24;
    for n in 0..images {
        picture(&batch.source(&format!("{n:02}.png")), 2000, 2000);
    }
    let child = batch.start(&["--jobs", "2"]);
    let mut killed = false;
    until("a worker at work is killed", || {
        for pid in children_of(child.id()) {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut open = files.filter_map(|file| fs::read_link(file.path()).ok());
            if open.any(|path| path.starts_with(batch.source("").parent().unwrap())) {
                killed = kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
                break;
            }
        }
        killed
    });
    let first = ended(child);
    // It may have been done with its image by then.
    let failed = first.errors.lines().count();
    assert!(failed <= 1 && first.code == failed as i32, "{first:?}");
    if failed == 1 {
        assert!(
            first.errors.ends_with(".png: its decoder was killed by signal 9 (SIGKILL)\n"),
            "{first:?}"
        );
    }
    let counts = format!("{} thumbnails made, {failed} failed, 0 were there", images - failed);
    assert!(first.output.starts_with(&counts), "{first:?}");
    let second = batch.run(&[]);
    let counts = format!("{failed} thumbnails made, 0 failed, {} were there", images - failed);
    assert!(second.output.starts_with(&counts), "{second:?}");
    batch.assert_whole();
}

#[test]
fn an_image_that_may_not_be_read_is_one_that_failed() {
    // SAFETY: takes nothing and touches no memory of ours.
    let is_root = unsafe { nix::libc::geteuid() } == 0;
    let batch = Batch::new();
    picture(&batch.source("a.png"), 30, 20);
    picture(&batch.source("b.png"), 30, 20);
    fs::set_permissions(batch.source("a.png"), fs::Permissions::from_mode(0o000)).unwrap();
    let ended = batch.run(&[]);
    // Root's workers have no privileges left, but it owns the image; the owner
    // is asked for the mode as anybody.
    assert_eq!(ended.code, 1, "root: {is_root}: {ended:?}");
    assert!(ended.errors.contains("batch: a.png: Permission denied"), "{ended:?}");
}

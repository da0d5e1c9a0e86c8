//! The program as its users run it: with images that are fine and that are not,
//! stopped midway, killed, in a terminal.

mod interrupted;
mod support;
mod unhealthy_images;

use std::fs;

use crate::support::{Batch, picture};

#[test]
fn each_image_has_its_thumbnail_and_is_not_made_twice() {
    let batch = Batch::new();
    for (name, width, height) in [("a.png", 640, 320), ("b.JPG", 100, 200), ("c/d/e.bmp", 9, 9)] {
        picture(&batch.source(name), width, height);
    }
    fs::write(batch.source("notes.txt"), "no image").unwrap();
    std::os::unix::fs::symlink("a.png", batch.source("link.png")).unwrap();
    let first = batch.run(&["--size", "64"]);
    assert_eq!((first.code, first.errors.as_str()), (0, ""), "no bar without a terminal");
    assert!(
        first.output.starts_with("3 thumbnails made, 0 failed, 0 were there, in "),
        "{first:?}"
    );
    let size = |name| image::image_dimensions(batch.target(name)).unwrap();
    assert_eq!(size("a.png.png"), (64, 32));
    assert_eq!(size("b.JPG.png"), (32, 64));
    // No larger than it was would do, but the library makes them all the same.
    assert!(batch.target("c/d/e.bmp.png").exists() && !batch.target("link.png.png").exists());

    let made = batch.times();
    picture(&batch.source("new.png"), 10, 10);
    let second = batch.run(&["--size", "64"]);
    assert!(second.output.starts_with("1 thumbnails made, 0 failed, 3 were there"), "{second:?}");
    assert!(made.iter().all(|it| batch.times().contains(it)), "none was touched");

    let other = batch.run(&["--size", "32"]);
    assert_eq!(other.code, 2);
    assert!(other.errors.contains("it is of thumbnails of 64 pixels: remove it"), "{other:?}");
}

#[test]
fn wrong_arguments_are_explained() {
    let batch = Batch::new();
    for wrong in [&["--jobs", "0"][..], &["--on-error", "cry"], &["--size", "0"]] {
        let ended = batch.run(wrong);
        assert!(ended.code == 2 && ended.errors.contains(wrong[0]), "{ended:?}");
    }
    fs::remove_dir_all(batch.source("")).unwrap();
    let ended = batch.run(&[]);
    assert!(ended.code == 2 && ended.errors.contains("No such file"), "{ended:?}");
}

//! The resume file: a line for each image that has its thumbnail, in the order in
//! which they were made. What failed is not in it, and tried again.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::thumbnail_of;

#[derive(Debug)]
pub(crate) struct Done {
    file: File,
    images: HashSet<String>,
}

impl Done {
    /// Opens the file, or begins it.
    pub(crate) fn open(path: &Path, size: u32) -> Result<Self, String> {
        Self::read(path, size).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn read(path: &Path, size: u32) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        // Two at a time would make each other's images.
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(io::Error::other("another run has it open"));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let first = format!("thumbnails of {size} pixels");
        match text.lines().next() {
            None => writeln!(file, "{first}")?,
            Some(line) if line == first => {}
            Some(line) if line.starts_with("thumbnails of ") => {
                return Err(io::Error::other(format!(
                    "it is of {line}: remove it to make all of them anew"
                )));
            }
            Some(_) => return Err(io::Error::other("this is not a resume file")),
        }
        // The last line may have been cut short with its program.
        if !text.is_empty() && !text.ends_with('\n') {
            file.seek(SeekFrom::End(0))?;
            writeln!(file)?;
        }
        Ok(Done { file, images: text.lines().skip(1).map(str::to_owned).collect() })
    }

    /// Whether the image has its thumbnail, and nobody has removed that.
    pub(crate) fn has(&self, image: &Path, target: &Path) -> bool {
        self.images.contains(&line(image)) && thumbnail_of(target, image).exists()
    }

    /// Writes down that it has.
    pub(crate) fn note(&mut self, image: &Path) -> Result<(), String> {
        // In one write: it is there whole, or cut short.
        let noted = self.file.write_all(format!("{}\n", line(image)).as_bytes());
        noted.map_err(|error| format!("the resume file: {error}"))
    }
}

/// A name can have any bytes in it but none that would end a line.
fn line(image: &Path) -> String {
    image.as_os_str().as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn what_was_noted_is_done_whatever_its_name() {
        use std::os::unix::ffi::OsStringExt;
        let folder = folder();
        let path = folder.path().join("resume");
        let names = ["a.png", "new\nline.png", "b\\n.png", "ü.png"].map(PathBuf::from);
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"\xff.png".to_vec()));
        let mut done = Done::open(&path, 256).unwrap();
        for name in names.iter().chain([&odd]) {
            assert!(!done.has(name, folder.path()));
            done.note(name).unwrap();
            std::fs::write(thumbnail_of(folder.path(), name), "").unwrap();
        }
        drop(done);
        let done = Done::open(&path, 256).unwrap();
        assert!(names.iter().chain([&odd]).all(|name| done.has(name, folder.path())));
        assert!(!done.has(Path::new("b\n.png"), folder.path()));
        std::fs::remove_file(thumbnail_of(folder.path(), &odd)).unwrap();
        assert!(!done.has(&odd, folder.path()), "it has to be there, too");
    }

    #[test]
    fn a_line_that_was_cut_short_spoils_no_other() {
        let folder = folder();
        let path = folder.path().join("resume");
        std::fs::write(&path, "thumbnails of 256 pixels\na.png\nb.pn").unwrap();
        let mut done = Done::open(&path, 256).unwrap();
        done.note(Path::new("c.png")).unwrap();
        for name in ["a.png", "b.png", "c.png"] {
            std::fs::write(thumbnail_of(folder.path(), Path::new(name)), "").unwrap();
        }
        drop(done);
        let done = Done::open(&path, 256).unwrap();
        let has = |name| done.has(Path::new(name), folder.path());
        assert!(has("a.png") && !has("b.png") && has("c.png"));
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("resume");
        std::fs::write(&path, "thumbnails of 128 pixels\n").unwrap();
        assert!(Done::open(&path, 256).unwrap_err().contains("of 128 pixels"));
        std::fs::write(&path, "dear diary\n").unwrap();
        assert!(Done::open(&path, 256).unwrap_err().contains("not a resume file"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary\n");
        std::fs::write(&path, "").unwrap();
        let _done = Done::open(&path, 256).unwrap();
        assert!(Done::open(&path, 256).unwrap_err().contains("another run"));
    }
}

//! What a worker does: one image, one thumbnail.

use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::{fs, io};

use image::{ImageFormat, ImageReader, Limits};
use serde::{Deserialize, Serialize};

/// One image, and what is to be made of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) image: PathBuf,
    pub(crate) thumbnail: PathBuf,
    pub(crate) size: u32,
}

/// Makes the thumbnail. It appears whole or not at all: this process may be ended
/// at any moment.
pub(crate) fn thumbnail(job: Job) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let mut reader = ImageReader::open(&job.image)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|error| failed(&error))?;
    // The pool has the limit, which is on what is taken and not on what is asked.
    reader.limits(Limits::no_limits());
    let image = reader.decode().map_err(|error| failed(&error))?;
    let small = image.thumbnail(job.size, job.size).into_rgba8();
    let write = || {
        if let Some(folder) = job.thumbnail.parent() {
            fs::create_dir_all(folder)?;
        }
        let part = partial(&job.thumbnail);
        let mut file = BufWriter::new(fs::File::create(&part)?);
        small.write_to(&mut file, ImageFormat::Png).map_err(io::Error::other)?;
        file.into_inner()?;
        fs::rename(part, &job.thumbnail)
    };
    write().map_err(|error| failed(&error))
}

/// Where a thumbnail is written until it is whole.
pub(crate) fn partial(thumbnail: &Path) -> PathBuf {
    let mut path = thumbnail.as_os_str().to_owned();
    path.push(".part");
    path.into()
}

//! What runs in workers. Plain functions: nothing here knows of pools or HTTP.

use std::io::Cursor;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use bytes::Bytes;
use image::{ImageFormat, ImageReader};

/// Hashes a password with argon2id and a salt of its own.
pub fn hash(password: String) -> Result<String, String> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// Decodes a PNG or a JPEG and scales it down to fit into a square of `size`
/// pixels. Gives a PNG, or what is wrong with the image.
///
/// How much memory that takes is for the image to say: a file of kilobytes can
/// unfold to gigabytes. The limit is the kernel's, on the whole worker, instead
/// of the decoder's own, which counts only what it knows of.
pub fn thumbnail(image: Bytes, size: u32) -> Result<Bytes, String> {
    let mut reader = ImageReader::new(Cursor::new(image));
    reader.no_limits();
    let reader = reader.with_guessed_format().map_err(|error| error.to_string())?;
    let image = reader.decode().map_err(|error| error.to_string())?;
    let mut png = Vec::new();
    image
        .thumbnail(size, size)
        .write_to(&mut Cursor::new(&mut png), ImageFormat::Png)
        .map_err(|error| error.to_string())?;
    Ok(png.into())
}

/// The worst that a task can do.
pub fn crash() {
    eprintln!("crashing, as I was told to");
    std::process::abort()
}

/// The primes up to `limit`, one after the other. By trial division, which takes
/// a while: that is what it is here for.
pub fn primes(limit: u64) -> impl Iterator<Item = u64> {
    (2..=limit).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_primes() {
        assert_eq!(primes(20).collect::<Vec<_>>(), [2, 3, 5, 7, 11, 13, 17, 19]);
        assert_eq!(primes(1).count(), 0);
        assert_eq!(primes(10_000).count(), 1229);
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        assert!(thumbnail(Bytes::from_static(b"GIF89a, or so"), 64).is_err());
    }
}

//! Numbers in postcard's varint form, eight bytes at a time. Used by `encode`
//! and `guard` for what a payload mostly consists of; a number that takes nine
//! or ten bytes is left to postcard.
//!
//! ```text
//!  value     0000000a aaaaaabb bbbbbccc …        seven bits at a time,
//!  varint    1aaaaaaa 1bbbbbbb 0ccccccc          the lowest first; the top bit
//!                                                says that more follow
//! ```

/// Bit that says that more bytes follow, in each byte of a word.
const MORE: u64 = 0x8080_8080_8080_8080;

/// Least number that takes more than eight bytes.
const PACKED_END: u64 = 1 << 56;

/// `value` as a varint, and how many of the bytes it takes. `None` if eight are
/// too few.
#[inline]
pub(super) fn pack(value: u64) -> Option<([u8; 8], usize)> {
    if value >= PACKED_END {
        return None;
    }
    let bits = 64 - (value | 1).leading_zeros();
    let len = bits.div_ceil(7);
    // Halves apart, then quarters, then eighths.
    let x = (value & 0x00ff_ffff_f000_0000) << 4 | (value & 0x0fff_ffff);
    let x = (x & 0x0fff_c000_0fff_c000) << 2 | (x & 0x0000_3fff_0000_3fff);
    let x = (x & 0x3f80_3f80_3f80_3f80) << 1 | (x & 0x007f_007f_007f_007f);
    let all_but_the_last = (1 << (8 * (len - 1))) - 1;
    Some(((x | (MORE & all_but_the_last)).to_le_bytes(), len as usize))
}

/// The number that the varint at the front of `bytes` stands for, and how many
/// of them it takes. `None` if that is not known from eight.
#[inline]
pub(super) fn unpack(bytes: [u8; 8]) -> Option<(u64, usize)> {
    let x = u64::from_le_bytes(bytes);
    let ends = !x & MORE;
    if ends == 0 {
        return None;
    }
    // The lowest bit that is set, and all below it, are the varint's.
    let x = x & (ends ^ (ends - 1)) & !MORE;
    let x = (x & 0x7f00_7f00_7f00_7f00) >> 1 | (x & 0x007f_007f_007f_007f);
    let x = (x & 0x3fff_0000_3fff_0000) >> 2 | (x & 0x0000_3fff_0000_3fff);
    let x = (x & 0x0fff_ffff_0000_0000) >> 4 | (x & 0x0fff_ffff);
    Some((x, ends.trailing_zeros() as usize / 8 + 1))
}

/// Signed numbers, small ones first: 0, -1, 1, -2, …
#[inline]
pub(super) fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agrees(value: u64) {
        let theirs = postcard::to_stdvec(&value).unwrap();
        match pack(value) {
            Some((bytes, len)) => assert_eq!(bytes[..len], theirs, "{value:#x}"),
            None => assert!(theirs.len() > 8, "{value:#x}"),
        }
        let mut front = [0xff; 8];
        for (to, from) in front.iter_mut().zip(&theirs) {
            *to = *from;
        }
        assert_eq!(unpack(front), (theirs.len() <= 8).then_some((value, theirs.len())));
        let signed = value as i64;
        assert_eq!(unzigzag(zigzag(signed)), signed);
        assert_eq!(postcard::to_stdvec(&signed), postcard::to_stdvec(&zigzag(signed)));
    }

    #[test]
    fn every_length_is_postcards() {
        for bit in 0..64 {
            for near in -2..=2 {
                agrees((1_u64 << bit).wrapping_add_signed(near));
            }
        }
    }

    proptest! {
        #[test]
        fn any_number_is_postcards(value in any::<u64>(), shift in 0..64) {
            agrees(value >> shift);
        }

        /// Longer than need be is allowed, and means the same.
        #[test]
        fn arbitrary_bytes_mean_what_postcard_says(bytes in any::<[u8; 8]>()) {
            let theirs = postcard::take_from_bytes::<u64>(&bytes).ok();
            let ours = unpack(bytes).map(|(value, len)| (value, &bytes[len..]));
            prop_assert_eq!(ours, theirs);
        }
    }
}

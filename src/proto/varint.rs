//! Numbers in postcard's varint form, eight bytes at a time. Used by `encode`
//! and `guard` for what a payload mostly consists of.
//!
//! ```text
//!  value     0000000a aaaaaabb bbbbbccc …        seven bits at a time,
//!  varint    1aaaaaaa 1bbbbbbb 0ccccccc          the lowest first; the top bit
//!                                                says that more follow
//! ```

/// Bit that says that more bytes follow, in each byte of a word.
const MORE: u64 = 0x8080_8080_8080_8080;

/// Most bytes that a number takes.
const LONG_BYTES_MAX: usize = 10;

/// Least number that takes more than eight bytes.
const PACKED_END: u64 = 1 << 56;

/// `value` as a varint, and how many of the bytes it takes. `None` if eight are
/// too few.
#[inline]
pub(super) fn pack(value: u64) -> Option<([u8; 8], usize)> {
    if value >= PACKED_END {
        return None;
    }
    let zeros = (value | 1).leading_zeros() as usize;
    // Halves apart, then quarters, then eighths.
    let x = (value & 0x00ff_ffff_f000_0000) << 4 | (value & 0x0fff_ffff);
    let x = (x & 0x0fff_c000_0fff_c000) << 2 | (x & 0x0000_3fff_0000_3fff);
    let x = (x & 0x3f80_3f80_3f80_3f80) << 1 | (x & 0x007f_007f_007f_007f);
    Some(((x | MORES[zeros]).to_le_bytes(), LENS[zeros].into()))
}

/// Bytes of a number that begins with so many zeros.
static LENS: [u8; 64] = {
    let mut lens = [0; 64];
    let mut zeros = 0;
    while zeros < 64 {
        lens[zeros] = (64 - zeros as u8).div_ceil(7);
        zeros += 1;
    }
    lens
};

/// And [`MORE`] in all of them but the last, for numbers of up to eight.
static MORES: [u64; 64] = {
    let mut mores = [0; 64];
    let mut zeros = 8;
    while zeros < 64 {
        mores[zeros] = MORE & ((1 << (8 * (LENS[zeros] - 1))) - 1);
        zeros += 1;
    }
    mores
};

/// As [`pack`], for a number that takes more than eight bytes.
#[cold]
pub(super) fn pack_long(value: u64) -> ([u8; LONG_BYTES_MAX], usize) {
    let mut bytes = [0; LONG_BYTES_MAX];
    let mut rest = value;
    let mut len = 0;
    loop {
        bytes[len] = rest as u8 | 0x80;
        rest >>= 7;
        len += 1;
        if rest == 0 {
            bytes[len - 1] &= 0x7f;
            return (bytes, len);
        }
    }
}

/// The number that the varint at the front of `bytes` stands for, and how many
/// of them it takes. `None` if that is not known from eight.
///
/// One branch for each byte: numbers that follow each other are mostly of one
/// length, which processors foresee, and so begin with the next number before
/// they know where this one ends.
#[inline]
pub(super) fn unpack(bytes: [u8; 8]) -> Option<(u64, usize)> {
    let x = u64::from_le_bytes(bytes);
    let mut value = 0;
    // Not a loop: what the compiler makes of that takes twice as long.
    macro_rules! bytes {
        ($($len:literal)*) => {$(
            value |= x >> ($len - 1) & 0x7f << (7 * ($len - 1));
            if x & 0x80 << (8 * ($len - 1)) == 0 {
                return Some((value, $len));
            }
        )*};
    }
    bytes!(1 2 3 4 5 6 7 8);
    None
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
            None => {
                let (bytes, len) = pack_long(value);
                assert!(len > 8 && bytes[..len] == theirs, "{value:#x}");
            }
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

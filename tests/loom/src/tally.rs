//! What a worker says of a chunk that it has not answered.

use crate::check;
use crate::slot_word::Phase;
use crate::sys::layout::Layout;

const SEQ: u64 = 1;

fn runs(page: &Layout) {
    page.enqueue(SEQ, 0);
    page.swap(SEQ, Phase::Queued, Phase::Running).unwrap();
}

/// Both agree on where a chunk was cut.
#[test]
fn nothing_is_begun_behind_a_cut() {
    check(
        runs,
        |page| page.cut(SEQ),
        |page| (0..2).take_while(|_| page.claim_item(SEQ)).count() as u32,
        |_, cut, begun| assert!(begun <= cut && (begun == 2 || cut <= begun.max(1))),
    );
}

/// What is looked into is what was put down, and not what is written over it
/// by the next chunk.
#[test]
fn answers_that_are_looked_into_are_whole() {
    check(
        runs,
        |page| page.tallied_so_far(SEQ),
        |page| {
            page.tally(SEQ, 1, 0, &[1; 8]);
            page.tally(SEQ, 2, 8, &[2; 8]);
            page.swap(SEQ, Phase::Running, Phase::Done).unwrap();
            // The next chunk's.
            page.tally(SEQ + 1, 1, 0, &[9; 16]);
        },
        |_, tallied, ()| {
            let Some(tallied) = tallied else { return };
            let expected = [[1; 8], [2; 8]].concat();
            assert_eq!(tallied.answers, expected[..8 * tallied.answered as usize]);
        },
    );
}

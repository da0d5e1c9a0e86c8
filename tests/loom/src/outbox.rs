//! What is fetched from the outbox is what was put there, however far the
//! worker has gone on meanwhile.

use crate::check;
use crate::limits::OUTBOX_BYTES;
use crate::sys::layout::Layout;

const RING: u64 = OUTBOX_BYTES as u64;

/// The byte at a position of the stream: another one in each round of the ring.
fn byte(at: u64) -> u8 {
    at as u8
}

fn stream(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(byte).collect()
}

/// As `worker::outbox`, where everything is sent at once.
fn push(page: &Layout, from: u64, to: u64) {
    page.outbox_write(from, &stream(from, to));
    page.outbox_publish(to);
}

/// What the parent gets is right, or nothing.
fn fetch(page: &Layout, wanted: u64) -> u64 {
    let Some(bytes) = page.outbox_fetch(wanted) else { return wanted };
    let end = wanted + bytes.len() as u64;
    assert_eq!(bytes, stream(wanted, end));
    end
}

#[test]
fn what_is_published_is_there() {
    check(
        |_| {},
        |page| fetch(page, 0),
        |page| {
            push(page, 0, 12);
            push(page, 12, 24);
        },
        |page, fetched, ()| {
            assert!([0, 12, 24].contains(&fetched));
            assert_eq!(fetch(page, fetched), 24);
        },
    );
}

/// The worker comes round to where the parent reads.
#[test]
fn what_is_overwritten_is_refused() {
    const START: u64 = 40;
    check(
        |page| {
            push(page, START - 16, START);
            push(page, START, START + 8);
        },
        |page| {
            fetch(page, START);
        },
        |page| {
            push(page, START + 8, START + 24);
            push(page, START + 24, START + 40);
            // The first word of this lies where the parent's first does.
            push(page, START + RING - 24, START + RING + 8);
        },
        |_, (), ()| {},
    );
}

/// A frame that is too long for the ring goes past it.
#[test]
fn what_never_was_in_the_ring_is_refused() {
    const LONG: u64 = 100;
    check(
        |page| push(page, 0, 16),
        |page| {
            // The rest of it has come through the socket.
            fetch(page, LONG - 10);
            fetch(page, LONG)
        },
        |page| {
            page.outbox_skip(LONG);
            page.outbox_publish(LONG);
            push(page, LONG, LONG + 12);
        },
        |page, fetched, ()| assert_eq!(fetch(page, fetched), LONG + 12),
    );
}

/// What the parent takes from the ring is not sent, and all else is.
#[test]
fn each_byte_goes_one_way() {
    check(
        |page| push(page, 0, 12),
        |page| {
            let end = fetch(page, 0);
            (end, page.outbox_settle(0, end).is_ok())
        },
        |page| {
            push(page, 12, 24);
            match page.outbox_settle(0, 24) {
                Ok(()) => 0,
                Err(taken) => {
                    page.outbox_settle(taken, 24).expect("nobody takes twice");
                    taken
                }
            }
        },
        |page, (end, is_taken), sent_from| {
            assert_eq!(sent_from, if is_taken { end } else { 0 });
            assert_eq!(page.outbox_settled(), 24);
        },
    );
}

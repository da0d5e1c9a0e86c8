//! Pipes for whose messages the kernel has no room.

use futures::FutureExt;
use nix::libc::ETOOMANYREFS;
use procession::{SharedBytes, channel};
use tokio::runtime::Builder;

use crate::interpose::{self, Call, Hits, Plan};
use crate::support::{LIMIT, alone, within};

fn bytes(n: u8) -> SharedBytes {
    SharedBytes::copy_from_slice(&[n; 5000]).unwrap()
}

/// It had to wait in the first, until the kernel would have room.
#[test]
fn a_sender_that_goes_on_in_another_runtime_than_it_waited_in() {
    alone(|| {
        let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
        let (mut to, mut from) = channel::<SharedBytes>().unwrap();
        let first = runtime();
        first.block_on(async {
            interpose::arm(Plan::from_nth(Call::SendMessage, 1, u32::MAX, ETOOMANYREFS));
            assert!(to.send(bytes(1)).now_or_never().is_none());
            interpose::disarm();
            assert!(Hits::now().of(Call::SendMessage) > 0);
        });
        // One that nobody drives, and then one that has ended.
        let second = runtime();
        second.block_on(async {
            within(LIMIT, to.send(bytes(2))).await.unwrap();
            assert_eq!(within(LIMIT, from.recv()).await.unwrap(), Some(bytes(2)));
            interpose::arm(Plan::from_nth(Call::SendMessage, 1, u32::MAX, ETOOMANYREFS));
            assert!(to.send(bytes(3)).now_or_never().is_none());
            interpose::disarm();
        });
        drop(second);
        first.block_on(async {
            within(LIMIT, to.send(bytes(4))).await.unwrap();
            assert_eq!(within(LIMIT, from.recv()).await.unwrap(), Some(bytes(4)));
        });
    });
}

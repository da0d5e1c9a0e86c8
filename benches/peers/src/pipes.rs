//! A number to another process and back, over each one's pipes.

use std::time::{Duration, Instant};

use procession::{Connection, Process, pipe};

use crate::contestant::{Contestant, Values, percentile, time_each};
use crate::ipc_channel::IpcChannel;
use crate::jobs::Sizes;

fn pong(mut end: Connection<u64>) {
    while let Ok(Some(n)) = end.blocking_recv() {
        end.blocking_send(n).expect("somebody reads");
    }
}

fn values(plain: &mut [Duration], awaited: Option<&mut [Duration]>) -> Values {
    let mut values = Values::from([("p50", percentile(plain, 50)), ("p99", percentile(plain, 99))]);
    values.extend(awaited.map(|took| ("awaited", percentile(took, 50))));
    values
}

pub fn procession(sizes: &Sizes) -> Values {
    let (mut ours, theirs) = pipe::<u64>().expect("a pipe");
    let process = Process::spawn(pong, theirs).expect("a process");
    let mut plain = time_each(sizes.round_trips, || {
        ours.blocking_send(7).expect("somebody reads");
        assert_eq!(ours.blocking_recv().expect("somebody answers"), Some(7));
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let times = sizes.round_trips;
    let mut awaited = runtime
        .block_on(runtime.spawn(async move {
            let mut took = Vec::with_capacity(times);
            for _ in 0..times {
                let start = Instant::now();
                ours.send(7).await.expect("somebody reads");
                assert_eq!(ours.recv().await.expect("somebody answers"), Some(7));
                took.push(start.elapsed());
            }
            took
        }))
        .expect("no panic");
    assert!(process.blocking_join().success());
    values(&mut plain, Some(&mut awaited))
}

/// A channel there and another one back.
pub fn ipc_channel(sizes: &Sizes) -> Values {
    values(&mut IpcChannel::start(1).round_trips(sizes.round_trips), None)
}

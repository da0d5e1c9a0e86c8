//! Something that a single process takes cannot be had, at any step of its start: it is
//! an error, nothing is left of it, and the program's end waits for nobody.

use std::thread;

use nix::libc::*;
use procession::{Pool, Process, Stdio};

use crate::interpose::{Call, Hits, Plan, arm, disarm};
use crate::scenario::checked_with;

const NEEDS: &[(Call, i32)] = &[
    (Call::Memfd, EMFILE),
    (Call::Truncate, ENOMEM),
    (Call::Seal, ENOMEM),
    (Call::MapPage, ENOMEM),
    (Call::Socketpair, EMFILE),
    (Call::SendMessage, ENOBUFS),
    (Call::Nonblock, EIO),
    (Call::Pipe, EMFILE),
    (Call::Duplicate, EMFILE),
    (Call::Spawn, EAGAIN),
    (Call::PidfdOpen, EMFILE),
    (Call::WatchDeath, ENOSPC),
];

/// What became of a start.
const STARTED: i32 = 1;
const FAILED: i32 = 2;
const NOT_MET: i32 = 3;

fn starts_one_and_exits(need: usize, nth: u32) {
    let (call, errno) = NEEDS[need];
    let builder = || Process::builder().daemon(false).stderr(Stdio::piped());
    builder().spawn(|| (), ()).unwrap().blocking_join();
    arm(Plan::nth(call, nth, errno));
    let started = builder().spawn(thread::park, ());
    let is_met = Hits::now().total() > 0;
    disarm();
    std::process::exit(match started {
        Ok(process) => {
            process.kill();
            if is_met { STARTED } else { NOT_MET }
        }
        // Its end is waited for, if it had begun.
        Err(_) => FAILED,
    });
}

#[test]
fn nobody_waits_for_one_that_is_no_daemon_for_longer_than_it_lives() {
    checked_with(None, async {
        let pool = Pool::builder().workers(1).build().unwrap();
        for (need, (call, _)) in NEEDS.iter().enumerate() {
            let mut failed = 0;
            for nth in 1.. {
                let ended = pool.apply(starts_one_and_exits, (need, nth)).await.unwrap_err();
                match ended.exit().and_then(|exit| exit.code()) {
                    Some(FAILED) => failed += 1,
                    // There is another way.
                    Some(STARTED) => {}
                    Some(NOT_MET) => break,
                    _ => panic!("{ended} at the {nth}th {call:?}"),
                }
            }
            assert!(failed > 0, "{call:?}");
        }
        pool.terminate().await;
    });
}

//! Workers that have their parent look out for an answer in the status page, and
//! then put something else there, or the same twice.

use std::time::{Duration, Instant};

use procession::TaskError;

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Script};
use crate::support::{LIMIT, checked};
use crate::trial::assert_protocol;
use crate::wire::{self, done_after, ready};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[("watched", |actor, how| {
    actor.greet();
    let mut filled = (actor.hello().len() + ready().len()) as u64;
    // On a processor that nobody has.
    actor.page.write(wire::AWAKE_AT, &u32::MAX.to_le_bytes());
    for _ in 0..HONEST {
        let task = actor.take();
        let answer = done_after(task.seq, 1, 1, &task.body[20..]);
        actor.start(task.seq);
        actor.finish(task.seq);
        let end = filled + answer.len() as u64;
        actor.page.write(wire::SETTLED_AT, &end.to_le_bytes());
        publish(actor, filled, &answer);
        actor.send(&answer);
        filled = end;
    }

    let last = actor.take();
    actor.start(last.seq);
    let answer = done_after(last.seq, 1, 1, &last.body[20..]);
    match how {
        "silent" => {}
        "endless" => {
            actor.finish(last.seq);
            actor.page.write(wire::FILLED_AT, &u64::MAX.to_le_bytes());
            actor.send(&answer);
        }
        "garbage" => {
            publish(actor, filled, &[0xff; 100]);
            wait_until_taken(actor, filled);
            actor.send(&[0xff; 100]);
        }
        "not over" => {
            publish(actor, filled, &answer);
            wait_until_taken(actor, filled);
            actor.send(&answer);
        }
        "twice" => {
            actor.finish(last.seq);
            publish(actor, filled, &answer);
            wait_until_taken(actor, filled);
            actor.send(&answer);
        }
        "sent" => {
            actor.finish(last.seq);
            let end = filled + answer.len() as u64;
            actor.page.write(wire::SETTLED_AT, &end.to_le_bytes());
            publish(actor, filled, &answer);
            actor.send(&answer);
        }
        _ => panic!("no such {how}"),
    }
    loop {
        let task = actor.take();
        actor.start(task.seq);
        actor.finish(task.seq);
        actor.send(&done_after(task.seq, 1, 1, &task.body[20..]));
    }
})];

/// Calls after which a parent looks out, as it sees that they come one by one.
const HONEST: u32 = 30;

fn publish(actor: &Actor, at: u64, bytes: &[u8]) {
    let at = at % wire::RING_BYTES;
    actor.page.write(wire::RING_AT + at, bytes);
    actor.page.write(wire::FILLED_AT, &(at + bytes.len() as u64).to_le_bytes());
}

/// Where the parent has no processor to spare it does not look out.
fn wait_until_taken(actor: &Actor, filled: u64) {
    let began = Instant::now();
    while actor.page.u64_at(wire::SETTLED_AT) == filled && began.elapsed().as_millis() < 100 {
        std::thread::yield_now();
    }
}

/// What becomes of the first call that is not served honestly. Those before it have
/// their answers, and the one after it has one of its own, or the liar's end.
async fn looked_out_for(how: &str, limit: Duration) -> Result<u32, TaskError> {
    let cast = Cast::new(&format!("watched:{how}"), 1);
    let pool = cast.builder().workers(1).build().unwrap();
    pool.ready().await.unwrap();
    for n in 0..HONEST {
        assert_eq!(pool.apply(echo, n).await.unwrap(), n);
    }
    let ended = pool.apply(echo, 100).timeout(limit).await;
    match pool.apply(echo, 101).await {
        Ok(n) => assert_eq!(n, 101, "{how}"),
        Err(error) => assert_protocol(&error, "the worker answered task 31 where 32 was due"),
    }
    pool.terminate().await;
    ended
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for() {
    checked(async {
        let ended = looked_out_for("silent", Duration::from_millis(200)).await;
        assert!(matches!(ended, Err(TaskError::TimedOut { .. })), "{ended:?}");
    });
}

#[test]
fn a_ring_that_is_said_to_be_endless_is_not_read() {
    checked(async { assert_eq!(looked_out_for("endless", LIMIT).await.unwrap(), 100) });
}

#[test]
fn nonsense_in_the_page_is_taken_for_that() {
    checked(async {
        assert_protocol(&looked_out_for("garbage", LIMIT).await.unwrap_err(), "");
    });
}

#[test]
fn an_answer_to_what_still_runs_is_none() {
    checked(async {
        let error = looked_out_for("not over", LIMIT).await.unwrap_err();
        assert_protocol(&error, "the worker's status page is damaged");
    });
}

#[test]
fn an_answer_that_comes_both_ways_is_one() {
    checked(async {
        assert_eq!(looked_out_for("twice", LIMIT).await.unwrap(), 100);
        assert_eq!(looked_out_for("sent", LIMIT).await.unwrap(), 100);
    });
}

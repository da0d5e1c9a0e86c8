//! Workers that do not say hello as they should. Nobody has given them a task
//! yet, so nobody's task fails: they are replaced, and if there is no other
//! worker, the pool is broken and says why.

use std::net::Shutdown;
use std::time::Duration;

use futures::future::join_all;
use nix::libc;
use procession::{Exit, TaskError};

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Script};
use crate::support::{checked, is_alive};
use crate::wire::{self, frame, frame_of_length, hello, ready};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("greeting", |actor, how| {
        actor.hear_setup();
        let bytes = greeting(actor, how);
        actor.send(&bytes);
    }),
    ("greeting-without-reading", |actor, _| {
        actor.send(&ready());
    }),
    ("greeting-leaves", |actor, after| {
        let bytes = cut(actor, after);
        actor.send(&bytes);
        std::process::exit(7);
    }),
    ("greeting-stops", |actor, after| {
        let bytes = cut(actor, after);
        actor.send(&bytes);
        // SAFETY: stops this process, and does nothing else.
        unsafe { libc::raise(libc::SIGSTOP) };
    }),
    ("greeting-sleeps", |actor, after| {
        let bytes = cut(actor, after);
        actor.send(&bytes);
    }),
    ("greeting-closes", |actor, which| {
        let which = match which {
            "read" => Shutdown::Read,
            "write" => Shutdown::Write,
            _ => Shutdown::Both,
        };
        actor.socket.shutdown(which).unwrap();
    }),
];

/// Steps on the way to being ready, and half ones.
fn cut(actor: &mut Actor, after: &str) -> Vec<u8> {
    actor.hear_setup();
    let hello = actor.hello();
    match after {
        "nothing" => Vec::new(),
        "a byte" => hello[..1].to_vec(),
        "a header" => hello[..wire::HEADER].to_vec(),
        "a hello" => hello,
        "half a ready" => [&hello[..], &ready()[..9]].concat(),
        _ => unreachable!("no step {after}"),
    }
}

const STEPS: [&str; 5] = ["nothing", "a byte", "a header", "a hello", "half a ready"];

/// What is said instead of hello and ready.
fn greeting(actor: &Actor, how: &str) -> Vec<u8> {
    let pid = std::process::id() as i32;
    let fingerprint = actor.fingerprint;
    let honest = actor.hello();
    match how {
        "version" => hello(77, fingerprint, pid),
        "fingerprint" => hello(wire::VERSION, fingerprint ^ 1, pid),
        "pid" => hello(wire::VERSION, fingerprint, pid + 1),
        "negative pid" => hello(wire::VERSION, fingerprint, i32::MIN),
        "garbage first" => [&[0xee; 64], &honest[..]].concat(),
        "text first" => [b"Hello, world! This is no frame.\n", &honest[..]].concat(),
        "ready first" => ready(),
        "answer first" => wire::done(1, 1, &[]),
        "answer before ready" => [honest, wire::done(1, 1, &[])].concat(),
        "hello twice" => [&honest[..], &honest].concat(),
        "hello again when ready" => [honest.clone(), ready(), honest].concat(),
        "ready twice" => [honest, ready(), ready()].concat(),
        "goodbye" => [honest, frame(wire::BYE, 0, 0, &[])].concat(),
        "empty hello" => frame(wire::HELLO, 0, 0, &[]),
        "long hello" => {
            let mut bytes = honest;
            bytes[0] += 1;
            bytes.push(0);
            bytes
        }
        "giant hello" => frame_of_length(u32::MAX, wire::HELLO, 0, 0, &[]),
        "large hello" => frame_of_length(1 << 20, wire::HELLO, 0, 0, &[0; 1 << 16]),
        "giant ready" => {
            [honest, frame_of_length(u32::MAX, wire::READY, 0, 0, &[0; 1 << 16])].concat()
        }
        "flags" => frame(wire::HELLO, 0xfe, 0, &honest[wire::HEADER..]),
        "malformed failure" => [honest, frame(wire::INIT_FAILED, 0, 0, &[0xff; 40])].concat(),
        "failure, then ready" => {
            let failure = [&[wire::SETTING][..], &wire::text(b"no")].concat();
            [honest, frame(wire::INIT_FAILED, 0, 0, &failure), ready()].concat()
        }
        _ => unreachable!("no greeting {how}"),
    }
}

/// How long a worker may take to get ready: where that is what it is stopped
/// for, and where it is not.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

/// All workers follow the script, so the pool breaks; the sentence says why.
async fn broken(script: &str, patience: Duration) -> String {
    let cast = Cast::new(script, 50);
    let pool = cast.builder().workers(1).restart_limit(1).start_timeout(patience).build().unwrap();
    let error = pool.apply(echo, 1).await.unwrap_err();
    assert_eq!(error.started(), Some(false), "{script}");
    let TaskError::Broken(why) = error else { panic!("{script}: {error:?}") };
    assert_eq!(pool.ready().await.unwrap_err().to_string(), why.to_string());
    pool.terminate().await;
    for villain in cast.villains() {
        assert!(!is_alive(villain as i32), "{script}");
    }
    why.to_string()
}

/// One worker follows the script beside an honest one. Both there are in the
/// end are honest, and every call is answered.
async fn replaced(script: &str) {
    let cast = Cast::new(script, 1);
    // Long enough for an honest worker on a busy machine.
    let pool = cast.builder().workers(2).start_timeout(Duration::from_secs(3)).build().unwrap();
    let villain = cast.villain().await;
    let calls = (0..20).map(|n| pool.apply(echo, n));
    for (n, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), n as u32, "{script}");
    }
    crate::support::until(script, || {
        let workers = pool.workers();
        workers.len() == 2
            && workers.iter().all(|worker| {
                worker.state == procession::WorkerState::Idle && worker.pid != Some(villain)
            })
    })
    .await;
    assert!(!is_alive(villain as i32), "{script}");
    assert_eq!(pool.stats().workers_started, 3, "{script}");
    pool.terminate().await;
}

#[test]
fn a_hello_that_is_none() {
    let cases = [
        ("version", "the worker speaks protocol version 77, not "),
        ("fingerprint", "the worker knows other tasks: it is not this executable"),
        ("pid", "the worker says that its pid is "),
        ("negative pid", "the worker says that its pid is -2147483648"),
        ("garbage first", "the worker sent a frame of unknown kind 238"),
        ("text first", "the worker sent a frame of unknown kind 111"),
        ("ready first", "the worker sent ready before its hello"),
        ("answer first", "the worker sent done before its hello"),
        ("answer before ready", "the worker sent done before it was ready"),
        ("hello twice", "the worker sent hello before it was ready"),
        ("goodbye", "the worker sent Bye, which only a parent may"),
        ("empty hello", "the worker sent a malformed message (report)"),
        ("long hello", "the worker sent a malformed message (report)"),
        (
            "giant hello",
            "the worker's bytes are not a frame: frame of 4294967295 bytes is over the limit of 65536",
        ),
        (
            "large hello",
            "the worker's bytes are not a frame: frame of 1048576 bytes is over the limit of 65536",
        ),
        (
            "giant ready",
            "the worker's bytes are not a frame: frame of 4294967295 bytes is over the limit of 65536",
        ),
        ("flags", "the worker sent a malformed message (flags)"),
        ("malformed failure", "the worker sent a malformed message (report)"),
    ];
    checked(async {
        let peak = crate::trial::Peak::new();
        for (how, sentence) in cases {
            let script = format!("greeting:{how}");
            let told = broken(&script, LONG).await;
            assert!(told.starts_with(sentence), "{how}: {told}");
            replaced(&script).await;
        }
        peak.assert_below(64 << 20);
    });
}

#[test]
fn a_second_hello_or_ready_after_the_first() {
    checked(async {
        for how in ["hello again when ready", "ready twice"] {
            replaced(&format!("greeting:{how}")).await;
        }
    });
}

/// The failure counts, whatever is said after it.
#[test]
fn ready_after_having_failed() {
    checked(async {
        let told = broken("greeting:failure, then ready", LONG).await;
        // Both may be what is known last.
        let failure = "a worker could not start: no";
        let violation = "the worker sent ready after it had failed to start";
        assert!(told == failure || told == violation, "{told}");
        replaced("greeting:failure, then ready").await;
    });
}

#[test]
fn ready_without_having_listened() {
    checked(async {
        let told = broken("greeting-without-reading", LONG).await;
        assert_eq!(told, "the worker sent ready before its hello");
        replaced("greeting-without-reading").await;
    });
}

#[test]
fn an_end_at_each_step_of_the_greeting() {
    checked(async {
        for step in STEPS {
            let script = format!("greeting-leaves:{step}");
            let exit = Exit::from_code(7);
            let hint = match step {
                "a hello" | "half a ready" => "",
                _ => "; is `procession::init()` the first line of main?",
            };
            assert_eq!(
                broken(&script, LONG).await,
                format!("a worker {exit} before it was ready{hint}")
            );
            replaced(&script).await;
        }
    });
}

/// Whoever says nothing, or stops in the middle, is killed when its time is up.
#[test]
fn silence_at_each_step_of_the_greeting() {
    checked(async {
        let kinds = ["greeting-stops", "greeting-sleeps"];
        let scripts =
            kinds.iter().flat_map(|kind| STEPS.map(|step| (step, format!("{kind}:{step}"))));
        let scripts: Vec<_> = scripts.collect();
        join_all(scripts.iter().map(|(step, script)| async move {
            let hint = match *step {
                "a hello" | "half a ready" => "",
                _ => "; is `procession::init()` the first line of main?",
            };
            let told = broken(script, SHORT).await;
            assert_eq!(told, format!("a worker was not ready after 300ms{hint}"), "{script}");
        }))
        .await;
        join_all(scripts.iter().map(|(_, script)| replaced(script))).await;
    });
}

#[test]
fn a_socket_that_is_closed_before_the_hello() {
    checked(async {
        join_all(["read", "write", "both"].map(|which| async move {
            let script = format!("greeting-closes:{which}");
            let told = broken(&script, SHORT).await;
            let silent = "a worker was not ready after 300ms; is `procession::init()` the first \
                          line of main?";
            assert_eq!(told, silent, "{which}");
            replaced(&script).await;
        }))
        .await;
    });
}

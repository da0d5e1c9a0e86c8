//! Workers that turn on their parent. Either a task gets hold of its worker's
//! socket and status page and does what an attacker would, or the whole worker
//! is one ([`scripted`]). Whatever it is, its own call ends in an error that
//! says so, the worker is killed and replaced, and nobody else notices.

mod answers;
mod attached;
mod attack;
mod conversations;
mod decoding;
mod descriptors;
mod failures;
mod from_inside_a_task;
mod grandchildren;
mod greeting;
mod lies;
mod passed;
mod scribbles;
mod scripted;
mod slow_but_honest;
mod streams;
mod traces;
mod trial;
mod unread;
mod watched;
mod wire;

#[path = "../support/mod.rs"]
mod support;

/// Everything that a scripted worker can be told to play.
const SCRIPTS: &[&[(&str, scripted::Script)]] = &[
    answers::SCRIPTS,
    attached::SCRIPTS,
    conversations::SCRIPTS,
    decoding::SCRIPTS,
    descriptors::SCRIPTS,
    failures::SCRIPTS,
    greeting::SCRIPTS,
    lies::SCRIPTS,
    passed::SCRIPTS,
    scribbles::SCRIPTS,
    slow_but_honest::SCRIPTS,
    streams::SCRIPTS,
    traces::SCRIPTS,
    unread::SCRIPTS,
    watched::SCRIPTS,
];

/// What `procession::test_worker!` writes, but that a worker may have a script.
#[test]
fn procession_test_worker() {
    struct Here;
    impl procession::__private::TestMain for Here {
        const NAME: &'static str = concat!(module_path!(), "::procession_test_worker");
    }
    scripted::play_if_told();
    procession::__private::enter_test_worker::<Here>();
}

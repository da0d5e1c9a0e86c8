//! Who is who: names, pids, parents, children.

use std::time::Duration;

use procession::process::{
    active_children, current, force_start_method, fork_server, parent, set_start_method,
    start_method,
};
use procession::{Pool, Process, Producer, Queue, StartMethod};
use serde::{Deserialize, Serialize};

use crate::checked;
use crate::frame::METHOD;
use crate::support::{Scratch, noted};
use crate::tasks::forever;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Me {
    name: String,
    pid: u32,
    parent_pid: u32,
    is_main: bool,
    parent: Option<(String, u32, bool)>,
    children: usize,
}

fn me() -> Me {
    let this = current();
    Me {
        name: this.name().into(),
        pid: this.pid(),
        parent_pid: this.parent_pid(),
        is_main: this.is_main(),
        parent: parent().map(|it| (it.name().into(), it.pid(), it.is_alive())),
        children: active_children().len(),
    }
}

#[test]
fn the_main_process_has_no_parent() {
    checked(async {
        let me = me();
        assert_eq!((&me.name[..], me.is_main), ("MainProcess", true));
        assert_eq!(me.pid, std::process::id());
        assert_eq!(me.parent_pid, std::os::unix::process::parent_id());
        assert_eq!(me.parent, None);
    });
}

#[test]
fn a_child_knows_itself_and_its_parent() {
    checked(async {
        let ours = std::process::id();
        let process = Process::builder().name("reader").spawn(me, ()).unwrap();
        let (pid, name) = (process.pid(), process.name().to_owned());
        assert_eq!(name, "reader");
        let parent = Some(("MainProcess".into(), ours, true));
        let expected = Me { name, pid, parent_pid: ours, is_main: false, parent, children: 0 };
        assert_eq!(process.await.unwrap(), expected);
    });
}

/// In a process of its own nobody else takes numbers.
#[test]
fn names_are_numbered_as_pythons_are() {
    async fn names() -> (String, Vec<String>) {
        let mut names = Vec::new();
        let mut note = |process: Process<Me>| {
            names.push(process.name().to_owned());
            process
        };
        let first = note(Process::spawn(me, ()).unwrap());
        let named = note(Process::builder().name("x").spawn(me, ()).unwrap());
        let third = note(Process::spawn(me, ()).unwrap());
        assert_eq!(third.await.unwrap().name, names[2]);
        assert_eq!(named.await.unwrap().name, "x");
        let parent = current().name().to_owned();
        assert_eq!(first.await.unwrap().parent.unwrap().0, parent);
        // Workers of pools share the numbers.
        let pool = Pool::builder().workers(2).name("thumbs").build().unwrap();
        pool.ready().await.unwrap();
        let worker = pool.apply(me, ()).await.unwrap();
        assert!(["thumbs/0", "thumbs/1"].contains(&&worker.name[..]), "{worker:?}");
        assert_eq!(worker.parent.unwrap().0, parent);
        names.push(Process::spawn(me, ()).unwrap().await.unwrap().name);
        // A child of the process with a name of its own, which was the second.
        let nested = || Process::spawn(me, ()).unwrap().name().to_owned();
        names.push(Process::builder().name("y").spawn(nested, ()).unwrap().await.unwrap());
        (parent, names)
    }
    checked(async {
        let process = Process::spawn(names, ()).unwrap();
        let outer = process.name().to_owned();
        let (parent, names) = process.await.unwrap();
        assert_eq!(parent, outer);
        assert!(outer.strip_prefix("Process-").unwrap().parse::<u32>().is_ok(), "{outer}");
        let numbered = |path: &str| format!("{outer}:{path}");
        let expected = [numbered("1"), "x".into(), numbered("3"), numbered("6"), numbered("7:1")];
        assert_eq!(names, expected);
    });
}

#[test]
fn an_explicit_name_uses_up_a_number() {
    checked(async {
        let number = |process: &Process<()>| {
            process.name().strip_prefix("Process-").unwrap().parse::<u32>().unwrap()
        };
        let first = Process::spawn(|| (), ()).unwrap();
        let named = Process::builder().name("x").spawn(|| (), ()).unwrap();
        let third = Process::spawn(|| (), ()).unwrap();
        assert_eq!(number(&third), number(&first) + 2);
        for process in [first, named, third] {
            process.await.unwrap();
        }
    });
}

#[test]
fn active_children_are_those_that_live() {
    let others = |pid: u32| active_children().iter().filter(|it| it.pid() == pid).count();
    checked(async move {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let process = Process::builder().name("alive").spawn(forever, started.clone()).unwrap();
        noted(&started).await;
        let pid = process.pid();
        let found = active_children().into_iter().find(|child| child.pid() == pid).unwrap();
        assert_eq!(found.name(), "alive");
        process.terminate();
        process.join().await;
        assert_eq!(others(pid), 0);

        let pool = Pool::builder().workers(2).name("thumbs").build().unwrap();
        pool.ready().await.unwrap();
        let mut names: Vec<_> = active_children().iter().map(|it| it.name().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["thumbs/0", "thumbs/1"]);
        pool.terminate().await;
        assert_eq!(active_children(), []);
    });
}

/// The list does not lag behind what a sentinel says.
#[test]
fn one_that_has_ended_is_no_active_child() {
    checked(async {
        for _ in 0..50 {
            let process = Process::spawn(|| (), ()).unwrap();
            let pid = process.pid();
            while process.is_alive() {
                std::hint::spin_loop();
            }
            assert!(active_children().iter().all(|child| child.pid() != pid));
            process.await.unwrap();
        }
    });
}

#[test]
fn processes_nest() {
    async fn tree(levels: u32) -> Vec<String> {
        let mut names = vec![current().name().to_owned()];
        if levels > 0 {
            for _ in 0..2 {
                let process = Process::spawn(tree, levels - 1).unwrap();
                names.extend(Box::pin(process).await.unwrap());
            }
        }
        names
    }
    checked(async {
        let process = Process::spawn(tree, 2).unwrap();
        let root = process.name().to_owned();
        let names = process.await.unwrap();
        let expected =
            ["", ":1", ":1:1", ":1:2", ":2", ":2:1", ":2:2"].map(|path| format!("{root}{path}"));
        assert_eq!(names, expected);
    });
}

#[test]
fn pools_and_processes_are_each_others_children() {
    async fn pool_within() -> Vec<u64> {
        let pool = Pool::builder().workers(2).build().unwrap();
        pool.map(crate::tasks::square, 0..4).await.unwrap()
    }
    async fn process_within() -> u64 {
        Process::spawn(crate::tasks::square, 5).unwrap().await.unwrap()
    }
    checked(async {
        assert_eq!(Process::spawn(pool_within, ()).unwrap().await.unwrap(), [0, 1, 4, 9]);
        let pool = Pool::builder().workers(1).build().unwrap();
        assert_eq!(pool.apply(process_within, ()).await.unwrap(), 25);
    });
}

/// Only one that outlives it can tell.
#[test]
fn a_child_waits_for_the_end_of_its_parent() {
    async fn wait(to: Producer<String>) {
        let parent = parent().unwrap();
        let moment = Duration::from_millis(1);
        assert!(!parent.join_timeout(moment).await.unwrap());
        assert!(!parent.blocking_join_timeout(moment).unwrap());
        to.put("waits".into()).await.unwrap();
        parent.join().await.unwrap();
        assert!(!parent.is_alive());
        // Once more, of a pid that may be another's.
        parent.join().await.unwrap();
        parent.blocking_join().unwrap();
        assert!(parent.join_timeout(moment).await.unwrap());
        assert!(parent.blocking_join_timeout(moment).unwrap());
        to.put("is over".into()).await.unwrap();
    }
    fn wait_blocking(to: Producer<String>) {
        to.blocking_put("waits".into()).unwrap();
        parent().unwrap().blocking_join().unwrap();
        to.blocking_put("is over".into()).unwrap();
    }
    fn start(to: Producer<String>, blocks: bool) {
        let builder = Process::builder().daemon(false);
        let _child = match blocks {
            false => builder.spawn(wait, to).unwrap(),
            true => builder.spawn(wait_blocking, to).unwrap(),
        };
        loop {
            std::thread::park();
        }
    }
    checked(async {
        for blocks in [false, true] {
            let (to, from) = Queue::new(0).unwrap().split();
            let child = Process::spawn(start, (to, blocks)).unwrap();
            assert_eq!(from.get().await.unwrap(), "waits");
            child.kill();
            child.join().await;
            assert_eq!(from.get().await.unwrap(), "is over");
            assert!(from.get().await.unwrap_err().is_closed(), "it has ended");
        }
    });
}

/// The methods by which this process, and what it starts, come to be.
fn methods() -> [String; 2] {
    let own = current().start_method().map_or("none".to_owned(), |method| method.to_string());
    [own, start_method().to_string()]
}

/// As Python's contexts do.
#[test]
fn what_is_started_starts_others_as_it_was_started() {
    async fn nested() -> [String; 2] {
        Process::spawn(methods, ()).unwrap().await.unwrap()
    }
    checked(async {
        assert_eq!(methods(), ["none".to_owned(), METHOD.to_string()]);
        let others = StartMethod::available().iter().copied();
        // Whoever has several threads is not copied.
        for method in others.filter(|method| *method != StartMethod::Fork || METHOD == *method) {
            let expected = [method.to_string(), method.to_string()];
            let builder = || Process::builder().start_method(method);
            assert_eq!(builder().spawn(methods, ()).unwrap().await.unwrap(), expected);
            assert_eq!(builder().spawn(nested, ()).unwrap().await.unwrap(), expected);
            let pool = Pool::builder().workers(1).start_method(method).build().unwrap();
            assert_eq!(pool.apply(methods, ()).await.unwrap(), expected);
            assert_eq!(pool.apply(nested, ()).await.unwrap(), expected);
            pool.terminate().await;
        }
        assert_eq!(start_method(), METHOD);
        if METHOD != StartMethod::ForkServer {
            fork_server().stop();
        }
    });
}

#[test]
fn a_start_method_is_set_once_unless_it_is_forced() {
    fn sets(own: StartMethod, other: StartMethod) {
        assert_eq!(start_method(), own);
        assert_eq!(set_start_method(own), Ok(()));
        assert_eq!(set_start_method(other), Err(own));
        force_start_method(other);
        assert_eq!(start_method(), other);
        assert_eq!(set_start_method(own), Err(other));
    }
    checked(async {
        let sets =
            || sets(METHOD, StartMethod::available()[usize::from(METHOD == StartMethod::Spawn)]);
        Process::spawn(sets, ()).unwrap().await.unwrap();
    });
}

#[test]
fn start_methods_have_pythons_names() {
    let names: Vec<String> =
        StartMethod::available().iter().map(|method| method.to_string()).collect();
    assert!(names == ["spawn", "forkserver", "fork"] || names == ["spawn"]);
    assert_eq!(StartMethod::available()[0], StartMethod::default());
}

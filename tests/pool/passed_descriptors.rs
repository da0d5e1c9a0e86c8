//! Sockets, files and pipes in arguments, results, items and the values inside of
//! them: each arrives as what it was, and is gone where nobody has it any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procession::{Fd, Pool, SharedBytes, TaskError};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use crate::support::{Scratch, checked, noted, until};
use crate::tasks::{await_file, hold, never, open, pid, pool_of};

/// So that neither end is short of them.
fn allow_many_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= 8000, "NOT TESTED HERE: no process may have 8000 descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, 8000, hard).unwrap();
}

/// How many of one worker's may wait to be taken.
const WAITING_MAX: usize = 2 * (1024 + 64);

/// How many descriptors this process has.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// A pair of which one end can be sent.
fn pair() -> (UnixStream, Fd<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, theirs.into())
}

/// All that comes until nobody has the other end.
async fn rest(stream: UnixStream) -> String {
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::UnixStream::from_std(stream).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn say(stream: Fd<UnixStream>, text: &str) {
    (&*stream).write_all(text.as_bytes()).unwrap();
}

/// The end of a socket of which the other end says something, and is closed.
fn saying(text: &str) -> Fd<UnixStream> {
    let (ours, theirs) = pair();
    (&ours).write_all(text.as_bytes()).unwrap();
    theirs
}

fn into_inner(stream: Fd<UnixStream>) -> UnixStream {
    stream.into_inner().unwrap()
}

#[test]
fn a_socket_as_an_argument() {
    checked(async {
        let pool = pool_of(1);
        // With its runtime.
        let before = pool.apply(|| async { descriptors() }, ()).await.unwrap();
        for n in 0..10 {
            let (ours, theirs) = pair();
            let hello = |stream: Fd<UnixStream>, n: u32| say(stream, &format!("hello {n}"));
            pool.apply(hello, (theirs, n)).await.unwrap();
            assert_eq!(rest(ours).await, format!("hello {n}"));
            let later = |stream: Fd<UnixStream>| async move { say(stream, "later") };
            let (ours, theirs) = pair();
            pool.apply(later, theirs).await.unwrap();
            assert_eq!(rest(ours).await, "later");
        }
        assert_eq!(pool.apply(descriptors, ()).await.unwrap(), before, "the worker keeps none");
        assert_eq!(pool.stats().workers_started, 1);
    });
}

/// The task goes on, and the caller holds the handle: neither has the socket.
#[test]
fn the_end_is_seen_while_the_task_runs_on() {
    fn close_and_wait(stream: Fd<UnixStream>, gate: String) {
        say(stream, "closed");
        await_file(gate);
    }
    checked(async {
        let pool = pool_of(1);
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let (ours, theirs) = pair();
        let running = pool.apply_async(close_and_wait, (theirs, gate.clone()));
        assert_eq!(rest(ours).await, "closed");
        // In a map each such item goes alone, whatever the size of the chunks.
        open(&gate);
        running.await.unwrap();
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..5).map(|_| pair()).unzip();
        let later = scratch.path("later");
        let items = theirs.into_iter().zip(std::iter::repeat(later.clone()));
        let map = pool.map(close_and_wait, items).chunk_size(5).start();
        let mut ours = ours.into_iter();
        assert_eq!(rest(ours.next().unwrap()).await, "closed");
        open(&later);
        map.await.unwrap();
        for ours in ours {
            assert_eq!(rest(ours).await, "closed");
        }
    });
}

#[test]
fn a_socket_as_a_result_and_as_items() {
    checked(async {
        let pool = pool_of(2);
        let made = |n: u32| saying(&format!("made {n}"));
        let came = pool.apply(made, 1).await.unwrap();
        assert_eq!(rest(into_inner(came)).await, "made 1");

        let came = pool.map(made, 0..300).await.unwrap();
        for (n, stream) in came.into_iter().enumerate() {
            assert_eq!(rest(into_inner(stream)).await, format!("made {n}"));
        }
        let mut came = pool.imap(made, 0..100).chunk_size(9);
        let mut n = 0;
        while let Some(stream) = came.next().await {
            assert_eq!(rest(into_inner(stream.unwrap())).await, format!("made {n}"));
            n += 1;
        }
        assert_eq!(n, 100);
        let items = |count: u32| (0..count).map(|n| saying(&format!("item {n}")));
        let mut came = pool.stream(items, 500);
        for n in 0..500 {
            let stream = came.next().await.unwrap().unwrap();
            assert_eq!(rest(into_inner(stream)).await, format!("item {n}"));
        }
        assert!(came.next().await.is_none());
        assert_eq!(pool.stats().workers_started, 2);
    });
}

#[test]
fn there_and_back() {
    checked(async {
        let pool = pool_of(2);
        let echo = |stream: Fd<UnixStream>| stream;
        let (ours, theirs) = pair();
        let mut there = theirs;
        for _ in 0..20 {
            there = pool.apply(echo, there).await.unwrap();
        }
        say(there, "twenty times");
        assert_eq!(rest(ours).await, "twenty times");

        let (ours, theirs): (Vec<_>, Vec<_>) = (0..100).map(|_| pair()).unzip();
        let back = pool.map(echo, theirs).await.unwrap();
        for (n, stream) in back.into_iter().enumerate() {
            say(stream, &n.to_string());
        }
        for (n, ours) in ours.into_iter().enumerate() {
            assert_eq!(rest(ours).await, n.to_string());
        }
    });
}

#[derive(Debug, Serialize, Deserialize)]
enum Slot {
    Empty,
    One(Fd<File>),
    Named { name: String, file: Fd<OwnedFd> },
}

#[derive(Debug, Serialize, Deserialize)]
struct Desk {
    #[serde(with = "procession::fd")]
    plain: UnixStream,
    before: u64,
    slots: Vec<Slot>,
    maybe: Option<Fd<UnixStream>>,
    none: Option<Fd<UnixStream>>,
    keyed: BTreeMap<u8, Fd<File>>,
    memory: SharedBytes,
    nested: Vec<(u8, Option<Box<Desk>>)>,
    #[serde(with = "procession::fd")]
    file: File,
    outcome: Result<Fd<UnixStream>, String>,
    after: String,
}

fn file(text: &str) -> File {
    let name = c"procession-test";
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(nix::sys::memfd::memfd_create(name, flags).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

fn desk(nested: u8) -> Desk {
    Desk {
        plain: into_inner(saying("plain")),
        before: u64::MAX,
        slots: vec![
            Slot::Empty,
            Slot::One(file("one").into()),
            Slot::Named { name: "n".into(), file: Fd::new(file("named").into()) },
        ],
        maybe: Some(saying("maybe")),
        none: None,
        keyed: (0..3).map(|n| (n, file(&format!("keyed {n}")).into())).collect(),
        memory: SharedBytes::copy_from_slice(b"memory").unwrap(),
        nested: match nested {
            0 => vec![],
            n => vec![(n, Some(Box::new(desk(n - 1)))), (0, None)],
        },
        file: file("file"),
        outcome: Ok(saying("outcome")),
        after: "after".into(),
    }
}

fn text(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

fn check(desk: Desk) -> u32 {
    assert_eq!(text(desk.plain), "plain");
    assert_eq!((desk.before, &desk.after[..]), (u64::MAX, "after"));
    let mut slots = desk.slots.into_iter();
    assert!(matches!(slots.next(), Some(Slot::Empty)));
    let Some(Slot::One(one)) = slots.next() else { panic!() };
    assert_eq!(text(&*one), "one");
    let Some(Slot::Named { name, file }) = slots.next() else { panic!() };
    assert_eq!((&name[..], &text(File::from(file.into_inner().unwrap()))[..]), ("n", "named"));
    assert_eq!(text(&*desk.maybe.unwrap()), "maybe");
    assert!(desk.none.is_none());
    for (n, file) in desk.keyed {
        assert_eq!(text(&*file), format!("keyed {n}"));
    }
    assert_eq!(desk.memory[..], b"memory"[..]);
    assert_eq!(text(desk.file), "file");
    assert_eq!(text(&*desk.outcome.unwrap()), "outcome");
    let nested = desk.nested.into_iter().filter_map(|(_, desk)| desk);
    1 + nested.map(|desk| check(*desk)).sum::<u32>()
}

#[test]
fn descriptors_anywhere_in_a_value() {
    checked(async {
        let pool = pool_of(1);
        assert_eq!(pool.apply(check, desk(3)).await.unwrap(), 4);
        assert_eq!(check(pool.apply(desk, 3).await.unwrap()), 4);
        assert_eq!(check(pool.apply(|desk: Desk| desk, desk(2)).await.unwrap()), 3);
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn every_kind_arrives_as_what_it_is() {
    macro_rules! comes_back {
        ($pool:ident: $($Type:ty, $made:expr;)*) => {$(
            let there = Fd::<$Type>::new($made);
            $pool.apply(|there: Fd<$Type>| there, there).await.unwrap();
        )*};
    }
    checked(async {
        let pool = pool_of(1);
        let scratch = Scratch::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        comes_back! { pool:
            OwnedFd, file("any").into();
            File, file("any");
            File, File::open("/dev/null").unwrap();
            File, File::open("/").unwrap();
            File, File::from(nix::unistd::pipe().unwrap().0);
            UnixStream, UnixStream::pair().unwrap().0;
            UnixDatagram, UnixDatagram::pair().unwrap().0;
            UnixListener, UnixListener::bind(scratch.path("socket")).unwrap();
            TcpStream, TcpStream::connect(address).unwrap();
            TcpListener, listener.try_clone().unwrap();
            UdpSocket, UdpSocket::bind("127.0.0.1:0").unwrap();
            TcpListener, TcpListener::bind("[::1]:0").or(TcpListener::bind("127.0.0.1:0")).unwrap();
        }
        // And is of use there.
        let serve = |listener: Fd<TcpListener>| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"served").unwrap();
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = pool.apply_async(serve, Fd::new(listener));
        let client = TcpStream::connect(address).unwrap();
        serving.await.unwrap();
        assert_eq!(text(client), "served");
    });
}

#[test]
fn what_is_something_else_is_an_error() {
    fn never_called<T>(_: Fd<T>) {
        unreachable!("it is something else");
    }
    checked(async {
        let pool = pool_of(1);
        let any = |fd: OwnedFd| Fd::<OwnedFd>::new(fd);
        let stream = || any(UnixStream::pair().unwrap().0.into());
        let tcp = || any(TcpListener::bind("127.0.0.1:0").unwrap().into());
        macro_rules! refused {
            ($($what:expr => $Type:ty: $text:literal;)*) => {$(
                // The argument is encoded as one type, and decoded as another.
                #[derive(Deserialize)]
                struct Typed(Fd<$Type>);
                impl Serialize for Typed {
                    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                        let fd = self.0.as_fd().try_clone_to_owned().unwrap();
                        to.serialize_newtype_struct("Typed", &Fd::new(fd))
                    }
                }
                // As what the type says, though it is not.
                let typed = Typed(Fd::new(<$Type>::from($what.into_inner().unwrap())));
                let error = pool.apply(|typed: Typed| never_called(typed.0), typed).await;
                let error = error.unwrap_err();
                assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
                assert!(error.to_string().contains($text), "{error}");
                assert_eq!(error.started(), Some(false));
            )*};
        }
        {
            refused! { stream() => File: "that of a socket and not of a file"; }
        }
        {
            refused! { any(file("x").into()) => UnixStream: "not that of a Unix stream"; }
        }
        {
            refused! { tcp() => UnixStream: "not that of a Unix stream"; }
        }
        {
            refused! { tcp() => TcpStream: "not that of a TCP stream"; }
        }
        {
            refused! { stream() => TcpListener: "not that of a TCP listener"; }
        }
        {
            refused! { tcp() => UdpSocket: "not that of a UDP socket"; }
        }
        {
            refused! { stream() => UnixListener: "not that of a Unix listener"; }
        }
        {
            refused! { stream() => UnixDatagram: "not that of a Unix datagram socket"; }
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn a_clone_is_a_descriptor_of_its_own_there() {
    checked(async {
        let pool = pool_of(2);
        let (ours, theirs) = pair();
        let each = |a: Fd<UnixStream>, b: Fd<UnixStream>, n: u32| {
            assert_ne!(a.as_raw_fd(), b.as_raw_fd());
            // One may be closed, and the other is still open.
            drop(a);
            say(b, &format!("{n},"));
        };
        let args = (0..10).map(move |n| (theirs.clone(), theirs.clone(), n));
        pool.map(each, args).await.unwrap();
        let text = rest(ours).await;
        let mut said: Vec<u32> = text.split_terminator(',').map(|n| n.parse().unwrap()).collect();
        said.sort_unstable();
        assert_eq!(said, Vec::from_iter(0..10));
    });
}

#[test]
fn as_many_as_may_be_and_one_more() {
    fn count(many: Vec<Fd<UnixStream>>) -> usize {
        many.len()
    }
    fn make(count: usize) -> Vec<Fd<UnixStream>> {
        (0..count).map(|n| saying(&n.to_string())).collect()
    }
    fn echo(many: Vec<Fd<UnixStream>>) -> Vec<Fd<UnixStream>> {
        many
    }
    allow_many_descriptors();
    checked(async {
        let pool = pool_of(1);
        let worker = pool.apply(pid, ()).await.unwrap();
        let there = pool.apply(descriptors, ()).await.unwrap();
        let here = descriptors();
        // Those of one message, of several, and all.
        for many in [64, 128, 129, 300, 1024] {
            assert_eq!(pool.apply(count, make(many)).await.unwrap(), many);
            let made = pool.apply(make, many).await.unwrap();
            let back = pool.apply(echo, made).await.unwrap();
            assert_eq!(back.len(), many);
            for (n, stream) in back.into_iter().enumerate() {
                assert_eq!(rest(into_inner(stream)).await, n.to_string());
            }
            assert_eq!(pool.apply(descriptors, ()).await.unwrap(), there);
        }
        for many in [1025, 3000] {
            let error = pool.apply(count, vec![saying(""); many]).await.unwrap_err();
            assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
            assert!(error.to_string().contains("more than the 1024 descriptors"), "{error}");
            assert_eq!(error.started(), Some(false));
            let clones = |many: usize| vec![saying(""); many];
            let error = pool.apply(clones, many).await.unwrap_err();
            assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
            assert!(error.to_string().contains("more than the 1024 descriptors"), "{error}");
        }
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
        until("none is left", || descriptors() <= here).await;
    });
}

#[derive(Serialize, Deserialize)]
struct Mixed(Vec<(SharedBytes, Fd<UnixStream>)>);

/// Beside a long text, which is sent from where it is.
fn mixed(count: usize) -> (Bytes, Mixed) {
    let one = |n: usize| {
        let text = n.to_string();
        (SharedBytes::copy_from_slice(text.as_bytes()).unwrap(), saying(&text))
    };
    (Bytes::from(vec![7; 3 << 20]), Mixed((0..count).map(one).collect()))
}

fn is_mixed((long, Mixed(list)): (Bytes, Mixed), count: usize) -> bool {
    let right = |(n, (bytes, stream)): (usize, (SharedBytes, Fd<UnixStream>))| {
        bytes[..] == *n.to_string().as_bytes() && text(&*stream) == n.to_string()
    };
    long == vec![7; 3 << 20] && list.len() == count && list.into_iter().enumerate().all(right)
}

#[test]
fn hundreds_with_memory_among_them_in_every_kind_of_message() {
    // Each worker gets the same ones.
    fn look_at(_: Bytes, Mixed(list): Mixed) {
        assert_eq!(list.len(), 150);
        assert_eq!(list[149].0[..], *b"149");
    }
    allow_many_descriptors();
    checked(async {
        let pool = Pool::builder().workers(2).initializer(look_at, mixed(150)).build().unwrap();
        pool.ready().await.unwrap();
        let before = descriptors();
        assert!(pool.apply(is_mixed, (mixed(160), 160)).await.unwrap());
        assert!(is_mixed(pool.apply(mixed, 170).await.unwrap(), 170));
        // Long and short ones behind each other.
        let counts = [0, 1, 200, 3, 170, 64, 65, 129, 100, 0, 200];
        let came = pool.map(mixed, counts).await.unwrap();
        assert!(came.into_iter().zip(counts).all(|(mixed, count)| is_mixed(mixed, count)));
        let sent = counts.map(|count| (mixed(count), count));
        assert_eq!(pool.map(is_mixed, sent).await.unwrap(), [true; 11]);
        let items = |counts: Vec<usize>| counts.into_iter().map(mixed);
        let mut came = pool.stream(items, counts.to_vec());
        for count in counts {
            assert!(is_mixed(came.next().await.unwrap().unwrap(), count));
        }
        assert!(came.next().await.is_none());
        drop(came);
        assert_eq!(pool.stats().workers_started, 2);
        until("none is left", || descriptors() <= before).await;
        pool.terminate().await;
    });
}

static KEPT: Mutex<Option<Fd<UnixStream>>> = Mutex::new(None);

fn keep(stream: Fd<UnixStream>, memory: SharedBytes) {
    say(stream.clone(), &format!("{} ", memory.len()));
    *KEPT.lock().unwrap() = Some(stream);
}

fn say_kept(text: String) {
    say(KEPT.lock().unwrap().clone().unwrap(), &text);
}

#[test]
fn an_initializer_gets_a_descriptor_and_so_does_each_next_worker() {
    checked(async {
        let (ours, theirs) = pair();
        let memory = SharedBytes::copy_from_slice(&[7; 100_000]).unwrap();
        let options = Pool::builder().workers(1).initializer(keep, (theirs, memory));
        let pool = options.build().unwrap();
        pool.apply(say_kept, "first ".to_string()).await.unwrap();
        pool.apply(|| -> () { std::process::abort() }, ()).await.unwrap_err();
        pool.apply(say_kept, "second".to_string()).await.unwrap();
        pool.terminate().await;
        drop(pool);
        assert_eq!(rest(ours).await, "100000 first 100000 second");
    });
}

#[test]
fn what_an_initializer_returns_holds_none() {
    fn returning() -> Result<(), Failed> {
        Err(Failed(saying("x")))
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Failed(Fd<UnixStream>);
    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("failed")
        }
    }
    checked(async {
        let options = Pool::builder().workers(1).restart_limit(1).initializer(returning, ());
        let pool = options.build().unwrap();
        let error = pool.ready().await.unwrap_err();
        assert!(error.to_string().contains("holds a descriptor"), "{error}");
    });
}

#[test]
fn descriptors_are_close_on_exec_at_both_ends() {
    fn is_close_on_exec(fd: &impl AsFd) -> bool {
        let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFD).unwrap();
        FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
    }
    checked(async {
        let pool = pool_of(1);
        let there = |stream: Fd<UnixStream>| (is_close_on_exec(&*stream), stream);
        let (is, back) = pool.apply(there, pair().1).await.unwrap();
        assert!(is && is_close_on_exec(&*back));
    });
}

#[test]
fn whatever_becomes_of_a_call_nobody_keeps_its_descriptors() {
    fn holding(journal: String, gate: String, _stream: Fd<UnixStream>) {
        hold(journal, gate);
    }
    fn crash(stream: Fd<UnixStream>) {
        say(stream, "crashed");
        std::process::abort();
    }
    fn panicking(_: Fd<UnixStream>) {
        panic!("on purpose");
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).grace_period(Duration::ZERO).build().unwrap();
        pool.ready().await.unwrap();
        let before = descriptors();

        // Never polled; refused; queued and dropped; running and cancelled.
        let (ours, theirs) = pair();
        drop(pool.apply(|_: Fd<UnixStream>| (), theirs));
        assert_eq!(rest(ours).await, "");
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let (ours, theirs) = pair();
        let running = pool.apply_async(holding, (journal.clone(), gate.clone(), theirs));
        noted(&journal).await;
        let (queued_ours, theirs) = pair();
        let queued = pool.apply_async(|_: Fd<UnixStream>| (), theirs);
        drop(queued);
        assert_eq!(rest(queued_ours).await, "");
        running.cancel().await;
        assert_eq!(rest(ours).await, "");

        // Ended by its own fault.
        let (ours, theirs) = pair();
        assert!(pool.apply(crash, theirs).await.unwrap_err().is_worker_lost());
        assert_eq!(rest(ours).await, "crashed");
        let (ours, theirs) = pair();
        assert!(pool.apply(panicking, theirs).await.unwrap_err().is_panic());
        assert_eq!(rest(ours).await, "");

        // An answer that nobody takes, of a call and of a stream.
        let (ours, theirs) = pair();
        let answered = pool.apply_async(|stream: Fd<UnixStream>| stream, theirs);
        until("it is answered", || answered.is_finished()).await;
        drop(answered);
        assert_eq!(rest(ours).await, "");
        let items = |stream: Fd<UnixStream>| (0..).map(move |_| stream.clone());
        let (ours, theirs) = pair();
        let mut stream = pool.stream(items, theirs);
        drop(stream.next().await.unwrap().unwrap());
        drop(stream);
        assert_eq!(rest(ours).await, "");
        until("nothing is left", || descriptors() <= before).await;

        // The pool ends under it.
        let stuck = pool.apply_async(never, scratch.path("stuck"));
        noted(&scratch.path("stuck")).await;
        let (ours, theirs) = pair();
        let waiting = pool.apply_async(|_: Fd<UnixStream>| (), theirs);
        pool.terminate().await;
        assert!(stuck.await.is_err() && waiting.await.is_err());
        assert_eq!(rest(ours).await, "");
    });
}

#[test]
fn a_call_that_is_run_again_or_elsewhere_has_its_descriptor() {
    fn dying_once(path: String, stream: Fd<UnixStream>) {
        if !std::fs::exists(&path).unwrap() {
            std::fs::write(&path, "").unwrap();
            std::process::abort();
        }
        say(stream, "again");
    }
    fn fatal(_: Fd<UnixStream>) {
        std::process::abort();
    }
    checked(async {
        let pool = pool_of(1);
        let scratch = Scratch::new();
        let (ours, theirs) = pair();
        pool.apply(dying_once, (scratch.path("died"), theirs)).retry(1).await.unwrap();
        assert_eq!(rest(ours).await, "again");

        let crash = pool.apply_async(fatal, pair().1);
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..20).map(|_| pair()).unzip();
        let say_this = |stream: Fd<UnixStream>, n: usize| say(stream, &n.to_string());
        let calls = theirs.into_iter().enumerate();
        let calls: Vec<_> =
            calls.map(|(n, there)| pool.apply_async(say_this, (there, n))).collect();
        assert!(crash.await.unwrap_err().is_worker_lost());
        for (n, (call, ours)) in calls.into_iter().zip(ours).enumerate() {
            call.await.unwrap();
            assert_eq!(rest(ours).await, n.to_string());
        }
    });
}

/// More answers than may wait: the worker waits, and what is taken in order comes.
#[test]
fn answers_that_wait_hold_their_worker_back() {
    allow_many_descriptors();
    checked(async {
        let pool = pool_of(1);
        pool.ready().await.unwrap();
        let before = descriptors();
        let many = |n: u32| (0..100).map(|k| saying(&format!("{n} {k}"))).collect::<Vec<_>>();
        let calls: Vec<_> = (0..60).map(|n| pool.apply_async(many, n)).collect();
        until("some have come", || descriptors() > before + WAITING_MAX - 300).await;
        for (n, call) in calls.into_iter().enumerate() {
            assert!(descriptors() <= before + WAITING_MAX + 100 + 1, "too many wait");
            for (k, stream) in call.await.unwrap().into_iter().enumerate() {
                assert_eq!(text(&*stream), format!("{n} {k}"));
            }
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

/// Whoever takes what is there one after the other loses nothing, however slow.
#[test]
fn a_slow_reader_of_a_stream_gets_all_of_it() {
    allow_many_descriptors();
    fn items(count: usize) -> impl Iterator<Item = Vec<Fd<UnixStream>>> {
        (0..count).map(|n| vec![saying(&n.to_string()); 500])
    }
    fn one(n: usize) -> Vec<Fd<UnixStream>> {
        vec![saying(&n.to_string()); 500]
    }
    async fn read_slowly(
        mut came: impl futures::Stream<Item = Result<Vec<Fd<UnixStream>>, TaskError>> + Unpin,
    ) {
        for n in 0..10 {
            let each = came.next().await.unwrap().unwrap();
            assert_eq!((each.len(), text(&*each[0])), (500, n.to_string()));
            if n == 0 {
                // Longer than the worker waits for those who do not take theirs.
                tokio::time::sleep(Duration::from_secs(6)).await;
            }
        }
        assert!(came.next().await.is_none());
    }
    checked(async {
        let (pool, other) = (pool_of(1), pool_of(1));
        let stream = pool.stream(items, 10).buffer(64);
        let calls = other.imap(one, 0..10).chunk_size(1).buffer(64);
        tokio::join!(read_slowly(stream), read_slowly(calls));
        assert_eq!((pool.stats().workers_started, other.stats().workers_started), (1, 1));
    });
}

/// Somebody waits for what is behind those that nobody takes.
#[test]
fn whoever_waits_for_the_last_answer_first_gets_it() {
    allow_many_descriptors();
    checked(async {
        let pool = pool_of(1);
        let many = || (0..500).map(|n| saying(&n.to_string())).collect::<Vec<_>>();
        let calls: Vec<_> = (0..10).map(|_| pool.apply_async(many, ())).collect();
        assert_eq!(pool.apply(|| 7, ()).await.unwrap(), 7);
        let mut outcomes = Vec::new();
        for call in calls {
            outcomes.push(match call.await {
                Ok(many) => many.len(),
                Err(error) => {
                    assert!(error.to_string().contains("wait to be taken"), "{error}");
                    0
                }
            });
        }
        assert_eq!(outcomes[..4], [500; 4], "as many as may wait");
        assert_eq!(outcomes[4..], [0; 6]);
        assert_eq!(pool.stats().workers_started, 1);
    });
}

//! Real workers: this test binary again, where `worker_main` does what the
//! first byte from its parent says.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command as Program, Stdio};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::limits::DEATH_WAIT;
use crate::slot_word::{Phase, SlotWord};
use crate::start::boot::boot;
use crate::start::fork_host::Hooks;
use crate::start::message::ARG0_MARK;
use crate::start::owner::new_pool_id;
use crate::start::spawn::{Ends, Role, Standard, spawn};

const WORKER_MAIN: &str = "start::warden::tests::worker_main";
const LONG: Duration = Duration::from_secs(30);

#[test]
fn worker_main() {
    let hooks = Hooks { preload: |_, _| Ok(()), warm_up: || (), waiting_threads: 1 };
    let Some(boot) = boot(hooks).unwrap() else { return };
    let mut socket = boot.socket;
    let mut order = [0];
    if socket.read(&mut order).unwrap_or(0) == 0 {
        process::exit(0);
    }
    match &order {
        b"x" => process::exit(3),
        b"t" => {
            // The harness's main thread has what the warden blocks blocked.
            let mut term = SigSet::empty();
            term.add(Signal::SIGTERM);
            term.thread_block().unwrap();
            socket.write_all(b"t").unwrap();
            assert_eq!(term.wait(), Ok(Signal::SIGTERM));
            socket.write_all(b"T").unwrap();
        }
        b"g" => {
            let held = OwnedFd::from(socket.try_clone().unwrap());
            #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
            Program::new("sleep").arg("1000").stdin(held).spawn().unwrap();
            socket.write_all(b"g").unwrap();
        }
        b"p" => {
            boot.page.swap(9, Phase::Queued, Phase::Running).unwrap();
            println!("out");
            eprintln!("err");
            process::exit(0);
        }
        b"s" => {
            let nested = Probe::pool();
            let mut ends = nested.start(1, SpawnSpec { stdout: Standard::Inherit, ..spec() });
            self::order(&mut ends.socket, b"w");
            kill(Pid::from_raw(ends.pid), Signal::SIGSTOP).unwrap();
            socket.write_all(b"s").unwrap();
            // Its end of the socket stays open until we are killed.
            mem::forget(ends);
        }
        b"l" => process::exit(leak_check()),
        b"w" => socket.write_all(b"w").unwrap(),
        other => panic!("unknown order {other:?}"),
    }
    // Until the parent hangs up or kills.
    while socket.read(&mut order).unwrap_or(0) != 0 {}
    process::exit(0);
}

/// Starts workers from within a worker, where no other test is about.
fn leak_check() -> i32 {
    let pool = Probe::pool();
    let mut run = |id| {
        let mut ends = pool.start(id, spec());
        ends.socket.write_all(b"x").unwrap();
        assert_eq!(pool.died(id), Exit::from_code(3));
    };
    run(0);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mapped =
        || fs::read_to_string("/proc/self/maps").unwrap().matches("procession-page").count();
    let before = (open(), mapped());
    (1..=200).for_each(&mut run);
    i32::from((open(), mapped()) != before)
}

struct Inbox {
    id: u64,
    events: mpsc::Sender<Event>,
}

impl Owner for Inbox {
    fn pool_id(&self) -> u64 {
        self.id
    }

    fn handle_event(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// A pool that writes down what it hears.
struct Probe {
    inbox: Arc<Inbox>,
    events: mpsc::Receiver<Event>,
}

fn spec() -> SpawnSpec {
    SpawnSpec {
        way: Way::Spawn,
        test_main: Some(WORKER_MAIN),
        role: Role::Pool,
        own_group: true,
        stdin: Standard::Null,
        stdout: Standard::Null,
        stderr: Standard::Inherit,
        env: Vec::new(),
        env_clear: false,
        current_dir: None,
    }
}

fn birth(id: u64) -> Birth {
    Birth::of_child(Some(&format!("test/{id}")))
}

fn arg0(id: u64) -> String {
    birth(id).arg0()
}

impl Probe {
    fn pool() -> Probe {
        let (sender, events) = mpsc::channel();
        Probe { inbox: Arc::new(Inbox { id: new_pool_id(), events: sender }), events }
    }

    fn request(&self, id: u64, spec: SpawnSpec) {
        let owner = Arc::clone(&self.inbox);
        Warden::global().unwrap().start(WorkerId(id), owner, Arc::new(spec), birth(id));
    }

    fn start(&self, id: u64, spec: SpawnSpec) -> Ends {
        self.request(id, spec);
        match self.next() {
            Event::Started { worker, ends, .. } if worker == WorkerId(id) => {
                ends.socket.set_nonblocking(false).unwrap();
                ends.socket.set_read_timeout(Some(LONG)).unwrap();
                ends
            }
            other => panic!("{other:?}"),
        }
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(LONG).expect("an event")
    }

    fn died(&self, id: u64) -> Exit {
        match self.next() {
            Event::Died { worker, exit, overdue: false } if worker == WorkerId(id) => exit,
            other => panic!("{other:?}"),
        }
    }

    fn failed(&self, id: u64) -> io::Error {
        match self.next() {
            Event::StartFailed { worker, error } if worker == WorkerId(id) => error,
            other => panic!("{other:?}"),
        }
    }

    fn stop(&self, id: u64, how: Stop) {
        Warden::global().unwrap().signal(self.inbox.id, WorkerId(id), how);
    }
}

fn order(socket: &mut UnixStream, order: &[u8; 1]) {
    socket.write_all(order).unwrap();
    expect(socket, order);
}

fn expect(socket: &mut UnixStream, byte: &[u8; 1]) {
    let mut got = [0];
    socket.read_exact(&mut got).unwrap();
    assert_eq!(&got, byte);
}

#[test]
fn a_worker_boots_with_its_page_and_its_output() {
    let pool = Probe::pool();
    let spec = SpawnSpec { stdout: Standard::Piped, stderr: Standard::Piped, ..spec() };
    let mut ends = pool.start(1, spec);
    ends.page.enqueue(9, 0);
    ends.socket.write_all(b"p").unwrap();
    let mut out = String::new();
    fs::File::from(ends.stdout.take().unwrap()).read_to_string(&mut out).unwrap();
    assert_eq!(out, "out\n", "and nothing from the harness");
    let mut err = String::new();
    fs::File::from(ends.stderr.take().unwrap()).read_to_string(&mut err).unwrap();
    assert_eq!(err, "err\n");
    assert_eq!(pool.died(1), Exit::from_code(0));
    assert_eq!(ends.page.load(9), SlotWord::new(9, Phase::Running));
}

#[test]
fn environment_and_directory_are_the_workers() {
    let pool = Probe::pool();
    let mut ends = pool.start(
        1,
        SpawnSpec {
            env_clear: true,
            env: vec![("RUST_TEST_THREADS".into(), Some("none".into())), ("HOME".into(), None)],
            current_dir: Some("/proc".into()),
            ..spec()
        },
    );
    order(&mut ends.socket, b"w");
    let proc = format!("/proc/{}", ends.pid);
    assert_eq!(fs::read(format!("{proc}/environ")).unwrap(), b"RUST_TEST_THREADS=none\0");
    assert_eq!(fs::read_link(format!("{proc}/cwd")).unwrap().to_str(), Some("/proc"));
    assert!(fs::read(format!("{proc}/cmdline")).unwrap().starts_with(arg0(1).as_bytes()));
    drop(ends);
    assert_eq!(pool.died(1), Exit::from_code(0), "the hang-up has ended it");
}

#[test]
fn sigterm_ends_a_worker_that_does_nothing_about_it() {
    let pool = Probe::pool();
    let mut ends = pool.start(1, spec());
    order(&mut ends.socket, b"w");
    pool.stop(1, Stop::Term { grace: LONG });
    assert_eq!(pool.died(1), Exit::from_signal(15));
}

#[test]
fn sigterm_ends_a_worker_that_has_not_booted_yet() {
    let pool = Probe::pool();
    let _ends = pool.start(1, spec());
    pool.stop(1, Stop::Term { grace: LONG });
    assert_eq!(pool.died(1), Exit::from_signal(15));
}

#[test]
fn no_grace_is_sigkill() {
    let pool = Probe::pool();
    let mut ends = pool.start(1, spec());
    order(&mut ends.socket, b"t");
    pool.stop(1, Stop::Term { grace: Duration::ZERO });
    assert_eq!(pool.died(1), Exit::from_signal(9));
}

#[test]
fn sigkill_follows_an_ignored_sigterm() {
    let pool = Probe::pool();
    let mut ends = pool.start(1, spec());
    order(&mut ends.socket, b"t");
    let asked = Instant::now();
    let grace = Duration::from_millis(100);
    pool.stop(1, Stop::Term { grace });
    expect(&mut ends.socket, b"T");
    // More patience now does not undo the first request.
    pool.stop(1, Stop::Term { grace: Duration::MAX });
    assert_eq!(pool.died(1), Exit::from_signal(9));
    assert!(asked.elapsed() >= grace);
}

#[test]
fn grandchildren_die_with_their_worker() {
    let pool = Probe::pool();
    let mut ends = pool.start(1, spec());
    order(&mut ends.socket, b"g");
    // The leader alone, as a crash would.
    kill(Pid::from_raw(ends.pid), Signal::SIGABRT).unwrap();
    assert_eq!(pool.died(1).signal(), Some(6));
    // End of file: nobody holds the socket any more.
    assert_eq!(ends.socket.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_stopped_worker_wakes_up_to_its_parents_death() {
    let pool = Probe::pool();
    let mut ends = pool.start(1, SpawnSpec { stdout: Standard::Piped, ..spec() });
    order(&mut ends.socket, b"s");
    pool.stop(1, Stop::Kill);
    assert_eq!(pool.died(1), Exit::from_signal(9));
    // The stopped one has the pipe as well, and a group of its own.
    let mut stdout = fs::File::from(ends.stdout.take().unwrap());
    let (sender, end_of_file) = mpsc::channel();
    thread::spawn(move || sender.send(stdout.read_to_end(&mut Vec::new()).unwrap()));
    end_of_file.recv_timeout(LONG).expect("it has ended");
}

#[test]
fn a_failed_start_is_reported() {
    let pool = Probe::pool();
    pool.request(1, SpawnSpec { current_dir: Some("/does/not/exist".into()), ..spec() });
    assert_eq!(pool.failed(1).kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_killed_pool_starts_nothing_more() {
    /// Kills its pool from the warden's own thread, which therefore sees both
    /// commands before it can act on either.
    struct KillsAll(Arc<Inbox>);
    impl Owner for KillsAll {
        fn pool_id(&self) -> u64 {
            self.0.id
        }
        fn handle_event(&self, event: Event) {
            if let Event::Started { .. } = event {
                let warden = Warden::global().unwrap();
                warden.start(WorkerId(2), Arc::clone(&self.0) as _, Arc::new(spec()), birth(2));
                warden.kill_all(self.0.id);
            }
            self.0.handle_event(event);
        }
    }
    let pool = Probe::pool();
    let bystander = Probe::pool();
    let mut other = bystander.start(1, spec());
    let owner = Arc::new(KillsAll(Arc::clone(&pool.inbox)));
    Warden::global().unwrap().start(WorkerId(1), owner, Arc::new(spec()), birth(1));
    let Event::Started { ends, .. } = pool.next() else { panic!() };
    assert_eq!(pool.failed(2).kind(), io::ErrorKind::Interrupted);
    assert_eq!(pool.died(1), Exit::from_signal(9));
    drop(ends);
    order(&mut other.socket, b"w");
}

#[test]
fn commands_for_the_dead_and_the_unknown_are_ignored() {
    let pool = Probe::pool();
    let mut ends = pool.start(1, spec());
    pool.stop(7, Stop::Kill);
    order(&mut ends.socket, b"w");
    pool.stop(1, Stop::Kill);
    pool.stop(1, Stop::Term { grace: LONG });
    assert_eq!(pool.died(1), Exit::from_signal(9));
    pool.stop(1, Stop::Kill);
    Warden::global().unwrap().kill_all(pool.inbox.id);
    pool.start(2, spec());
    assert_eq!(pool.died(2), Exit::from_code(0));
}

#[test]
fn an_owner_that_panics_harms_nobody() {
    struct Panics(u64);
    impl Owner for Panics {
        fn pool_id(&self) -> u64 {
            self.0
        }
        fn handle_event(&self, _: Event) {
            panic!("an owner's bug, on purpose");
        }
    }
    let owner = Arc::new(Panics(new_pool_id()));
    let gone = Arc::downgrade(&owner);
    Warden::global().unwrap().start(WorkerId(1), owner, Arc::new(spec()), birth(1));
    let pool = Probe::pool();
    // Its worker had its socket dropped, and is reaped: nothing keeps the owner.
    let limit = Instant::now() + LONG;
    while gone.strong_count() > 0 && Instant::now() < limit {
        drop(pool.start(1, spec()));
        pool.died(1);
    }
    assert_eq!(gone.strong_count(), 0);
}

#[test]
fn two_hundred_starts_leave_nothing_open() {
    let pool = Probe::pool();
    let mut ends = pool.start(1, spec());
    ends.socket.write_all(b"l").unwrap();
    assert_eq!(pool.died(1), Exit::from_code(0));
}

#[test]
fn our_threads_leave_signals_to_the_program() {
    // Threads name themselves: both have been at work.
    let pool = Probe::pool();
    drop(pool.start(1, spec()));
    pool.died(1);
    let blocked = |name: &str| {
        let blocked = fs::read_dir("/proc/self/task").unwrap().find_map(|task| {
            let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            status.starts_with(name).then(|| {
                let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
                u64::from_str_radix(line, 16).unwrap()
            })
        });
        blocked.expect("a thread of that name")
    };
    let bit = |signal| 1 << (signal as u32 - 1);
    // The kernel cuts names at fifteen bytes.
    for name in ["Name:\tprocession-ward\n", "Name:\tprocession-star\n"] {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGUSR1] {
            assert_ne!(blocked(name) & bit(signal), 0, "{signal}");
        }
        // For the time of a start, another test's, libc blocks all there are.
        let limit = Instant::now() + LONG;
        while blocked(name) & bit(Signal::SIGSEGV) != 0 {
            assert!(Instant::now() < limit, "faults are blocked");
        }
    }
}

/// A warden that is not run, but led step by step, and whose starter is the
/// test.
struct Led {
    watch: Watch,
    orders: mpsc::Receiver<Order>,
    pool: Probe,
}

impl Led {
    /// With the start of worker 1 under way.
    fn new() -> (Led, Order) {
        let (to_us, commands) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap());
        let mut watch = Watch::new(commands, to_us, wake, Arc::default()).unwrap();
        let (sender, orders) = mpsc::channel();
        watch.starters[0].door.orders = sender;
        let mut led = Led { watch, orders, pool: Probe::pool() };
        led.ask(1);
        let order = led.orders.try_recv().expect("the starter is free");
        (led, order)
    }

    fn ask(&mut self, id: u64) {
        let owner = Arc::clone(&self.pool.inbox) as _;
        let start = Start { worker: WorkerId(id), owner, spec: Arc::new(spec()), birth: birth(id) };
        self.watch.handle_command(Command::Start(start));
        self.watch.hand_out(Instant::now());
    }

    fn stop(&mut self, how: Stop) {
        let pool = self.pool.inbox.id;
        self.watch.handle_command(Command::Signal { pool, worker: WorkerId(1), how });
    }

    /// The start comes back. Returns the process.
    fn emerges(&mut self, order: Order) -> i32 {
        let spawned = spawn(&order.spec, &order.birth, |_| Ok(())).unwrap();
        let pid = spawned.ends.pid;
        self.watch.handle_outcome(order.token, Ok(spawned));
        pid
    }

    fn fails(&mut self, order: Order) {
        let error = io::Error::from(Errno::EIO);
        self.watch.handle_outcome(order.token, Err(error));
    }

    /// What the pool hears next, when all has died that can.
    fn next(&mut self) -> Event {
        let limit = Instant::now() + LONG;
        loop {
            match self.pool.events.try_recv() {
                Ok(event) => return event,
                Err(_) => self.watch.look_for_deaths(),
            }
            assert!(Instant::now() < limit, "an event");
            thread::yield_now();
        }
    }

    /// After the last event nothing is kept, and nothing more is said.
    fn assert_over(self) {
        assert!(self.watch.children.is_empty());
        assert_eq!(self.watch.starters[0].duty, Duty::Nothing);
        assert_eq!(Arc::strong_count(&self.pool.inbox), 1, "the owner is let go");
        assert!(self.pool.events.try_recv().is_err());
    }
}

#[test]
fn a_start_that_is_taken_back_while_under_way_is_killed_and_never_told() {
    let ways: [fn(&mut Led); 3] = [
        |led| led.stop(Stop::Kill),
        |led| led.stop(Stop::Term { grace: LONG }),
        |led| led.watch.handle_command(Command::KillAll { pool: led.pool.inbox.id }),
    ];
    for way in ways {
        let (mut led, order) = Led::new();
        way(&mut led);
        assert!(led.pool.events.try_recv().is_err(), "there may be a process");
        let pid = led.emerges(order);
        let Event::StartFailed { error, .. } = led.next() else { panic!() };
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert_eq!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH), "it is reaped");
        led.assert_over();
    }
}

#[test]
fn a_start_that_is_taken_back_while_under_way_may_fail_by_itself() {
    let (mut led, order) = Led::new();
    led.stop(Stop::Kill);
    led.fails(order);
    assert!(matches!(led.next(), Event::StartFailed { .. }));
    led.assert_over();
}

#[test]
fn a_start_that_does_not_come_back_is_given_up_and_reaped_when_it_does() {
    let (mut led, order) = Led::new();
    led.stop(Stop::Kill);
    let now = Instant::now();
    led.watch.check_times(now + DEATH_WAIT / 2);
    assert!(led.pool.events.try_recv().is_err());
    led.watch.check_times(now + DEATH_WAIT * 2);
    assert!(matches!(led.next(), Event::Overdue { .. }));
    // Once only, and nothing is timed any more.
    led.watch.check_times(now + DEATH_WAIT * 4);
    led.stop(Stop::Kill);
    assert_eq!(led.watch.timeout(), EpollTimeout::NONE);
    assert!(led.pool.events.try_recv().is_err());
    let pid = led.emerges(order);
    let Event::Died { overdue: true, exit, .. } = led.next() else { panic!() };
    assert_eq!(exit, Exit::from_signal(9));
    assert_eq!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH), "it is reaped");
    led.assert_over();

    let (mut led, order) = Led::new();
    led.stop(Stop::Kill);
    led.watch.check_times(Instant::now() + DEATH_WAIT * 2);
    assert!(matches!(led.next(), Event::Overdue { .. }));
    led.fails(order);
    assert!(matches!(led.next(), Event::Died { overdue: true, exit: Exit::UNKNOWN, .. }));
    led.assert_over();
}

#[test]
fn a_death_that_is_seen_before_its_start_is_told_after_it() {
    let (mut led, order) = Led::new();
    let spawned = spawn(&order.spec, &order.birth, |_| Ok(())).unwrap();
    kill(Pid::from_raw(spawned.ends.pid), Signal::SIGKILL).unwrap();
    while matches!(wait::peek_exit(spawned.pidfd.as_fd()), Ok(None)) {
        thread::yield_now();
    }
    led.watch.handle_death(order.token);
    assert!(led.pool.events.try_recv().is_err());
    led.watch.handle_outcome(order.token, Ok(spawned));
    // Nobody looks for deaths here.
    assert!(matches!(led.pool.next(), Event::Started { .. }));
    assert!(matches!(led.pool.next(), Event::Died { overdue: false, .. }));
    led.assert_over();
}

/// The other half of a warden that is led.
impl Led {
    /// With nothing under way, and a way to ask as others do.
    fn at_rest() -> (Led, Warden) {
        let (mut led, order) = Led::new();
        led.fails(order);
        assert!(matches!(led.next(), Event::StartFailed { .. }));
        led.watch.hand_out(Instant::now());
        let warden = Warden {
            process: process::id(),
            thread: 0,
            commands: led.watch.to_us.clone(),
            wake: Arc::clone(&led.watch.wake),
            short_way: Arc::clone(&led.watch.short_way),
        };
        (led, warden)
    }

    fn ask_from_outside(&self, warden: &Warden, id: u64) {
        let owner = Arc::clone(&self.pool.inbox) as _;
        warden.start(WorkerId(id), owner, Arc::new(spec()), birth(id));
    }

    /// As when it is woken.
    fn turn(&mut self) {
        while let Ok(command) = self.watch.commands.try_recv() {
            self.watch.handle_command(command);
        }
        self.watch.hand_out(Instant::now());
    }
}

#[test]
fn a_start_goes_to_a_starter_that_is_free_and_may_be_taken_back() {
    let (mut led, warden) = Led::at_rest();
    led.ask_from_outside(&warden, 1);
    let order = led.orders.try_recv().expect("the warden need not be woken for that");
    warden.signal(led.pool.inbox.id, WorkerId(1), Stop::Kill);
    led.turn();
    assert!(led.pool.events.try_recv().is_err(), "there may be a process");
    led.emerges(order);
    let Event::StartFailed { error, .. } = led.next() else { panic!() };
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    led.assert_over();
}

#[test]
fn a_starter_has_one_start_at_a_time_whoever_gives_it() {
    let (mut led, warden) = Led::at_rest();
    led.ask_from_outside(&warden, 1);
    led.ask_from_outside(&warden, 2);
    let first = led.orders.try_recv().unwrap();
    assert!(led.orders.try_recv().is_err());
    led.turn();
    led.ask_from_outside(&warden, 3);
    led.turn();
    assert!(led.orders.try_recv().is_err());
    assert_eq!((led.watch.starters.len(), led.watch.waiting.len()), (1, 2));
    let mut pids = vec![led.emerges(first)];
    // In the order in which they came, and nobody else's before.
    for id in [2, 3] {
        led.ask_from_outside(&warden, id + 2);
        led.turn();
        let order = led.orders.try_recv().unwrap();
        assert_eq!(order.birth.name, birth(id).name);
        pids.push(led.emerges(order));
    }
    led.watch.handle_command(Command::KillAll { pool: led.pool.inbox.id });
    let mut events = Vec::new();
    while events.len() < 2 * pids.len() + 2 {
        events.push(led.next());
    }
    let taken_back = |event: &&Event| matches!(event, Event::StartFailed { .. });
    assert_eq!(events.iter().filter(taken_back).count(), 2, "{events:?}");
    led.assert_over();
}

/// The warden may have something to hand out when somebody has just taken the way.
#[test]
fn a_starter_that_is_taken_is_not_given_another_start() {
    let (mut led, warden) = Led::at_rest();
    let door = warden.short_way.take().unwrap();
    led.ask(2);
    assert_eq!((led.watch.starters.len(), led.watch.waiting.len()), (1, 1));
    assert!(led.orders.try_recv().is_err());
    // Whoever has it goes on.
    warden.short_way.open(door);
    led.ask_from_outside(&warden, 1);
    for id in [1, 2] {
        led.turn();
        let order = led.orders.try_recv().unwrap();
        assert!(order.birth.name == birth(id).name && led.orders.try_recv().is_err());
        led.fails(order);
        assert!(matches!(led.next(), Event::StartFailed { worker, .. } if worker == WorkerId(id)));
    }
    led.assert_over();
}

#[test]
fn starts_do_not_wait_for_ever_behind_a_thread_that_took_a_starter() {
    let (mut led, warden) = Led::at_rest();
    let door = warden.short_way.take().unwrap();
    led.ask(2);
    let now = Instant::now();
    // However often the warden is woken meanwhile.
    for half in 1..4 {
        led.watch.hand_out(now + STARTER_WAIT / 2 * half);
    }
    assert_eq!((led.watch.starters.len(), led.watch.waiting.len()), (2, 0));
    let outcome = led.watch.commands.recv_timeout(LONG).unwrap();
    led.watch.handle_command(outcome);
    assert!(matches!(led.next(), Event::Started { worker: WorkerId(2), .. }));
    // It goes on after all.
    warden.short_way.open(door);
    led.ask_from_outside(&warden, 1);
    led.turn();
    let order = led.orders.try_recv().unwrap();
    led.fails(order);
    assert!(matches!(led.next(), Event::StartFailed { worker: WorkerId(1), .. }));
    led.watch.handle_command(Command::KillAll { pool: led.pool.inbox.id });
    assert!(matches!(led.next(), Event::Died { worker: WorkerId(2), .. }));
    led.assert_over();
}

#[test]
fn starts_do_not_wait_for_ever_behind_one_that_hangs() {
    let (mut led, order) = Led::new();
    led.ask(2);
    let now = Instant::now();
    led.watch.hand_out(now + STARTER_WAIT / 2);
    assert_eq!((led.watch.starters.len(), led.watch.waiting.len()), (1, 1));
    assert_ne!(led.watch.timeout(), EpollTimeout::NONE);
    led.watch.hand_out(now + STARTER_WAIT * 2);
    assert_eq!((led.watch.starters.len(), led.watch.waiting.len()), (2, 0));
    // The new one is real, and tells us.
    let outcome = led.watch.commands.recv_timeout(LONG).unwrap();
    led.watch.handle_command(outcome);
    assert!(matches!(led.next(), Event::Started { worker: WorkerId(2), .. }));
    // One that is free is no reason for another.
    led.watch.hand_out(now + STARTER_WAIT * 4);
    for starter in &mut led.watch.starters {
        starter.duty = Duty::Start(u64::MAX);
    }
    for round in 4..4 + 2 * STARTERS_MAX as u32 {
        led.ask(3 + u64::from(round));
        led.watch.hand_out(now + STARTER_WAIT * round * 2);
        for starter in &mut led.watch.starters {
            starter.duty = Duty::Start(u64::MAX);
        }
    }
    assert_eq!(led.watch.starters.len(), STARTERS_MAX);
    led.watch.handle_command(Command::KillAll { pool: led.pool.inbox.id });
    led.fails(order);
    let limit = Instant::now() + LONG;
    while !led.watch.children.is_empty() && Instant::now() < limit {
        while let Ok(outcome) = led.watch.commands.try_recv() {
            led.watch.handle_command(outcome);
        }
        led.watch.look_for_deaths();
        thread::yield_now();
    }
    assert!(led.watch.children.is_empty());
}

#[test]
fn the_mark_alone_makes_no_worker() {
    let output = Program::new("/proc/self/exe")
        .arg0(arg0(1))
        .args([WORKER_MAIN, "--exact"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn a_worker_whose_parent_is_gone_does_not_become_the_program() {
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let dir = std::env::temp_dir().join(format!("procession-unit-{}", process::id()));
    fs::create_dir(&dir).unwrap();
    let marked = dir.join(format!("a{ARG0_MARK}b"));
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &marked).unwrap();
    // The shell stays in between, as the parent that we are not.
    let output = Program::new("sh")
        .args(["-c", "\"$0\" \"$1\" --exact; echo ended with $?"])
        .arg(&marked)
        .arg(WORKER_MAIN)
        .stdin(OwnedFd::from(theirs))
        .output()
        .unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.ends_with("ended with 1\n"), "{text}");
    assert!(!text.contains("test result"), "{text}");
    assert!(output.stderr.is_empty());
}

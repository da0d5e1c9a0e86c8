//! How a pool is made: every option, and what of it makes no sense.

use std::ffi::OsString;
use std::fmt;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Pool;
use crate::error::{Cause, Side, SpawnError, TaskError};
use crate::limits::{FRAME_BYTES_MAX_DEFAULT, FRAME_BYTES_MAX_MOST, SLOTS};
use crate::process::{Stdio, Surroundings, check_frame_limit, check_name, setting, test_main};
use crate::proto::codec;
use crate::proto::draft::{Draft, Payload};
use crate::proto::message::{Setup, put_setup};
use crate::registry::{TaskFn, value_id};
use crate::resource::Resource;
use crate::sandbox::Sandbox;
use crate::sched::Settings;
use crate::start::StartMethod;
use crate::start::spawn::Role;
use crate::supervisor::{InitCheck, Plan, Supervisor};
use crate::sys::cast::Sharing;

/// Options of a pool, made by [`Pool::builder`].
///
/// Durations are checked to be sensible, and everything else that can be, in
/// [`build`](Self::build).
///
/// # Examples
///
/// ```no_run
/// # use std::time::Duration;
/// # fn warm_up(model: String) {}
/// # async fn example() -> Result<(), procession::SpawnError> {
/// let pool = procession::Pool::builder()
///     .name("thumbs")
///     .workers(4)
///     .grace_period(Duration::from_secs(1))
///     .max_tasks_per_worker(1000)
///     .initializer(warm_up, "small".to_string())
///     .build()?;
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct PoolBuilder {
    name: Option<String>,
    workers: Option<usize>,
    spare_workers: usize,
    queue_limit: usize,
    grace_period: Duration,
    task_timeout: Option<Duration>,
    token: Option<CancellationToken>,
    start_timeout: Duration,
    max_tasks_per_worker: Option<u64>,
    max_worker_memory: Option<u64>,
    memory_limit: Option<u64>,
    idle_timeout: Option<Duration>,
    max_worker_age: Option<Duration>,
    restart_limit: u32,
    frame_limit: usize,
    pipeline: usize,
    untrusted: bool,
    initializer: Option<Initializer>,
    surroundings: Surroundings,
    sandbox: Option<Sandbox>,
}

struct Initializer {
    function: u64,
    args: Result<Draft, TaskError>,
    check: InitCheck,
}

/// What an initializer may return: nothing, or a `Result` whose error keeps the
/// worker from starting.
pub trait InitOutcome {
    /// The error's text, if it is one.
    fn into_problem(self) -> Option<String>;
}

impl InitOutcome for () {
    fn into_problem(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> InitOutcome for Result<(), E> {
    fn into_problem(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

impl PoolBuilder {
    pub(super) fn new() -> Self {
        PoolBuilder {
            name: None,
            workers: None,
            spare_workers: 0,
            queue_limit: 1024,
            grace_period: Duration::from_secs(5),
            task_timeout: None,
            token: None,
            start_timeout: Duration::from_secs(60),
            max_tasks_per_worker: None,
            max_worker_memory: None,
            memory_limit: None,
            idle_timeout: None,
            max_worker_age: None,
            restart_limit: 5,
            frame_limit: FRAME_BYTES_MAX_DEFAULT,
            pipeline: SLOTS,
            untrusted: false,
            initializer: None,
            surroundings: Surroundings::default(),
            sandbox: None,
        }
    }

    /// The pool's name in logs and in `ps`, where workers show as
    /// `myapp: procession worker NAME/0`. Default: `pool-` and a number.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How many workers. Default: one for each processor that this process may
    /// use ([`std::thread::available_parallelism`], which honours cgroups and
    /// affinity), as tasks are expected to compute.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How many workers are kept ready beyond [`workers`](Self::workers), to take
    /// the place of one that is lost, retires, or is being stopped: the next task
    /// starts as if nothing had been, not after a new process has come up, which
    /// takes a millisecond and its initializer. Default: 0.
    ///
    /// Never more than `workers` have tasks at a time; those that have none while
    /// that many have are the spares, whichever they are. One that is being
    /// stopped does not count, as its place is free at once: in its grace period
    /// it may be at work beside the others. Once it is gone, the process that is
    /// started in its stead is the new spare. So with `spare_workers(n)` up to `n`
    /// tasks may be stopped in a row without a wait, and the pool never has more
    /// than `workers + n` processes.
    ///
    /// Each spare costs the memory of an idle worker. It runs the initializer,
    /// [`Pool::ready`] waits for it, and it stays when others leave after the
    /// [`idle_timeout`](Self::idle_timeout).
    pub fn spare_workers(mut self, workers: usize) -> Self {
        self.spare_workers = workers;
        self
    }

    /// How many calls may wait, beside one for each worker, before
    /// [`Pool::apply`] waits for a place and [`Pool::try_apply`] refuses.
    /// Default: 1024: enough to keep any number of workers busy, little enough
    /// that the last one is served soon. 0 takes only what can run at once.
    pub fn queue_limit(mut self, calls: usize) -> Self {
        self.queue_limit = calls;
        self
    }

    /// How long a task that is being stopped may take to end, between SIGTERM
    /// and SIGKILL, or between a polite request and SIGKILL
    /// (see [`worker`](crate::worker)). Default: 5 s. Zero is SIGKILL at once.
    pub fn grace_period(mut self, grace: Duration) -> Self {
        self.grace_period = grace;
        self
    }

    /// How long any task may run, unless its call says otherwise with
    /// [`Apply::timeout`](crate::Apply::timeout). Default: without limit. In a
    /// chunk of a map it is for each item, measured over the chunk.
    pub fn task_timeout(mut self, after: Duration) -> Self {
        self.task_timeout = Some(after);
        self
    }

    /// Ends the pool, as [`Pool::terminate`] does, once the token is cancelled.
    /// Default: none. For a single call there is
    /// [`Apply::cancel_on`](crate::Apply::cancel_on).
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.token = Some(token);
        self
    }

    /// How long a worker may take to become ready, initializer included, before
    /// it is killed and counts as not started. Default: 60 s, as initializers
    /// load models.
    pub fn start_timeout(mut self, after: Duration) -> Self {
        self.start_timeout = after;
        self
    }

    /// Replaces a worker after this many tasks; Python's `maxtasksperchild`.
    /// Default: never. A chunk of a map counts as one task.
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> Self {
        self.max_tasks_per_worker = Some(tasks);
        self
    }

    /// Replaces a worker that has more than this many bytes of resident memory
    /// after a task; Celery's `worker_max_memory_per_child`. The task itself is
    /// finished and answered; for a limit that stops it, see
    /// [`memory_limit`](Self::memory_limit). Default: never.
    pub fn max_worker_memory(mut self, bytes: u64) -> Self {
        self.max_worker_memory = Some(bytes);
        self
    }

    /// Ends a task, with its worker, that has brought that one above this many
    /// bytes of resident memory. Its caller gets a
    /// [`TaskError::WorkerLost`] that says so: [`TaskError::memory_exceeded`]. A
    /// worker that is above it after a task is replaced, and begins no other. What a
    /// task leaves below it counts against those after it, which run in the same
    /// process: see [`max_worker_memory`](Self::max_worker_memory). Default: no limit.
    ///
    /// Counted is what the kernel calls resident of the worker's process: its heap
    /// and stacks, what it has mapped and touched of files, [`SharedBytes`] among
    /// it, and the few MiB that it has without a task. The worker looks every
    /// 5 ms, so that a task is found some MiB above, more on a machine that has
    /// too much to do. For what may not be exceeded at all add
    /// [`Resource::AddressSpace`] with [`rlimits`](Self::rlimits), well above this
    /// one, as address space is more than memory; what meets that limit first
    /// aborts, and is not told from other aborts. Processes that a task starts are
    /// not counted; a cgroup counts them.
    ///
    /// [`SharedBytes`]: crate::SharedBytes
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Lets a worker go when it has had nothing to do for this long; it is
    /// started again when there is work for it. Default: never. As many as there
    /// should be [spares](Self::spare_workers) stay.
    pub fn idle_timeout(mut self, after: Duration) -> Self {
        self.idle_timeout = Some(after);
        self
    }

    /// Replaces a worker that has been ready for this long, once it has finished
    /// what it has. Default: never. Workers leave up to an eighth of it earlier,
    /// each by its place, so that those that have come together do not all leave
    /// together.
    pub fn max_worker_age(mut self, age: Duration) -> Self {
        self.max_worker_age = Some(age);
        self
    }

    /// Runs `f(args)` in every worker before its first task; Python's
    /// `initializer` and `initargs`. If it panics, ends the process or returns
    /// an `Err`, that worker has not started. Default: nothing.
    pub fn initializer<F, Args, M>(mut self, f: F, args: Args) -> Self
    where
        F: TaskFn<Args, M, Output: InitOutcome>,
        Args: Serialize + DeserializeOwned,
    {
        let mut encoded = Draft::default();
        let result = codec::draft::<Sharing, _>(&args, &mut encoded, FRAME_BYTES_MAX_MOST);
        self.initializer = Some(Initializer {
            function: value_id(f).0,
            args: result
                .map(|()| encoded)
                .map_err(|failure| TaskError::from_encode(failure, Side::Arguments)),
            check: Box::new(|outcome| {
                let check = || match codec::decode::<F::Output>(outcome) {
                    Ok(outcome) => outcome.into_problem(),
                    Err(failure) => Some(failure.to_string()),
                };
                // Decoding and printing are the user's code, and the driver's
                // task is not theirs to end.
                let problem = catch_unwind(check).unwrap_or(Some("its error panicked".into()));
                problem.map_or(Ok(()), |problem| Err(format!("the initializer failed: {problem}")))
            }),
        });
        self
    }

    /// Where workers' standard output goes. Default: where ours goes.
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.surroundings.stdout = stdout;
        self
    }

    /// Where workers' standard error goes. Default: where ours goes.
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.surroundings.stderr = stderr;
        self
    }

    /// Sets an environment variable in the workers. Default: they have ours.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.surroundings.env.push((key.into(), Some(value.into())));
        self
    }

    /// Starts workers with no environment but what [`env`](Self::env) sets.
    pub fn env_clear(mut self) -> Self {
        self.surroundings.env_clear = true;
        self
    }

    /// The workers' working directory. Default: ours.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.surroundings.current_dir = Some(dir.into());
        self
    }

    /// The workers' niceness, from -20 (served first, needs privileges) to 19
    /// (served last). Default: ours.
    pub fn nice(mut self, nice: i32) -> Self {
        self.surroundings.nice = Some(nice);
        self
    }

    /// The processors that workers begin with, by number. It spreads load and is no
    /// guard: a task may give itself others, as far as the cpuset of its cgroup
    /// goes, unless a sandbox filters its system calls. Default: ours.
    pub fn cpu_affinity(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.surroundings.cpu_affinity = Some(cpus.into_iter().collect());
        self
    }

    /// Limits what each worker may use: resources, and the value for both the
    /// soft and the hard limit, which a process without privileges cannot raise
    /// again. The worker sets them on itself before the initializer. What each
    /// does to a task that meets it is said at [`Resource`]. Default: ours.
    pub fn rlimits(mut self, limits: impl IntoIterator<Item = (Resource, u64)>) -> Self {
        self.surroundings.rlimits.extend(limits);
        self
    }

    /// Denies workers, and all that they start, any right that they do not have
    /// already: a program with a set-user-id bit runs as they do
    /// (`PR_SET_NO_NEW_PRIVS`). The worker sets it on all of its threads before
    /// the initializer. Default: off.
    pub fn no_new_privs(mut self) -> Self {
        self.surroundings.no_new_privs = true;
        self
    }

    /// Keeps workers from what they have no business with: files, the network,
    /// other processes, system calls. A worker puts it in force on itself, on all
    /// of its threads, after the initializer and before the first byte of a task
    /// comes in, and cannot take it back; how much of it is, is in
    /// [`WorkerInfo::sandbox`](crate::WorkerInfo::sandbox). Workers that cannot
    /// have all of it do not start, unless it is one of
    /// [best effort](Sandbox::best_effort). Default: none.
    ///
    /// Pools in tasks take programs that can be started, so there are none in a
    /// sandbox. What it does not cover: the environment, which workers have from
    /// this process ([`env_clear`](Self::env_clear)); standard output and error, if
    /// they are this process's own, as a worker can make those nonblocking for both
    /// (have them [piped](crate::Stdio::piped) or
    /// [null](crate::Stdio::null)); time and memory; and what one
    /// task leaves for the next in its process
    /// ([`max_tasks_per_worker`](Self::max_tasks_per_worker)).
    #[cfg(feature = "sandbox")]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// How many times in a row workers may fail to start, with growing pauses
    /// between (50 ms, doubling, at most 5 s), before the pool is broken and
    /// every call fails with the cause. Workers that start together and fail
    /// together count once. A pool that has another ready worker goes on. Default:
    /// 5, which is under a second.
    pub fn restart_limit(mut self, times: u32) -> Self {
        self.restart_limit = times;
        self
    }

    /// Largest arguments or result of one call, in encoded bytes, whether they
    /// are copied or not; those of [`SharedBytes`](crate::SharedBytes) count too,
    /// though they are not sent. Default: 256 MiB. At least 64 KiB, at most 2 GiB.
    pub fn frame_limit(mut self, bytes: usize) -> Self {
        self.frame_limit = bytes;
        self
    }

    /// How many tasks a worker may be given at a time, from 1 to 1024.
    /// Default: 1024. Only short tasks are sent ahead, and only as many as keep a
    /// worker busy for about two milliseconds; what waits behind a long one is taken back.
    pub fn pipeline(mut self, tasks: usize) -> Self {
        self.pipeline = tasks;
        self
    }

    /// Believes nothing that a worker says about tasks it has not started: one
    /// task at a time, none goes to another worker when one dies, and one that is
    /// cancelled after it was sent takes its worker along. For workers that may
    /// be taken over by what they process; their output should be
    /// [piped](crate::Stdio::piped) or [null](crate::Stdio::null), not this process's
    /// own, which they could make nonblocking for both. Default: off.
    pub fn untrusted(mut self) -> Self {
        self.untrusted = true;
        self
    }

    /// How worker processes come to be. Default: that of the program, see
    /// [`set_start_method`](crate::process::set_start_method).
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.surroundings.start_method = Some(method);
        self
    }

    /// Makes the pool and begins to start its workers; does not wait for them.
    /// Must be called inside a tokio runtime with I/O and time enabled, which
    /// drives the pool from then on.
    ///
    /// # Errors
    ///
    /// If an option makes no sense, if there is no tokio runtime here, or if
    /// [`init`](crate::init) was not called in this process. That workers cannot
    /// start shows later: in [`Pool::ready`] and in calls.
    pub fn build(self) -> Result<Pool, SpawnError> {
        let test_main = test_main()?;
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|_| SpawnError::new(Cause::NoRuntime))?;
        let drivers = catch_unwind(|| {
            drop(tokio::time::sleep(Duration::ZERO));
            tokio::net::UnixStream::pair().map(drop)
        });
        if drivers.is_err() {
            return Err(SpawnError::new(Cause::NoDrivers));
        }
        let workers = self.check()?;
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name: Arc<str> = match self.name {
            Some(name) => name.into(),
            None => format!("pool-{}", NAMES.fetch_add(1, Ordering::Relaxed)).into(),
        };
        let (initializer, attached, init_check) = match self.initializer {
            None => (None, Vec::new(), None),
            Some(Initializer { function, args, check }) => {
                let args = args.map_err(|error| setting("initializer", error))?;
                let attached = args.attached().to_vec();
                (Some((function, args.into_vec().into())), attached, Some(check))
            }
        };
        let setup_of_workers = Setup {
            memory_bytes_max: self.max_worker_memory,
            memory_limit: self.memory_limit,
            sandbox: self.sandbox.clone(),
            initializer,
            ..self.surroundings.setup(self.frame_limit)
        };
        let mut setup = Vec::new();
        put_setup(&mut setup, &setup_of_workers, &attached);
        let processors = self.surroundings.processors();
        let spec = self.surroundings.into_spec(Role::Pool, test_main);
        let plan = Plan {
            name,
            settings: Settings {
                workers,
                spares: self.spare_workers,
                depth_max: if self.untrusted { 1 } else { self.pipeline },
                trusted: !self.untrusted,
                grace_period: self.grace_period,
                start_timeout: self.start_timeout,
                restart_limit: self.restart_limit,
                tasks_per_worker_max: self.max_tasks_per_worker,
                idle_timeout: self.idle_timeout,
                age_max: self.max_worker_age,
            },
            queue_limit: self.queue_limit.min(QUEUE_LIMIT_MAX),
            task_timeout: self.task_timeout,
            memory_limit: self.memory_limit,
            #[cfg(feature = "sandbox")]
            sandbox: self.sandbox,
            frame_bytes_max: self.frame_limit,
            processors,
            fingerprint: setup_of_workers.fingerprint,
            setup: Payload::from(setup).laden_with(attached.into()),
            init_check,
            token: self.token,
        };
        Supervisor::start(plan, spec, runtime).map(Pool::new_from)
    }

    /// Finds values that make no sense. Returns the number of workers.
    fn check(&self) -> Result<usize, SpawnError> {
        let workers = match self.workers {
            Some(0) => return Err(setting("workers", "a pool needs at least one")),
            Some(workers) if workers > WORKERS_MAX => {
                return Err(setting("workers", format!("more than {WORKERS_MAX}")));
            }
            Some(workers) => workers,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        if self.spare_workers > WORKERS_MAX - workers {
            let problem = format!("more than {WORKERS_MAX}, with the workers");
            return Err(setting("spare_workers", problem));
        }
        let zero = [
            ("task_timeout", self.task_timeout),
            ("start_timeout", Some(self.start_timeout)),
            ("idle_timeout", self.idle_timeout),
            ("max_worker_age", self.max_worker_age),
        ];
        if let Some((option, _)) = zero.iter().find(|(_, value)| *value == Some(Duration::ZERO)) {
            return Err(setting(option, "zero leaves no time for anything"));
        }
        if self.max_tasks_per_worker == Some(0) {
            return Err(setting("max_tasks_per_worker", "a worker must be allowed one task"));
        }
        let memory =
            [("max_worker_memory", self.max_worker_memory), ("memory_limit", self.memory_limit)];
        if let Some((option, _)) = memory.iter().find(|(_, value)| *value == Some(0)) {
            return Err(setting(option, "every process needs some"));
        }
        if self.restart_limit == 0 {
            return Err(setting("restart_limit", "the first start needs one try"));
        }
        if !(1..=SLOTS).contains(&self.pipeline) {
            return Err(setting("pipeline", format!("{} is not 1 to {SLOTS}", self.pipeline)));
        }
        check_frame_limit(self.frame_limit)?;
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        self.surroundings.check()?;
        Ok(workers)
    }
}

/// More workers than any machine has use for; mostly a guard against units
/// mistaken for counts.
pub(super) const WORKERS_MAX: usize = 1 << 16;

/// As many places as can be counted, with room for those that come with more
/// workers: no limit at all.
const QUEUE_LIMIT_MAX: usize = Semaphore::MAX_PERMITS / 2;

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("name", &self.name)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

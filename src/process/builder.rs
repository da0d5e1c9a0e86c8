//! How a process is made: every option, and the start itself.

use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::life::{Interest, Life, Terms};
use super::line::Line;
use super::post::Post;
use super::streams::{ProcessStderr, ProcessStdin, ProcessStdout, Tap};
use super::surroundings::{Stdio, Surroundings, check_frame_limit, check_name, test_main};
use super::{Process, at_exit};
use crate::error::{Cause, Side, SpawnError, TaskError};
use crate::limits::FRAME_BYTES_MAX_DEFAULT;
use crate::proto::codec;
use crate::proto::draft::Draft;
use crate::registry::{self, TaskFn, value_id};
use crate::resource::Resource;
use crate::start::StartMethod;
use crate::start::identity::Birth;
use crate::start::spawn::{Ends, Role};
use crate::sys::cast::Sharing;

/// Options of a process, made by [`Process::builder`].
///
/// # Examples
///
/// ```no_run
/// use procession::{Process, Stdio};
///
/// fn serve(port: u16) {}
///
/// # fn example() -> Result<(), procession::SpawnError> {
/// let server = Process::builder()
///     .name("server")
///     .env("RUST_LOG", "info")
///     .stderr(Stdio::piped())
///     .nice(5)
///     .spawn(serve, 8080)?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `spawn`"]
pub struct ProcessBuilder {
    name: Option<String>,
    is_daemon: bool,
    grace_period: Duration,
    frame_limit: usize,
    surroundings: Surroundings,
}

impl ProcessBuilder {
    pub(super) fn new() -> Self {
        ProcessBuilder {
            name: None,
            is_daemon: true,
            grace_period: Duration::from_secs(5),
            frame_limit: FRAME_BYTES_MAX_DEFAULT,
            surroundings: Surroundings::default(),
        }
    }

    /// Its name, for logs and for `ps`, where it shows as `myapp: procession worker
    /// NAME`. At most 4096 bytes. Default: `Process-` and its
    /// [number](crate::process#names).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether it ends with its parent. Default: `true`, as everything that this
    /// crate starts. With `false` its parent waits for it when it returns from
    /// `main` or calls [`exit`](std::process::exit), and does not end it by being
    /// dropped, or killed: see the [table](crate::process#how-it-ends). A pool that has
    /// no more use for a worker gives it five seconds for that.
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.is_daemon = daemon;
        self
    }

    /// How long it may take to end after its handle was dropped, between SIGTERM and
    /// SIGKILL. Default: 5 s. Zero is SIGKILL at once.
    pub fn grace_period(mut self, grace: Duration) -> Self {
        self.grace_period = grace;
        self
    }

    /// How it comes to be. Default: that of the program, see
    /// [`set_start_method`](crate::process::set_start_method).
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.surroundings.start_method = Some(method);
        self
    }

    /// Where its standard input comes from. Default: nothing to read, so that it does
    /// not take its parent's.
    pub fn stdin(mut self, stdin: Stdio) -> Self {
        self.surroundings.stdin = stdin;
        self
    }

    /// Where its standard output goes. Default: where ours goes.
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.surroundings.stdout = stdout;
        self
    }

    /// Where its standard error goes. Default: where ours goes.
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.surroundings.stderr = stderr;
        self
    }

    /// Sets an environment variable. Default: it has ours.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.surroundings.env.push((key.into(), Some(value.into())));
        self
    }

    /// Takes an environment variable away. Default: it has ours.
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        self.surroundings.env.push((key.into(), None));
        self
    }

    /// Starts it with no environment but what [`env`](Self::env) sets.
    pub fn env_clear(mut self) -> Self {
        self.surroundings.env_clear = true;
        self
    }

    /// Its working directory. Default: ours.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.surroundings.current_dir = Some(dir.into());
        self
    }

    /// Whether it leads a process group of its own. Default: `true`: what it has
    /// started is signalled and killed with it, and Ctrl-C in a terminal reaches this
    /// program alone. With `false` it stays in ours, and signals go to the process
    /// itself.
    pub fn own_process_group(mut self, own: bool) -> Self {
        self.surroundings.own_group = own;
        self
    }

    /// Its niceness, from -20 (served first, needs privileges) to 19 (served last).
    /// Default: ours.
    pub fn nice(mut self, nice: i32) -> Self {
        self.surroundings.nice = Some(nice);
        self
    }

    /// The processors that it begins with, by number. It spreads load and is no
    /// guard: the process may give itself others, as far as the cpuset of
    /// its cgroup goes. Default: ours.
    pub fn cpu_affinity(mut self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.surroundings.cpu_affinity = Some(cpus.into_iter().collect());
        self
    }

    /// Limits what it may use: resources, and the value for both the soft and the
    /// hard limit. Default: ours.
    pub fn rlimits(mut self, limits: impl IntoIterator<Item = (Resource, u64)>) -> Self {
        self.surroundings.rlimits.extend(limits);
        self
    }

    /// Denies the process, and all that it starts, any right that it does not have
    /// already: a program with a set-user-id bit runs as it does
    /// (`PR_SET_NO_NEW_PRIVS`). Default: off.
    pub fn no_new_privs(mut self) -> Self {
        self.surroundings.no_new_privs = true;
        self
    }

    /// Largest arguments or result, in encoded bytes. Default: 256 MiB. At least
    /// 64 KiB, at most 2 GiB.
    pub fn frame_limit(mut self, bytes: usize) -> Self {
        self.frame_limit = bytes;
        self
    }

    /// Calls `f(args)` in a new process. Waits until that is there, as
    /// [`std::process::Command::spawn`] does: about a millisecond. Needs no runtime.
    ///
    /// # Errors
    ///
    /// If an option makes no sense, if the arguments cannot be encoded, if
    /// [`init`](crate::init) was not called in this process, or if the system does
    /// not start another. What the process meets later, such as a limit that cannot
    /// be set, is an error of its future.
    pub fn spawn<F, Args, M>(self, f: F, args: Args) -> Result<Process<F::Output>, SpawnError>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        let test_main = test_main()?;
        self.check()?;
        let mut encoded = Draft::default();
        codec::draft::<Sharing, _>(&args, &mut encoded, self.frame_limit).map_err(|failure| {
            let error = TaskError::from_encode(failure, Side::Arguments);
            SpawnError::new(Cause::Arguments(Box::new(error)))
        })?;
        let birth = Birth::of_child(self.name.as_deref());
        let setup = self.surroundings.setup(self.frame_limit);
        let role = Role::Once { independent: !self.is_daemon };
        let spec = self.surroundings.into_spec(role, test_main);

        let post = Post::global().map_err(os_error("start the thread that serves processes"))?;
        let terms = Terms { function: registry::name::<F>(), grace_period: self.grace_period };
        let life =
            Life::new(birth.name.clone(), terms, post).map_err(os_error("watch over a process"))?;
        if !self.is_daemon {
            at_exit::join_at_exit(&life);
        }
        let ends = life.start(Arc::new(spec), birth).map_err(os_error("start a process"))?;
        let Ends { socket, page, stdin, stdout, stderr, .. } = ends;
        // From here on, whatever fails ends the process.
        let mut process = Process {
            life,
            interest: Interest::default(),
            is_daemon: self.is_daemon,
            runs_on: false,
            stdin: None,
            stdout: None,
            stderr: None,
            result: PhantomData,
        };
        // The only task it will have, and nobody takes it back.
        page.enqueue(Line::SEQ, 0);
        drop(page);
        process.stdin = stdin.map(ProcessStdin::new);
        process.stdout = stdout.map(ProcessStdout::new);
        let mut last_words = None;
        if let Some(stderr) = stderr {
            let tap = Tap::new(stderr.as_fd())
                .inspect_err(|_| process.life.leave_unserved())
                .map_err(os_error("prepare the pipes of a process"))?;
            last_words = Some(Arc::clone(&tap));
            process.stderr = Some(ProcessStderr::new(stderr, tap));
        }
        let line = Line::new(Arc::clone(&process.life), socket, &setup, last_words);
        post.serve(line, value_id(f).0, &encoded.into());
        process.runs_on = !self.is_daemon;
        Ok(process)
    }

    fn check(&self) -> Result<(), SpawnError> {
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        check_frame_limit(self.frame_limit)?;
        self.surroundings.check()
    }
}

fn os_error(what: &'static str) -> impl FnOnce(std::io::Error) -> SpawnError {
    move |error| SpawnError::new(Cause::Os { what, error })
}

impl fmt::Debug for ProcessBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

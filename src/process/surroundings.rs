//! What a new process finds around it: its streams, variables, folder, limits.
//! The builders of processes and of pools have these options in common; here they
//! are kept, checked, and told to those who start processes.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::method::start_method;
use super::post::Post;
use crate::error::{Cause, SpawnError};
use crate::init::{Entry, become_worker, entry};
use crate::limits::{FRAME_BYTES_MAX_LEAST, FRAME_BYTES_MAX_MOST, NAME_BYTES_MAX};
use crate::proto::VERSION;
use crate::proto::message::Setup;
use crate::registry::Table;
use crate::resource::Resource;
use crate::start::StartMethod;
use crate::start::boot::Boot;
use crate::start::spawn::{Role, SpawnSpec, Standard, Way};

/// Where a process's standard output or error goes, or its standard input comes
/// from. The standard input of a pool's workers is always empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Stdio(Target);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Target {
    #[default]
    Inherit,
    Null,
    Piped,
}

impl Stdio {
    /// This process's own. The default of outputs.
    pub const fn inherit() -> Self {
        Stdio(Target::Inherit)
    }

    /// Nowhere, and nothing to read. The default of a process's input.
    pub const fn null() -> Self {
        Stdio(Target::Null)
    }

    /// Of a pool's worker: to the pool, which reports each line as a `tracing`
    /// event (target `procession::output`). Of a [`Process`](crate::Process): a
    /// pipe, whose other end is a field of the handle. The last 4 KiB of stderr
    /// are kept for [`TaskError::WorkerLost`](crate::TaskError::WorkerLost).
    pub const fn piped() -> Self {
        Stdio(Target::Piped)
    }

    fn standard(self) -> Standard {
        match self.0 {
            Target::Inherit => Standard::Inherit,
            Target::Null => Standard::Null,
            Target::Piped => Standard::Piped,
        }
    }
}

/// See [`PoolBuilder`](crate::PoolBuilder) for what each means.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// `None`: the default.
    pub(crate) start_method: Option<StartMethod>,
    pub(crate) own_group: bool,
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) env_clear: bool,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) nice: Option<i32>,
    pub(crate) cpu_affinity: Option<Vec<usize>>,
    pub(crate) rlimits: Vec<(Resource, u64)>,
    pub(crate) no_new_privs: bool,
}

impl Default for Surroundings {
    fn default() -> Self {
        Surroundings {
            start_method: None,
            own_group: true,
            stdin: Stdio::null(),
            stdout: Stdio::inherit(),
            stderr: Stdio::inherit(),
            env: Vec::new(),
            env_clear: false,
            current_dir: None,
            nice: None,
            cpu_affinity: None,
            rlimits: Vec::new(),
            no_new_privs: false,
        }
    }
}

impl Surroundings {
    /// Finds values that make no sense.
    pub(crate) fn check(&self) -> Result<(), SpawnError> {
        if self.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
            return Err(setting("nice", "not -20 to 19"));
        }
        if self.cpu_affinity.as_ref().is_some_and(Vec::is_empty) {
            return Err(setting("cpu_affinity", "no processor is allowed"));
        }
        for (key, value) in &self.env {
            let key = key.as_encoded_bytes();
            if key.is_empty() || key.contains(&b'=') || key.contains(&0) {
                return Err(setting("env", "a name is empty, or contains a NUL or a `=`"));
            }
            if value.as_ref().is_some_and(|value| value.as_encoded_bytes().contains(&0)) {
                return Err(setting("env", "a value contains a NUL"));
            }
        }
        Ok(())
    }

    /// How many processors the process may use.
    pub(crate) fn processors(&self) -> usize {
        let ours = std::thread::available_parallelism().map_or(1, usize::from);
        self.cpu_affinity.as_ref().map_or(ours, |cpus| ours.min(cpus.len()))
    }

    /// What the process is to set on itself. `frame_bytes_max`: of one call.
    pub(crate) fn setup(&self, frame_bytes_max: usize) -> Setup {
        Setup {
            version: VERSION,
            fingerprint: Table::global().fingerprint(),
            frame_bytes_max,
            nice: self.nice,
            cpu_affinity: self.cpu_affinity.clone().unwrap_or_default(),
            rlimits: self.rlimits.clone(),
            memory_bytes_max: None,
            memory_limit: None,
            no_new_privs: self.no_new_privs,
            sandbox: None,
            initializer: None,
        }
    }

    /// What whoever starts it has to do. `test_main`: see [`test_main`].
    pub(crate) fn into_spec(self, role: Role, test_main: Option<&'static str>) -> SpawnSpec {
        SpawnSpec {
            way: match self.start_method.unwrap_or_else(start_method) {
                StartMethod::Spawn => Way::Spawn,
                StartMethod::ForkServer => Way::ForkServer,
                StartMethod::Fork => Way::Fork(become_copy),
            },
            test_main,
            role,
            own_group: self.own_group,
            stdin: self.stdin.standard(),
            stdout: self.stdout.standard(),
            stderr: self.stderr.standard(),
            env: self.env,
            env_clear: self.env_clear,
            current_dir: self.current_dir,
        }
    }
}

/// This process is a copy, which is to be a worker and may have processes of its own.
fn become_copy(boot: Boot) -> ! {
    Post::forget();
    become_worker(boot)
}

/// Whether a process may be called so.
pub(crate) fn check_name(name: &str) -> Result<(), SpawnError> {
    if name.contains('\0') {
        return Err(setting("name", "contains a NUL"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(setting("name", format!("longer than {NAME_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// Whether so much may be sent at once.
pub(crate) fn check_frame_limit(bytes: usize) -> Result<(), SpawnError> {
    let (least, most) = (FRAME_BYTES_MAX_LEAST, FRAME_BYTES_MAX_MOST);
    if !(least..=most).contains(&bytes) {
        return Err(setting("frame_limit", format!("{bytes} bytes is not {least} to {most}")));
    }
    Ok(())
}

/// What a new process of this program needs to become a worker, if it can: the path of
/// the test that does so in a test program.
pub(crate) fn test_main() -> Result<Option<&'static str>, SpawnError> {
    match entry() {
        Some(Entry::Main) => Ok(None),
        Some(Entry::Test(path)) => Ok(Some(path)),
        None => Err(SpawnError::new(Cause::NotInitialised)),
    }
}

pub(crate) fn setting(option: &'static str, problem: impl fmt::Display) -> SpawnError {
    SpawnError::new(Cause::Setting { option, problem: problem.to_string() })
}

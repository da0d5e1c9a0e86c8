//! How a process ended: a code or a signal, and the sentence for it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a process ended.
///
/// Mirrors [`std::process::ExitStatus`], but is plain data: it can be made,
/// compared and sent. An ending that could not be observed (something else in
/// the program collected it first) is *unknown*, never a success.
///
/// # Examples
///
/// ```
/// # let exit = procession::Exit::from_signal(9);
/// assert_eq!(exit.signal(), Some(9));
/// assert_eq!(exit.exitcode(), Some(-9));
/// assert_eq!(exit.to_string(), "killed by signal 9 (SIGKILL)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Exit(How);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
enum How {
    Code(i32),
    Signal { number: i32, core_dumped: bool },
    Unknown,
}

impl Exit {
    /// The exit of a process that ended by itself with `code`.
    pub const fn from_code(code: i32) -> Self {
        Exit(How::Code(code))
    }

    /// The exit of a process that was ended by signal `number`.
    pub const fn from_signal(number: i32) -> Self {
        Exit(How::Signal { number, core_dumped: false })
    }

    pub(crate) const fn from_core_dump(number: i32) -> Self {
        Exit(How::Signal { number, core_dumped: true })
    }

    pub(crate) const UNKNOWN: Self = Exit(How::Unknown);

    /// The exit code, if the process ended by itself.
    pub fn code(&self) -> Option<i32> {
        match self.0 {
            How::Code(code) => Some(code),
            _ => None,
        }
    }

    /// The number of the signal that ended the process, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.0 {
            How::Signal { number, .. } => Some(number),
            _ => None,
        }
    }

    /// Whether the kernel wrote a core file.
    pub fn core_dumped(&self) -> bool {
        matches!(self.0, How::Signal { core_dumped: true, .. })
    }

    /// Whether the process ended by itself with code 0.
    pub fn success(&self) -> bool {
        self.0 == How::Code(0)
    }

    /// Python's `Process.exitcode`: the code, or the negative number of the
    /// signal. `None` if the ending is unknown.
    pub fn exitcode(&self) -> Option<i32> {
        match self.0 {
            How::Code(code) => Some(code),
            How::Signal { number, .. } => Some(-number),
            How::Unknown => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            How::Code(code) => write!(f, "exited with code {code}"),
            How::Signal { number, core_dumped } => {
                match nix::sys::signal::Signal::try_from(number) {
                    Ok(signal) => write!(f, "killed by signal {number} ({signal})")?,
                    Err(_) => write!(f, "killed by signal {number}")?,
                }
                if core_dumped { f.write_str(", core dumped") } else { Ok(()) }
            }
            How::Unknown => f.write_str("ended in an unknown way"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        assert_eq!(Exit::from_code(3).to_string(), "exited with code 3");
        assert_eq!(Exit::from_signal(15).to_string(), "killed by signal 15 (SIGTERM)");
        assert_eq!(Exit::from_signal(40).to_string(), "killed by signal 40");
        assert_eq!(
            Exit::from_core_dump(11).to_string(),
            "killed by signal 11 (SIGSEGV), core dumped"
        );
        assert_eq!(Exit::UNKNOWN.to_string(), "ended in an unknown way");
    }

    #[test]
    fn each_way_to_end_has_its_numbers() {
        for (exit, code, signal, core_dumped, exitcode) in [
            (Exit::from_code(0), Some(0), None, false, Some(0)),
            (Exit::from_code(3), Some(3), None, false, Some(3)),
            (Exit::from_signal(15), None, Some(15), false, Some(-15)),
            (Exit::from_core_dump(11), None, Some(11), true, Some(-11)),
            (Exit::UNKNOWN, None, None, false, None),
        ] {
            assert_eq!((exit.code(), exit.signal()), (code, signal));
            assert_eq!((exit.core_dumped(), exit.exitcode()), (core_dumped, exitcode));
            assert_eq!(exit.success(), code == Some(0), "an unknown end is no success");
        }
    }
}

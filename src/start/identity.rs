//! Who this process is among all those that the program has started: its name, and
//! the numbers that names are made of. A child is told by the boot message, and
//! gives numbers to its own children in turn.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::limits::NAME_BYTES_MAX;
use crate::start::message::ARG0_MARK;

/// What a new process is told about itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Birth {
    pub(crate) name: String,
    /// Its number among its parent's children, behind that of its parent among
    /// its own parent's, and so on.
    pub(crate) path: Vec<u32>,
    pub(crate) parent: String,
    pub(crate) parent_pid: u32,
}

/// Of the process that was not started by the program itself. Python's name.
pub(crate) const MAIN_NAME: &str = "MainProcess";

/// `None` in the main process.
static BIRTH: Mutex<Option<Arc<Birth>>> = Mutex::new(None);

/// How many children there were.
static CHILDREN: AtomicU32 = AtomicU32::new(0);

fn lock() -> MutexGuard<'static, Option<Arc<Birth>>> {
    BIRTH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who this process is; `None` for the main one.
pub(crate) fn birth() -> Option<Arc<Birth>> {
    lock().clone()
}

/// Notes who this process is. It has no children yet.
pub(crate) fn set_birth(birth: Birth) {
    *lock() = Some(Arc::new(birth));
    CHILDREN.store(0, Ordering::Relaxed);
}

impl Birth {
    /// The next child of this process, by name or, without one, by number. Both
    /// use the number up.
    pub(crate) fn of_child(name: Option<&str>) -> Birth {
        let number = CHILDREN.fetch_add(1, Ordering::Relaxed) + 1;
        let ours = birth();
        let mut path = ours.as_ref().map(|ours| ours.path.clone()).unwrap_or_default();
        path.push(number);
        let parent = ours.map_or_else(|| MAIN_NAME.to_owned(), |ours| ours.name.clone());
        let name = match name {
            Some(name) => clipped(name),
            None => numbered(&path),
        };
        Birth { name, path, parent, parent_pid: std::process::id() }
    }

    /// A helper of this process, which is none of its children and has no number.
    pub(crate) fn beside_children(name: &str) -> Birth {
        let ours = birth();
        let path = ours.as_ref().map(|ours| ours.path.clone()).unwrap_or_default();
        let parent = ours.map_or_else(|| MAIN_NAME.to_owned(), |ours| ours.name.clone());
        Birth { name: name.to_owned(), path, parent, parent_pid: std::process::id() }
    }

    /// How it shows in `ps`.
    pub(crate) fn arg0(&self) -> String {
        let ours = std::env::args_os().next().unwrap_or_default();
        let ours = ours.to_string_lossy();
        // In a worker that starts workers, the name of the program comes first.
        let program = ours.split(ARG0_MARK).next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default();
        format!("{program}{ARG0_MARK}{}", self.name)
    }
}

fn numbered(path: &[u32]) -> String {
    let numbers: Vec<String> = path.iter().map(u32::to_string).collect();
    format!("Process-{}", numbers.join(":"))
}

fn clipped(name: &str) -> String {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_pythons() {
        assert_eq!(numbered(&[1]), "Process-1");
        assert_eq!(numbered(&[1, 2, 1]), "Process-1:2:1");
    }

    #[test]
    fn every_child_uses_up_a_number() {
        let first = Birth::of_child(None);
        let named = Birth::of_child(Some("reader"));
        let next = Birth::of_child(None);
        assert_eq!((&named.name[..], &named.parent[..]), ("reader", MAIN_NAME));
        // Other tests start workers meanwhile.
        assert!(first.path < named.path && named.path < next.path);
        assert_eq!(next.name, format!("Process-{}", next.path[0]));
    }

    #[test]
    fn a_name_is_cut_at_a_characters_edge() {
        let long = "é".repeat(NAME_BYTES_MAX);
        assert_eq!(clipped(&long).len(), NAME_BYTES_MAX);
        assert_eq!(clipped(&format!("x{long}")).len(), NAME_BYTES_MAX - 1);
    }
}

//! What must hold of calls when the worker that had them was struck, whatever
//! the step.

use procession::{Exit, TaskError};

use crate::blow::Blow;
use crate::support::notes;

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fate {
    Answered,
    /// Its body may have begun, and has, as it noted.
    LostInBody,
    /// Its body may have begun, and has not come to its first note.
    LostBefore,
}

/// Judges calls that noted their number as they began, in the order in which
/// they were made: none ran twice, those that were answered ran, and at most
/// one was lost, to the blow.
#[track_caller]
pub(crate) fn judge<T>(
    results: &[Result<T, TaskError>],
    journal: &str,
    blow: Blow,
    struck: bool,
) -> Vec<Fate> {
    let notes = notes(journal);
    let mut fates = Vec::new();
    for (n, result) in results.iter().enumerate() {
        let starts = notes.iter().filter(|note| **note == n.to_string()).count();
        let fate = match result {
            Ok(_) => {
                assert_eq!(starts, 1, "{n} was answered");
                Fate::Answered
            }
            Err(error) => {
                assert!(struck && blow.is_deadly(), "{n}: {error}");
                assert!(matches!(error, TaskError::WorkerLost { .. }), "{n}: {blow:?}: {error}");
                assert_eq!(error.exit(), Some(Exit::from_signal(blow.number())));
                assert_eq!(error.started(), Some(true));
                assert!(starts <= 1, "{n} ran {starts} times");
                if starts == 1 { Fate::LostInBody } else { Fate::LostBefore }
            }
        };
        fates.push(fate);
    }
    let lost = fates.iter().filter(|fate| **fate != Fate::Answered).count();
    assert!(lost <= 1, "{blow:?}: {fates:?}");
    fates
}

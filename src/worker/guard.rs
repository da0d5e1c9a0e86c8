//! Catches panics at the task boundary and keeps what the caller will want to
//! know: message, place and stack. Used by the worker loop only.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use super::end_copies;
use crate::proto::message::PanicReport;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static REPORT: RefCell<Option<PanicReport>> = const { RefCell::new(None) };
}

/// Makes panics leave a report, beside what the program's own hook does. A worker
/// whose fork server had it done has it done.
pub(super) fn install_hook() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.swap(true, Ordering::Relaxed) {
        return;
    }
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if GUARDED.get() {
            let report = describe(info);
            REPORT.with_borrow_mut(|slot| *slot = Some(report));
        }
        previous(info);
    }));
}

/// Calls `f`; its panic becomes a report.
pub(super) fn guarded<R>(f: impl FnOnce() -> R) -> Result<R, PanicReport> {
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    end_copies();
    GUARDED.set(false);
    result.map_err(|payload| {
        let report = REPORT.with_borrow_mut(Option::take);
        let message = message(&*payload);
        // A payload may panic when dropped; the worker must not.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(second);
        }
        // The hook's report is of the last panic on this thread. A task that
        // replaced the hook, or resumed an older panic, left none.
        match report {
            Some(report) if message.as_ref().is_none_or(|m| *m == report.message) => report,
            _ => PanicReport { message: message.unwrap_or_default(), ..PanicReport::default() },
        }
        .clipped()
    })
}

fn describe(info: &PanicHookInfo<'_>) -> PanicReport {
    PanicReport {
        message: message(info.payload()).unwrap_or_else(|| "a value that is not text".into()),
        location: info.location().map(|location| location.to_string()),
        backtrace: Backtrace::force_capture().to_string(),
    }
}

fn message(payload: &(dyn Any + Send)) -> Option<String> {
    if let Some(text) = payload.downcast_ref::<&str>() {
        Some((*text).to_owned())
    } else {
        payload.downcast_ref::<String>().cloned()
    }
}

//! The bar, on a terminal; elsewhere only what went wrong.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress {
    bar: ProgressBar,
    before: u64,
}

impl Progress {
    /// Of so many in all, so many were there.
    pub(crate) fn new(all: u64, before: u64) -> Self {
        let template = "{bar:30.green} {pos}/{len}  {per_sec}  ETA {eta}  {msg}";
        let style = ProgressStyle::with_template(template).expect("it names what there is");
        let bar = ProgressBar::new(all).with_style(style).with_position(before);
        bar.set_message("0 failed");
        // The rate is that of this run.
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { bar, before }
    }

    pub(crate) fn set(&self, ended: u64, failed: u64) {
        self.bar.set_position(self.before + ended);
        self.bar.set_message(format!("{failed} failed"));
    }

    /// A line of its own, above the bar.
    pub(crate) fn complain(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    pub(crate) fn finish(&self) {
        self.bar.abandon();
    }
}

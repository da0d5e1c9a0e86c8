//! A moment to wait for, in whichever runtime asks: a timer of tokio's belongs to the one
//! that it was made in, and fails once that has ended.

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::runtime::{self, Handle};
use tokio::time::{Sleep, sleep_until};

#[derive(Debug)]
pub(super) struct Timer {
    at: Instant,
    /// Where it is waited for.
    seat: Option<(runtime::Id, Pin<Box<Sleep>>)>,
}

impl Timer {
    pub(super) fn after(most: Duration) -> Self {
        let now = Instant::now();
        // A century is as good as never.
        let at = now.checked_add(most).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400));
        Timer { at, seat: None }
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// # Panics
    ///
    /// In a runtime without a timer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        if is_nobody(cx) {
            return Poll::Pending;
        }
        let runtime = Handle::current().id();
        let seat = self.seat.take().filter(|(home, _)| *home == runtime);
        let new = || (runtime, Box::pin(sleep_until(self.at.into())));
        let (_, sleep) = self.seat.insert(seat.unwrap_or_else(new));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(())
    }
}

/// For polling what is waited for in another way than to be woken: such as by the system
/// call `poll`, in a thread without a runtime.
pub(super) fn nobody() -> &'static Waker {
    static NOBODY: OnceLock<Waker> = OnceLock::new();
    NOBODY.get_or_init(|| Waker::noop().clone())
}

pub(super) fn is_nobody(cx: &Context<'_>) -> bool {
    cx.waker().will_wake(nobody())
}

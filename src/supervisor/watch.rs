//! Waiting for a cancellation token on behalf of somebody who may never be
//! polled.

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

/// Does something once a token is cancelled, unless it is stopped before.
#[derive(Debug)]
pub(super) struct Watch(AbortHandle);

impl Watch {
    pub(super) fn start(
        runtime: &Handle,
        token: CancellationToken,
        act: impl FnOnce() + Send + 'static,
    ) -> Self {
        let watch = runtime.spawn(async move {
            token.cancelled().await;
            act();
        });
        Watch(watch.abort_handle())
    }

    pub(super) fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

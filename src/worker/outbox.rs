//! What a worker has answered and not yet sent. Answers are gathered here so
//! that a burst of short tasks costs one write; they are kept in the status
//! page, where they survive the worker: if a task kills it, the parent still
//! finds the answers of those before.
//!
//! Positions count bytes since the worker started. The ring holds
//! `sent..filled`; the parent knows how much it has received, and so which
//! part of the ring is news. What is too long for the ring goes into the socket
//! at once, and the page says from where on the ring can be believed.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::sys::page::{OUTBOX_BYTES, Page};

/// At most half of the ring is ever unsent, so that what the parent reads is
/// not overwritten while it does (see `transport`).
const UNSENT_BYTES_MAX: u64 = OUTBOX_BYTES as u64 / 2;

#[derive(Debug)]
pub(super) struct Outbox {
    page: Arc<Page>,
    socket: UnixStream,
    sent: u64,
    filled: u64,
}

impl Outbox {
    pub(super) fn new(page: Arc<Page>, socket: UnixStream) -> Self {
        Outbox { page, socket, sent: 0, filled: 0 }
    }

    /// Adds whole frames.
    pub(super) fn push(&mut self, frames: &[u8]) -> io::Result<()> {
        let len = frames.len() as u64;
        if self.filled - self.sent + len > UNSENT_BYTES_MAX {
            self.flush()?;
        }
        if len > UNSENT_BYTES_MAX {
            self.socket.write_all(frames)?;
            self.sent += len;
            self.filled += len;
            self.page.outbox_skip(self.filled);
        } else {
            self.page.outbox_write(self.filled, frames);
            self.filled += len;
        }
        self.page.outbox_publish(self.filled);
        Ok(())
    }

    /// Sends everything.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.filled {
            let n = self.page.outbox_send(self.socket.as_fd(), self.sent, self.filled)?;
            self.sent += n as u64;
        }
        Ok(())
    }
}

//! What a worker prints, where the pool captures it: line by line into
//! `tracing`, and the last of it kept for error reports.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;
use tracing::Span;

use crate::limits::{OUTPUT_LINE_BYTES_MAX, OUTPUT_TAIL_BYTES};
use crate::observe;
use crate::sys::fd;

/// Reads in one go, so that a worker that prints without end does not keep the
/// driver from its other work.
const READS_MAX: usize = 16;

/// The parent's end of one pipe.
#[derive(Debug)]
pub(super) struct Output {
    pipe: pipe::Receiver,
    stream: &'static str,
    line: Vec<u8>,
    tail: VecDeque<u8>,
    ended: bool,
}

impl Output {
    pub(super) fn new(fd: OwnedFd, stream: &'static str) -> io::Result<Self> {
        Ok(Output {
            pipe: pipe::Receiver::from_owned_fd(fd)?,
            stream,
            line: Vec::new(),
            tail: VecDeque::new(),
            ended: false,
        })
    }

    /// Takes in what there is. Never waits for more, so that a grandchild that
    /// holds the other end is not waited for.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, span: &Span) {
        let mut buffer = [0; 4096];
        for _ in 0..READS_MAX {
            if self.ended {
                return;
            }
            let mut read = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.pipe).poll_read(cx, &mut read) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => self.take(read.filled(), span),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(_) => {
                    self.ended = true;
                    self.end_line(span);
                }
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Takes in what a dead worker has left.
    pub(super) fn drain_now(&mut self, span: &Span) {
        let mut buffer = BytesMut::with_capacity(4096);
        for _ in 0..READS_MAX {
            match fd::read_into(self.pipe.as_fd(), &mut buffer, usize::MAX) {
                Ok(n) if n > 0 => self.take(&buffer, span),
                _ => break,
            }
            buffer.clear();
        }
        self.end_line(span);
    }

    /// The last that was printed.
    pub(super) fn tail(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn take(&mut self, bytes: &[u8], span: &Span) {
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(OUTPUT_TAIL_BYTES);
        self.tail.drain(..excess);
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line(span);
            } else {
                self.line.push(byte);
                if self.line.len() == OUTPUT_LINE_BYTES_MAX {
                    self.end_line(span);
                }
            }
        }
    }

    fn end_line(&mut self, span: &Span) {
        if !self.line.is_empty() {
            observe::worker_printed(span, self.stream, &String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}

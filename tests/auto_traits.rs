//! Which public types are `Send`, `Sync` and `Unpin`: a change is a breaking
//! one.

use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use futures::Stream;
use futures::stream::{self, FusedStream};
use procession::*;

fn send<T: Send>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}
fn send_sync<T: Send + Sync + 'static>() {}
fn send_value<T: Send>(_: T) {}

macro_rules! pinned {
    ($($traits:ident: $($type:ty),* $(,)?;)*) => {
        $($(let _: fn() = $traits::<$type>;)*)*
    };
}

#[test]
fn values_and_errors() {
    pinned! {
        send_sync: Pool, PoolBuilder, Status, Stats, WorkerInfo, WorkerState, RunningTask,
            PoolState, TaskStatus, Shutdown, Cancelled, Stdio, StartMethod, Resource, Exit,
            TaskId, WorkerId, TaskInfo, TaskError, SpawnError, RemotePanic, EncodeError,
            DecodeError, ProtocolError, TryApplyError<String>, SharedBytes, SharedBytesMut,
            Fd<std::net::TcpStream>, worker::ForwardError, Peers, RecvError, SendErrorKind,
            Connection<Rc<u8>>, Sender<Rc<u8>>, Receiver<Rc<u8>>;
        send: Listener;
        unpin: Pool, PoolBuilder, TaskError, SpawnError;
    }
    fn error<T: Error + Send + Sync + Clone + 'static>() {}
    pinned! {
        error: TaskError, SpawnError, RemotePanic, EncodeError, DecodeError, ProtocolError,
            TryApplyError<u8>, worker::ForwardError;
    }
}

/// Whatever is in them: what they hold is shared memory. Items are their holder's.
#[test]
fn queues() {
    pinned! {
        send_sync: Queue<Rc<u8>>, Producer<Rc<u8>>, Consumer<Rc<u8>>, QueueBuilder<Rc<u8>>,
            JoinableQueue<Rc<u8>>, JoinableQueueBuilder<Rc<u8>>, QueueItem<u8>, PutError<u8>,
            PutErrorKind, GetError, JoinError, QueueFault;
        unpin: Queue<u8>, Producer<u8>, Consumer<u8>, JoinableQueue<u8>, QueueItem<u8>;
    }
    fn error<T: Error + Send + Sync + Clone + 'static>() {}
    pinned! { error: PutError<u8>, PutErrorKind, GetError, JoinError, QueueFault; }
}

/// Only compiled: futures whose type has no name.
#[expect(dead_code, reason = "it is enough that it compiles")]
fn futures_of_a_queue(queue: &Queue<u8>, joinable: &JoinableQueue<u8>) {
    send_value(queue.put(1));
    send_value(queue.put_timeout(1, Duration::ZERO));
    send_value(queue.get());
    send_value(queue.get_timeout(Duration::ZERO));
    send_value(joinable.take());
    send_value(joinable.join());
    send_value(joinable.join_timeout(Duration::ZERO));
}

/// Whatever the task returns: what they hold is bytes.
#[test]
fn futures_and_handles_of_one_call() {
    pinned! {
        send: Apply<Rc<u8>>, TaskHandle<Rc<u8>>, TaskStream<Rc<u8>>;
        unpin: Apply<u8>, TaskHandle<u8>, TaskStream<u8>, Cancelling, CancelHandle;
        send_sync: TaskHandle<Rc<u8>>, CancelHandle, Cancelling;
        sync: TaskHandle<u8>;
    }
}

/// Whatever the function returns, as above.
#[test]
fn processes() {
    use procession::process::*;
    pinned! {
        send_sync: Process<Rc<u8>>, ProcessBuilder, Exited, ProcessStdin, ProcessStdout,
            ProcessStderr, CurrentProcess, ParentProcess, ChildInfo;
        unpin: Process<Rc<u8>>, Exited, ProcessStdin, ProcessStdout, ProcessStderr;
    }
}

/// These hold results, and are what the results are.
#[test]
fn futures_and_streams_of_many_calls() {
    pinned! {
        send: Map<u8>, MapHandle<u8>, Imap<u8>, Indexed<u8>;
        unpin: Map<u8>, MapHandle<u8>, Imap<u8>, Indexed<u8>;
    }
    fn fused<T: FusedStream + Stream + Send + Unpin>() {}
    pinned! { fused: Imap<u8>, TaskStream<u8>; }
}

/// Only compiled: futures whose type has no name.
#[expect(dead_code, reason = "it is enough that it compiles")]
fn futures_of_a_pool(pool: &Pool) {
    send_value(pool.ready());
    send_value(pool.join());
    send_value(pool.terminate());
    send_value(pool.shutdown(Duration::ZERO));
    send_value(pool.imap_stream(|n: u8| n, stream::iter([1])));
    send_value(worker::cancelled());
}

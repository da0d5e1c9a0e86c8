//! Every number that a peer can push on, with its reason.

use std::time::Duration;

/// Longest payload of one frame, unless the pool says otherwise: large enough
/// for a big image or matrix, small enough that a compromised worker cannot
/// fill the parent's memory with one answer.
pub(crate) const FRAME_BYTES_MAX_DEFAULT: usize = 256 << 20;

/// Smallest frame limit that `build()` accepts: hello frames and error
/// reports must always fit.
pub(crate) const FRAME_BYTES_MAX_LEAST: usize = 64 << 10;

/// Largest frame limit that `build()` accepts: lengths are 32 bits on the wire.
pub(crate) const FRAME_BYTES_MAX_MOST: usize = 2 << 30;

/// What a frame may hold beside its payload: fixed fields, and the answers of
/// a chunk that came before the one that reached the limit.
pub(crate) const FRAME_OVERHEAD_BYTES: usize = BATCH_REPLY_BYTES + (4 << 10);

/// A chunk's answers are sent early once they are this long.
pub(crate) const BATCH_REPLY_BYTES: usize = 1 << 20;

/// What a socket's own buffers may hold, generously: administrators raise the
/// default of 208 KiB.
pub(crate) const SOCKET_BYTES_MAX: usize = 64 << 20;

/// How many tasks can be in flight to one worker, and so how many words a
/// status page holds. Where they take no time, that is how many there are between two
/// sleeps of a worker: with 256, calls that are queued singly take some 10 % longer.
pub(crate) const SLOTS: usize = 1024;

/// Most calls that wait for whoever has the pool's lock next: what comes in the time in
/// which a driver takes in what its workers have sent.
pub(crate) const TICKETS_MOST: usize = 1024;

/// The ring in the status page: bytes of answers that can be on their way from
/// worker to parent. What is longer than half of it goes past it. Miri visits
/// each of its words for each reference to the page.
pub(crate) const OUTBOX_BYTES: usize = if cfg!(miri) { 4 << 10 } else { 64 << 10 };

/// How much of a chunk's answers is put down in the status page before the chunk is
/// answered: some thousand numbers. A chunk whose answers are longer ends early.
pub(crate) const TALLY_BYTES: usize = if cfg!(miri) { 4 << 10 } else { 16 << 10 };

/// Buffers that have grown beyond this are given back when they are empty.
pub(crate) const SPARE_BYTES_MAX: usize = 4 << 20;

/// `Bytes` of this length and more are sent from where they are, and received
/// ones share the memory of their payload. From 8 KiB on that is no slower than
/// to copy them, but what is shorter than this goes through the outbox in the
/// status page, and many small answers are one write.
pub(crate) const KEEP_BYTES_LEAST: usize = 32 << 10;

/// Answers that are longer are taken over with their buffer.
pub(crate) const COPY_BYTES_MAX: usize = 16 << 10;

/// But a received `Bytes` may keep at most so many times its own length alive:
/// what is a smaller part of its payload is copied.
pub(crate) const SHARED_WASTE_MAX: usize = 8;

/// How many descriptors one value may have attached, those of shared memory included:
/// an argument, a result, an item, a message. Each takes one at both ends, of which
/// most programs may have so many in all.
pub(crate) const ATTACHED_MAX: usize = 1024;

/// Calls or answers that go together in one frame are no more once so many are
/// attached to them. The last of them may bring as many as any value.
pub(crate) const TOGETHER_ATTACHED_MAX: usize = 64;

/// So what may be attached to a whole frame.
pub(crate) const LADEN_ATTACHED_MAX: usize = ATTACHED_MAX + TOGETHER_ATTACHED_MAX;

/// How many of these go with one message, of which the kernel takes 253 at most. What
/// is more goes with others, before it.
pub(crate) const FRAME_ATTACHED_MAX: usize = 128;

/// How many descriptors of one worker may have come and not been taken by those
/// they are for: half of those that this process may have, but not fewer than the
/// first of these and not more than the second, which are two messages and two
/// frames. What is more is closed, of which as many may be about to be.
pub(crate) const WAITING_FDS_LEAST: usize = 2 * FRAME_ATTACHED_MAX;
pub(crate) const WAITING_FDS_MAX: usize = 2 * LADEN_ATTACHED_MAX;

/// How long a worker is not read from because of that, before what is too much is
/// closed: callers may wait for what is behind it, and not for what is before.
pub(crate) const WAITING_FDS_WAIT: Duration = Duration::from_secs(5);

/// Frames of this length and more are received into buffers of their own,
/// which are used again: fresh memory costs a page fault for every 4 KiB,
/// which takes longer than to fill it.
pub(crate) const LARGE_BYTES_LEAST: usize = 256 << 10;

/// How many of these are kept for the next frames, for each worker at each
/// end. With two, one can hold what was received last while the other is filled.
pub(crate) const SPARES_MAX: usize = 2;

/// Those that are longer than this are not kept.
pub(crate) const SPARE_LARGE_BYTES_MAX: usize = 128 << 20;

/// How long they are kept when nothing comes: getting them anew takes some
/// twenty milliseconds at most.
pub(crate) const SPARE_WAIT: Duration = Duration::from_millis(500);

/// How deep values may nest, counted alike where they are encoded and where
/// they are decoded. serde_json stops at the same depth. In debug builds a
/// level of a struct with 40 fields takes under 3 KiB of stack in the encoder;
/// the decoder's levels also hold the value, several times over.
pub(crate) const DECODE_DEPTH_MAX: u32 = 128;

/// Bytes of a decoded value itself for which a level of it counts once more,
/// when decoded. In debug builds the decoder's frames take some nine times that.
pub(crate) const DECODE_LEVEL_BYTES: usize = 1 << 10;

/// And how often at the most: large arrays that are no recursion are honest.
pub(crate) const DECODE_LEVELS_EACH_MAX: usize = 8;

/// Heap that any payload may take when decoded, however short it is.
pub(crate) const DECODE_HEAP_BYTES_LEAST: usize = 16 << 20;

/// Heap per payload byte beyond that. A `Vec<String>` of empty strings needs
/// 24 bytes for each byte on the wire, and is honest.
pub(crate) const DECODE_HEAP_PER_BYTE: usize = 32;

/// What an element that has no size counts as, in bytes of heap: it takes none,
/// but time, and no byte on the wire either. Leaves a million of them, which a
/// `HashSet<()>` hashes in a moment; sixteen million took ten seconds in debug
/// builds.
pub(crate) const DECODE_UNIT_BYTES: usize = 16;

/// How many announced elements a type may make room for before they arrive.
/// 128 nested containers can lie about their length at once, and elements of
/// 100 bytes then cost 50 MiB; an honest long one grows a few times more.
pub(crate) const DECODE_HINT_ELEMENTS_MAX: usize = 4096;

/// Longest panic message, backtrace or error text that a worker sends.
pub(crate) const REPORT_TEXT_BYTES_MAX: usize = 16 << 10;

/// What is kept of a worker's captured stderr for error reports.
pub(crate) const OUTPUT_TAIL_BYTES: usize = 4 << 10;

/// Longest line of captured output that is reported as one event.
pub(crate) const OUTPUT_LINE_BYTES_MAX: usize = 8 << 10;

/// How long an answer may stay away after its task's word said `Done` and
/// somebody asked for the task's end.
pub(crate) const REPLY_WAIT: Duration = Duration::from_secs(1);

/// For a worker of which so much has come meanwhile, it may stay away as long again: a
/// long one is on its way, through a machine that has other things to do. Such a worker
/// keeps its place no longer than its longest frame, at a rate that any machine reaches.
pub(crate) const ARRIVAL_BYTES_LEAST: u64 = 1 << 20;

/// How long the answer of a task with a timeout may stay away at the least,
/// after its task's word said `Done` in time and nobody asked for its end: long
/// enough for the largest answers.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// How long a worker that has nothing else to do may take to begin what it was
/// sent before others get it, once it has moved no byte of it for as long. It
/// takes some 50 µs, unless the worker is kept from running.
pub(crate) const START_WAIT: Duration = Duration::from_millis(500);

/// And how long before it is replaced, where there are no others.
pub(crate) const START_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a worker that has nothing else to do may take to skip a task that
/// was taken back. It does so at once, unless it is kept from running.
pub(crate) const SKIP_WAIT: Duration = Duration::from_secs(10);

/// How long a worker whose socket has closed may take to die before it is
/// killed for it.
pub(crate) const EOF_TO_DEATH_WAIT: Duration = Duration::from_secs(1);

/// How long a worker that was told to leave may take before it is killed.
pub(crate) const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// How long a worker that was killed may take to be gone before it is killed
/// again. Only one that the kernel holds, or keeps from us, takes that long.
pub(crate) const KILL_AGAIN_WAIT: Duration = Duration::from_secs(1);

/// After a write for which the kernel had no memory.
pub(crate) const WRITE_AGAIN_WAIT: Duration = Duration::from_millis(5);

/// How long a worker may take to die of SIGKILL before its pool goes on without
/// it. Giving back many gigabytes takes seconds; a system call that waits for a
/// disk or a server that is not there takes for ever.
pub(crate) const DEATH_WAIT: Duration = Duration::from_secs(5);

/// How long a process that is to be copied waits for our own threads to come to rest.
/// Each does within microseconds, but for one that starts another process.
pub(crate) const FORK_WAIT: Duration = Duration::from_secs(5);

/// How long starts may wait behind others that do not come back before one more
/// thread makes them. A start takes milliseconds, and on a machine with far too
/// much to do it has taken almost five seconds.
pub(crate) const STARTER_WAIT: Duration = Duration::from_secs(5);

/// How many threads may start workers: all but one of them wait for a start that
/// does not come back, from a disk that does not answer.
pub(crate) const STARTERS_MAX: usize = 16;

/// Longest name of a process, in bytes. It is in the boot message, which must fit
/// into the socket's buffer, and in `argv[0]`.
pub(crate) const NAME_BYTES_MAX: usize = 4 << 10;

/// How many clients of a listener may be in the middle of proving that they know its
/// key. When one more comes the oldest has taken too long.
pub(crate) const HANDSHAKES_MAX: usize = 64;

/// And how long each may take, unless the listener says otherwise. It takes a
/// millisecond.
pub(crate) const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// Bytes that a queue may hold, unless it is told otherwise: a ring without
/// memory where nothing lies. Far more than a consumer that is merely slow
/// leaves behind, and little enough that one that has stopped does not fill the
/// machine.
pub(crate) const QUEUE_BYTES_MAX_DEFAULT: u64 = 1 << 30;

/// Least of it that can be asked for, and most. Lengths of items are 32 bits, and
/// none is longer than half.
pub(crate) const QUEUE_BYTES_MAX_LEAST: u64 = 64 << 10;
pub(crate) const QUEUE_BYTES_MAX_MOST: u64 = 8 << 30;

/// A get reads so many bytes at once, which is a whole item mostly.
pub(crate) const QUEUE_READ_BYTES: usize = 1 << 10;

/// An item that says it is longer than this is believed only if there is memory
/// behind it: a ring full of holes costs who wrote it nothing.
pub(crate) const QUEUE_TRUSTED_BYTES: usize = 1 << 20;

/// Whoever waits on a joinable queue, or takes, looks that often for holders that have
/// died: their end wakes nobody.
pub(crate) const QUEUE_LEASE_WAIT: Duration = Duration::from_millis(50);

/// A queue's lock is held for microseconds. Whoever finds it taken tries again at
/// once so often, then lets others run so often, and then sleeps between tries: its
/// holder has been stopped, or moves many megabytes.
pub(crate) const QUEUE_SPINS: u32 = 64;
pub(crate) const QUEUE_YIELDS: u32 = 32;
pub(crate) const QUEUE_LOCK_WAIT_LEAST: Duration = Duration::from_millis(1);
pub(crate) const QUEUE_LOCK_WAIT_MOST: Duration = Duration::from_millis(20);

/// After so many wake-ups in a row for nothing, which others can cause if they
/// mean to, one sleeps before the next.
pub(crate) const QUEUE_FALSE_WAKES_MAX: u32 = 16;

/// Whoever does not want to wait waits so long for a lock all the same, before it
/// takes the queue for empty, or full: far longer than its holder can be kept from
/// a processor that is merely busy.
pub(crate) const QUEUE_TRY_WAIT: Duration = Duration::from_millis(100);

/// Fields of one event or span that a worker's `tracing` sends. The macros allow
/// 32, and the parent adds two.
pub(crate) const TRACE_FIELDS_MAX: usize = 28;

/// Longest name in it: of a field, a target, a file.
pub(crate) const TRACE_NAME_BYTES_MAX: usize = 256;

/// Texts of one event or span together, as long as a line of captured output. With
/// all its names it fits into the ring of the status page.
pub(crate) const TRACE_TEXT_BYTES_MAX: usize = 8 << 10;

/// What a worker may say at once, and then in each second: some four thousand
/// events of the usual length, and then a thousand, more than anybody reads. It drops
/// what is beyond, and counts it.
pub(crate) const TRACE_BURST_BYTES: u64 = 1 << 20;
pub(crate) const TRACE_BYTES_PER_SECOND: u64 = 256 << 10;

/// What a short event counts as: it takes as long to tell as one of this length.
pub(crate) const TRACE_BYTES_LEAST: usize = 256;

/// How much of that the parent tells of at once: it may have gathered in the socket.
pub(crate) const TRACE_BURST_HEARD_BYTES: u64 = 2 * TRACE_BURST_BYTES;

/// And what it reads for each second that there has been the worker, beyond that:
/// only one that does not keep to its own limit says more, and keeps us busy with it.
pub(crate) const TRACE_BYTES_PER_SECOND_MOST: u64 = 2 * TRACE_BYTES_PER_SECOND;

/// Spans of one worker that are open at a time. Others are told of as if they were
/// the span around them.
pub(crate) const TRACE_SPANS_MAX: usize = 256;

/// Places in workers' programs that the parent knows by name: `tracing` keeps them
/// for ever, some hundred bytes each. Those beyond share one for each level.
pub(crate) const TRACE_PLACES_MAX: usize = 2048;

/// How many of these one worker may add, so that one which was taken over does not
/// use them all up.
pub(crate) const TRACE_PLACES_EACH_MAX: usize = 512;

/// Longest label or `tracestate` that goes to a worker for its span of the call:
/// what W3C Trace Context asks everybody to carry.
pub(crate) const CONTEXT_TEXT_BYTES_MAX: usize = 512;

//! Places of workers' programs as `tracing` wants to know its own: for ever, and by
//! address. Each is kept once, and there is a bound on how many are; beyond it, all
//! of one level and kind share one, which has their target and fields as values.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::callsite::{Callsite, Identifier, register};
use tracing::field::FieldSet;
use tracing::metadata::Kind;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata};

use crate::limits::TRACE_PLACES_MAX;
use crate::proto::trace::{self, Place};

/// What every forwarded event has beside its own fields.
pub(super) const OWN_FIELDS: [&str; 2] = ["worker.name", "worker.pid"];

/// What is told instead of the place and the fields of one that is not known.
pub(super) const UNKNOWN_FIELDS: [&str; 3] = ["message", "forwarded.target", "forwarded.fields"];

/// A place that `tracing` knows.
#[derive(Debug)]
pub(super) struct Known {
    metadata: OnceLock<Metadata<'static>>,
    interest: AtomicU8,
    /// It stands for others, and has [`UNKNOWN_FIELDS`].
    pub(super) is_shared: bool,
}

const NEVER: u8 = 0;
const SOMETIMES: u8 = 1;

impl Known {
    pub(super) fn metadata(&self) -> &Metadata<'static> {
        self.metadata.get().expect("set before it is listed")
    }

    /// Whether somebody may listen.
    pub(super) fn may_interest(&self) -> bool {
        self.interest.load(Ordering::Relaxed) != NEVER
    }
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Key {
    place: Place,
    fields: Vec<String>,
    is_span: bool,
}

static PLACES: Mutex<Option<HashMap<Key, &'static Known>>> = Mutex::new(None);

/// The place that has these fields. It is made known, if it is not, out of `left`.
pub(super) fn find<'a>(
    place: &Place,
    fields: impl Iterator<Item = &'a str>,
    is_span: bool,
    left: &mut usize,
) -> &'static Known {
    let fields = fields.map(str::to_owned).collect();
    let mut key = Key { place: place.clone(), fields, is_span };
    let mut guard = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let places = guard.get_or_insert_default();
    if let Some(known) = places.get(&key) {
        return known;
    }
    let is_shared = *left == 0 || places.len() >= TRACE_PLACES_MAX;
    if !is_shared {
        *left -= 1;
    } else {
        key = shared(key.place.level, is_span);
        if let Some(known) = places.get(&key) {
            return known;
        }
    }
    let known = make(&key, is_shared);
    places.insert(key, known);
    drop(guard);
    // Without the lock: this asks the program's subscriber.
    register(known);
    known
}

/// What stands for all of this level that are not known.
fn shared(level: trace::Level, is_span: bool) -> Key {
    let name = if is_span { "span" } else { "event" };
    let place = Place {
        name: name.to_owned(),
        target: "procession::forwarded".to_owned(),
        level,
        module: None,
        file: None,
        line: None,
    };
    Key { place, fields: UNKNOWN_FIELDS.map(str::to_owned).into(), is_span }
}

fn make(key: &Key, is_shared: bool) -> &'static Known {
    let Place { name, target, level, module, file, line } = &key.place;
    let known: &'static Known = Box::leak(Box::new(Known {
        metadata: OnceLock::new(),
        // Until the subscriber has been asked.
        interest: AtomicU8::new(SOMETIMES),
        is_shared,
    }));
    let fields = key.fields.iter().map(|name| leak(name)).chain(OWN_FIELDS);
    let fields: &'static [&'static str] = Box::leak(fields.collect());
    let _ = known.metadata.set(Metadata::new(
        leak(name),
        leak(target),
        level_of(*level),
        file.as_deref().map(leak),
        *line,
        module.as_deref().map(leak),
        FieldSet::new(fields, Identifier(known)),
        if key.is_span { Kind::SPAN } else { Kind::EVENT },
    ));
    known
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.into())
}

fn level_of(level: trace::Level) -> Level {
    match level {
        trace::Level::Error => Level::ERROR,
        trace::Level::Warn => Level::WARN,
        trace::Level::Info => Level::INFO,
        trace::Level::Debug => Level::DEBUG,
        trace::Level::Trace => Level::TRACE,
    }
}

impl Callsite for Known {
    fn set_interest(&self, interest: Interest) {
        let interest = if interest.is_never() { NEVER } else { SOMETIMES };
        self.interest.store(interest, Ordering::Relaxed);
    }

    fn metadata(&self) -> &Metadata<'_> {
        Known::metadata(self)
    }
}

//! Keeps what `tracing` is told, for tests that look.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) target: String,
    pub(crate) level: Level,
    pub(crate) fields: Fields,
    /// Names and fields of the spans it is in, from the inside out.
    pub(crate) spans: Vec<(&'static str, Fields)>,
}

impl Record {
    pub(crate) fn message(&self) -> &str {
        self.fields.get("message").unwrap_or_default()
    }
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Fields(BTreeMap<&'static str, String>);

impl Fields {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = self.0.entry(field.name()).or_default();
        write!(text, "{value:?}").unwrap();
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

static RECORDS: Mutex<Vec<Record>> = Mutex::new(Vec::new());

/// Spans that have ended.
static ENDED: Mutex<Vec<Fields>> = Mutex::new(Vec::new());

fn records() -> MutexGuard<'static, Vec<Record>> {
    RECORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets what was, and keeps what comes.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Keep);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
    records().clear();
}

/// What came from `target` so far.
pub(crate) fn heard(target: &str) -> Vec<Record> {
    records().iter().filter(|record| record.target == target).cloned().collect()
}

/// Whether a span that names this pool has ended.
pub(crate) fn has_ended(pool: &str) -> bool {
    let ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
    ended.iter().any(|fields| fields.get("pool") == Some(pool))
}

pub(crate) struct Keep;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keep {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &tracing::span::Record<'_>, context: Context<'_, S>) {
        values.record(context.span(id).unwrap().extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let scope = context.event_scope(event).into_iter().flatten();
        let spans = scope.map(|span| {
            (span.name(), span.extensions().get::<Fields>().cloned().unwrap_or_default())
        });
        records().push(Record {
            target: event.metadata().target().to_owned(),
            level: *event.metadata().level(),
            fields,
            spans: spans.collect(),
        });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let fields = context.span(&id).unwrap().extensions().get::<Fields>().cloned();
        ENDED.lock().unwrap_or_else(PoisonError::into_inner).extend(fields);
    }
}

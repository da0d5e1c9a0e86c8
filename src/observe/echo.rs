//! Tells this process's `tracing` what that of a worker was told, within the span of
//! the call that it is about. One for each worker, used by its link. Believes
//! nothing of what it is given, and keeps little.

use std::collections::HashMap;

use tracing::field::{self, Value as Recorded};
use tracing::{Dispatch, Event, Metadata, Span, dispatcher};

use super::places::{self, Known};
use super::{HeldSpan, guarded};
use crate::limits::{
    TRACE_BURST_HEARD_BYTES, TRACE_BYTES_PER_SECOND, TRACE_BYTES_PER_SECOND_MOST,
    TRACE_PLACES_EACH_MAX, TRACE_SPANS_MAX,
};
use crate::proto::peer::{ProtocolError, Violation};
use crate::proto::trace::{Allowance, Field, News, Record, Scene, Value};
use crate::time::Time;

/// What one worker's `tracing` is told, here.
#[derive(Debug)]
pub(crate) struct Echo {
    /// The worker's name, as in `ps`.
    name: String,
    pid: u32,
    /// Spans of it that are open. Where nobody listens to one, that around it.
    spans: HashMap<u64, Open>,
    /// What it may say, and what may be told of that.
    oath: Allowance,
    allowance: Allowance,
    /// Places that it may make known yet.
    places_left: usize,
    /// What it said beyond that, and nobody has been told of.
    unheard: u64,
}

#[derive(Debug)]
struct Open {
    span: HeldSpan,
    /// `None` if nobody listens to it.
    known: Option<&'static Known>,
}

/// As many values as `tracing` takes at once.
const VALUES: usize = 32;

impl Echo {
    /// `trusted`: it is believed where in the program something was said.
    pub(crate) fn new(now: Time, name: String, pid: u32, trusted: bool) -> Self {
        let (burst, most) = (TRACE_BURST_HEARD_BYTES, TRACE_BYTES_PER_SECOND_MOST);
        Echo {
            oath: Allowance::gathering(now, burst, most),
            places_left: if trusted { TRACE_PLACES_EACH_MAX } else { 0 },
            name,
            pid,
            spans: HashMap::new(),
            allowance: Allowance::new(burst, TRACE_BYTES_PER_SECOND),
            unheard: 0,
        }
    }

    /// Whether so much more is told of now. If not, it is counted and not even read.
    ///
    /// # Errors
    ///
    /// If no honest worker would have said so much.
    pub(crate) fn admits(&mut self, now: Time, bytes: usize) -> Result<bool, ProtocolError> {
        if !self.oath.take(now, bytes) {
            return Err(ProtocolError(Violation::TooMuchSaid));
        }
        let admitted = self.allowance.take(now, bytes);
        self.unheard += u64::from(!admitted);
        Ok(admitted)
    }

    /// Tells what a worker said, within the span of its call.
    pub(crate) fn tell(&mut self, news: News, call: &Span) {
        for id in news.closed {
            self.spans.remove(&id);
        }
        let dropped = news.dropped.saturating_add(std::mem::take(&mut self.unheard));
        if dropped > 0 {
            guarded(|| self.tell_dropped(dropped, call));
        }
        match news.record {
            None => {}
            Some(Record::Event { span, scene }) => {
                guarded(|| self.tell_event(span, &scene, call));
            }
            Some(Record::Span { id, parent, scene }) => {
                // A number is used once; and if there is no room, what is in it is
                // told of as being in the call.
                if self.spans.len() >= TRACE_SPANS_MAX || self.spans.contains_key(&id) {
                    return;
                }
                if let Some(open) = guarded(|| self.open(parent, &scene, call)) {
                    self.spans.insert(id, open);
                }
            }
            Some(Record::Values { span, fields }) => {
                guarded(|| self.tell_values(span, &fields));
            }
        }
    }

    fn tell_dropped(&self, dropped: u64, call: &Span) {
        within(call, |parent| {
            tracing::warn!(
                target: "procession::worker", parent: parent, dropped,
                worker.name = self.name, worker.pid = self.pid,
                "said too much at once"
            );
        });
    }

    fn tell_event(&mut self, span: u64, scene: &Scene, call: &Span) {
        let span = self.spans.get(&span).map_or(call, |open| &open.span);
        let Some(known) = listened_to(span, scene, false, &mut self.places_left) else {
            return;
        };
        self.with_values(known, &scene.fields, Some(scene), |metadata, values| {
            within(span, |parent| Event::child_of(parent.id(), metadata, values));
        });
    }

    fn open(&mut self, parent: u64, scene: &Scene, call: &Span) -> Open {
        let parent = self.spans.get(&parent).map_or(call, |open| &open.span);
        let known = listened_to(parent, scene, true, &mut self.places_left);
        let span = HeldSpan::open(|| match known {
            Some(known) => {
                self.with_values(known, &scene.fields, Some(scene), |metadata, values| {
                    within(parent, |parent| Span::child_of(parent.id(), metadata, values))
                })
            }
            None => parent.clone(),
        });
        Open { span, known }
    }

    fn tell_values(&self, span: u64, fields: &[Field]) {
        let Some(Open { span, known: Some(known) }) = self.spans.get(&span) else { return };
        if !known.is_shared {
            self.with_values(known, fields, None, |_, values| {
                span.record_all(values);
            });
        }
    }

    /// Calls `f` with the values of these fields, and whose they are.
    fn with_values<R>(
        &self,
        known: &'static Known,
        fields: &[Field],
        scene: Option<&Scene>,
        f: impl FnOnce(&'static Metadata<'static>, &field::ValueSet<'_>) -> R,
    ) -> R {
        let metadata = known.metadata();
        let mut given: Vec<(field::Field, Box<dyn Recorded + '_>)> = Vec::new();
        let mut give = |name: &str, value| {
            // Its last names are our own, whatever else has the same.
            if let Some(field) = metadata.fields().iter().find(|field| field.name() == name) {
                given.push((field, value));
            }
        };
        match scene {
            Some(scene) if known.is_shared => {
                let [message, target, rest] = places::UNKNOWN_FIELDS;
                let is_message = |field: &&Field| field.name == "message";
                if let Some(value) = fields.iter().find(is_message).and_then(|f| f.value.as_ref()) {
                    give(message, recorded(value));
                }
                give(target, Box::new(&scene.place.target));
                let others = fields.iter().filter(|field| !is_message(field));
                give(
                    rest,
                    Box::new(field::display(others.map(text).collect::<Vec<_>>().join(" "))),
                );
            }
            _ => {
                for Field { name, value } in fields {
                    if let Some(value) = value {
                        give(name, recorded(value));
                    }
                }
            }
        }
        if scene.is_some() {
            let [name, pid] = places::OWN_FIELDS;
            give(name, Box::new(&self.name));
            give(pid, Box::new(self.pid));
        }
        // What it does not take, and there are never so many, is left out.
        given.truncate(VALUES);
        let nothing = metadata.fields().iter().next().expect("it has our own");
        let values: [(&field::Field, Option<&dyn Recorded>); VALUES] =
            std::array::from_fn(|index| match given.get(index) {
                Some((field, value)) => (field, Some(&**value)),
                None => (&nothing, None),
            });
        f(metadata, &metadata.fields().value_set(&values))
    }
}

/// The place of a scene, if somebody listens to that where `span` is heard.
fn listened_to(
    span: &Span,
    scene: &Scene,
    is_span: bool,
    places_left: &mut usize,
) -> Option<&'static Known> {
    let names = scene.fields.iter().map(|field| &*field.name);
    let known = places::find(&scene.place, names, is_span, places_left);
    let listens = |dispatch: &Dispatch| known.may_interest() && dispatch.enabled(known.metadata());
    let listens = span
        .with_subscriber(|(_, dispatch)| listens(dispatch))
        .unwrap_or_else(|| dispatcher::get_default(listens));
    listens.then_some(known)
}

/// Calls `f` with this span, where it is heard.
fn within<R>(span: &Span, f: impl FnOnce(&Span) -> R) -> R {
    let dispatch = span.with_subscriber(|(_, dispatch)| dispatch.clone());
    match dispatch {
        Some(dispatch) => dispatcher::with_default(&dispatch, || f(span)),
        None => f(span),
    }
}

fn recorded(value: &Value) -> Box<dyn Recorded + '_> {
    match value {
        Value::Bool(value) => Box::new(*value),
        Value::I64(value) => Box::new(*value),
        Value::U64(value) => Box::new(*value),
        Value::I128(value) => Box::new(*value),
        Value::U128(value) => Box::new(*value),
        Value::F64(value) => Box::new(*value),
        Value::Str(value) => Box::new(value.as_str()),
        Value::Text(value) => Box::new(field::display(value)),
    }
}

/// A field as text, for where it has no name of its own.
fn text(field: &Field) -> String {
    let name = &field.name;
    match &field.value {
        None => name.clone(),
        Some(Value::Bool(value)) => format!("{name}={value}"),
        Some(Value::I64(value)) => format!("{name}={value}"),
        Some(Value::U64(value)) => format!("{name}={value}"),
        Some(Value::I128(value)) => format!("{name}={value}"),
        Some(Value::U128(value)) => format!("{name}={value}"),
        Some(Value::F64(value)) => format!("{name}={value}"),
        Some(Value::Str(value)) => format!("{name}={value:?}"),
        Some(Value::Text(value)) => format!("{name}={value}"),
    }
}

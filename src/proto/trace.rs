//! What a worker's `tracing` is told, as it travels: the body of a `Trace` frame.
//! Written by `worker/forward.rs`, told again by `observe/echo.rs`. Nothing here is
//! worth a task's time, so all of it has bounds, and what is over them is cut, or
//! dropped and counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::codec;
use super::message::MessageError;
use crate::limits::{
    TRACE_BYTES_LEAST, TRACE_FIELDS_MAX, TRACE_NAME_BYTES_MAX, TRACE_TEXT_BYTES_MAX,
};
use crate::time::Time;

/// One frame's news.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct News {
    /// Records that came before this one and were dropped.
    pub(crate) dropped: u64,
    /// Spans that have ended.
    pub(crate) closed: Vec<u64>,
    pub(crate) record: Option<Record>,
}

/// What happened. Spans have numbers that a worker uses once; 0 is the span of the
/// call, or of the worker where the frame is of no task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Record {
    Event { span: u64, scene: Scene },
    Span { id: u64, parent: u64, scene: Scene },
    Values { span: u64, fields: Vec<Field> },
}

/// Where in the program it is, and its values.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) fields: Vec<Field>,
}

/// What does not change from one time to the next.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) level: Level,
    pub(crate) module: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}

/// `tracing`'s levels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// One field, and its value if it has one yet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: Option<Value>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Value {
    Bool(bool),
    I64(i64),
    U64(u64),
    I128(i128),
    U128(u128),
    F64(f64),
    /// A string.
    Str(String),
    /// What `Debug` or `Display` made of something else.
    Text(String),
}

impl News {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        codec::encode_into(self, &mut body, usize::MAX)
            .unwrap_or_else(|failure| unreachable!("plain data encodes: {failure:?}"));
        body
    }

    /// Reads what a worker sent, and cuts what is over its bounds.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let malformed = |_| MessageError::Malformed("trace");
        codec::decode::<Self>(body).map(Self::clipped).map_err(malformed)
    }

    /// Cuts texts, and drops fields, beyond what one record may hold.
    pub(crate) fn clipped(mut self) -> Self {
        let fields = match &mut self.record {
            None => return self,
            Some(Record::Event { scene, .. } | Record::Span { scene, .. }) => {
                scene.place.clip();
                &mut scene.fields
            }
            Some(Record::Values { fields, .. }) => fields,
        };
        fields.truncate(TRACE_FIELDS_MAX);
        let mut room = TRACE_TEXT_BYTES_MAX;
        for field in fields {
            clip(&mut field.name, TRACE_NAME_BYTES_MAX);
            if let Some(Value::Str(text) | Value::Text(text)) = &mut field.value {
                clip(text, room);
                room = room.saturating_sub(text.len());
            }
        }
        self
    }
}

impl Place {
    fn clip(&mut self) {
        let texts = [&mut self.name, &mut self.target].into_iter();
        let texts = texts.chain(&mut self.module).chain(&mut self.file);
        texts.for_each(|text| clip(text, TRACE_NAME_BYTES_MAX));
    }
}

/// Cuts a text to `most` bytes, at a character's edge, and says so behind it.
fn clip(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
}

/// How much may be said: so many bytes at once, and so many more each second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    most: u64,
    each_second: u64,
    left: u64,
    filled_at: Time,
}

const SECOND_NANOS: u128 = 1_000_000_000;

impl Allowance {
    pub(crate) const fn new(most: u64, each_second: u64) -> Self {
        Allowance { most, each_second, left: most, filled_at: Time(0) }
    }

    /// One that gathers from now on, without end.
    pub(crate) const fn gathering(now: Time, left: u64, each_second: u64) -> Self {
        Allowance { most: u64::MAX, each_second, left, filled_at: now }
    }

    /// Takes `bytes` of it, if there are so many. Few count as more.
    pub(crate) fn take(&mut self, now: Time, bytes: usize) -> bool {
        let nanos = (now - self.filled_at).as_nanos();
        let earned = nanos * u128::from(self.each_second) / SECOND_NANOS;
        self.left = self.left.saturating_add(u64::try_from(earned).unwrap_or(u64::MAX));
        if self.left >= self.most {
            (self.left, self.filled_at) = (self.most, now);
        } else {
            // Not all that has passed: what is less than a byte's time counts later.
            let counted = earned * SECOND_NANOS / u128::from(self.each_second);
            self.filled_at = self.filled_at + Duration::from_nanos(counted as u64);
        }
        let bytes = bytes.max(TRACE_BYTES_LEAST) as u64;
        let has = self.left >= bytes;
        if has {
            self.left -= bytes;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::frame::REPORT_BYTES_MAX;

    fn place(text: &str) -> Place {
        let text = || text.to_owned();
        Place {
            name: text(),
            target: text(),
            level: Level::Info,
            module: Some(text()),
            file: Some(text()),
            line: Some(1),
        }
    }

    fn record(text: &str, fields: usize) -> News {
        let field = |n| Field {
            name: format!("{n}{text}"),
            value: Some(if n % 2 == 0 {
                Value::Str(text.into())
            } else {
                Value::Text(text.into())
            }),
        };
        let scene = Scene { place: place(text), fields: (0..fields).map(field).collect() };
        News { record: Some(Record::Event { span: 7, scene }), ..News::default() }
    }

    #[test]
    fn what_is_too_long_is_cut_and_fits_a_frame() {
        let news = record(&"é".repeat(100_000), 1000).clipped();
        assert!(news.encode().len() < REPORT_BYTES_MAX / 2, "{}", news.encode().len());
        let Some(Record::Event { scene, .. }) = &news.record else { unreachable!() };
        assert_eq!(scene.fields.len(), TRACE_FIELDS_MAX);
        assert!(scene.place.target.ends_with('…'));
        assert!(News::decode(&news.encode()).unwrap().record.is_some());
    }

    #[test]
    fn so_much_at_once_and_then_so_much_a_second() {
        let mut allowance = Allowance::new(1000, 100);
        let at = |tenths: u64| Time(1 << 40) + Duration::from_millis(100 * tenths);
        assert!(allowance.take(at(0), 600) && !allowance.take(at(0), 600));
        assert!(allowance.take(at(0), 400) && !allowance.take(at(0), 1));
        assert!(!allowance.take(at(40), 401) && allowance.take(at(40), 400));
        assert!(!allowance.take(at(65), 1), "a short one counts as more");
        assert!(allowance.take(at(66), 1));
        assert!(
            allowance.take(at(1000), 1000) && !allowance.take(at(1000), 1),
            "no more than that"
        );
        // Clocks of two processors may differ.
        assert!(!allowance.take(at(10), 1));
    }

    #[test]
    fn what_gathers_is_never_less_than_was_earned() {
        let mut allowance = Allowance::gathering(Time(7), 0, 3);
        // Looked at far more often than it earns anything.
        let mut taken = 0;
        for millis in 0..200_000 {
            taken += u64::from(allowance.take(Time(7) + Duration::from_millis(millis), 1));
        }
        assert_eq!(taken, 600 / TRACE_BYTES_LEAST as u64);
    }

    proptest! {
        #[test]
        fn short_ones_come_back_as_they_were(text in "\\PC{0,20}", fields in 0..TRACE_FIELDS_MAX) {
            let news = record(&text, fields);
            prop_assert_eq!(News::decode(&news.encode()).unwrap(), news);
        }

        #[test]
        fn anything_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(news) = News::decode(&bytes) {
                prop_assert_eq!(News::decode(&news.clone().clipped().encode()).unwrap().closed, news.closed);
            }
        }
    }
}

//! Feature `opentelemetry`: the caller's trace, as W3C Trace Context writes it, and
//! the span in the worker that goes on with it.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::limits::CONTEXT_TEXT_BYTES_MAX;

/// `traceparent` and `tracestate` of this span, or else of where we are.
pub(super) fn trace_of(span: &Span) -> Option<(String, String)> {
    let of = |context: Context| {
        let context = context.span().span_context().clone();
        context.is_valid().then_some(context)
    };
    let context = of(span.context()).or_else(|| of(Context::current()))?;
    let (trace, span) = (context.trace_id(), context.span_id());
    let state = context.trace_state().header();
    let state = if state.len() <= CONTEXT_TEXT_BYTES_MAX { state } else { String::new() };
    Some((format!("00-{trace}-{span}-{:02x}", context.trace_flags().to_u8()), state))
}

/// Makes `span` a child of that.
pub(super) fn go_on(span: &Span, (parent, state): &(String, String)) {
    if let Some(context) = context(parent, state) {
        // Refused by a span that nobody exports.
        let _ = span.set_parent(Context::new().with_remote_span_context(context));
    }
}

fn context(parent: &str, state: &str) -> Option<SpanContext> {
    let mut parts = parent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    let state = state.parse().unwrap_or(TraceState::NONE);
    Some(SpanContext::new(trace, span, flags, true, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_as_it_was_written() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = context(parent, "a=1,b=2").unwrap();
        assert_eq!(read.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(read.span_id().to_string(), "b7ad6b7169203331");
        assert!(read.is_sampled() && read.is_remote());
        assert_eq!(read.trace_state().header(), "a=1,b=2");
        assert!(context("", "").is_none() && context("00-x-y-z", "").is_none());
    }
}

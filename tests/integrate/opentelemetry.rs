//! The caller's trace goes on in the worker: the same trace, and each span's parent is
//! the right one, as exporters on both sides see them.

use std::sync::OnceLock;

use futures::StreamExt;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use procession::Pool;
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::support::checked_current_thread;

/// Name, trace, span and its parent, as text.
type Exported = (String, String, String, String);

/// A layer for `tracing`, and where its spans come out.
fn exporting<S>() -> (impl tracing_subscriber::Layer<S> + Send + Sync, InMemorySpanExporter)
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    (layer, exporter)
}

fn spans_of(exporter: &InMemorySpanExporter) -> Vec<Exported> {
    let spans = exporter.get_finished_spans().unwrap();
    exporter.reset();
    let told = spans.into_iter().map(|span| {
        let context = span.span_context;
        let parent = span.parent_span_id.to_string();
        (span.name.into(), context.trace_id().to_string(), context.span_id().to_string(), parent)
    });
    told.collect()
}

/// The worker's own.
static EXPORTER: OnceLock<InMemorySpanExporter> = OnceLock::new();

fn export() {
    let (layer, exporter) = exporting();
    let _ = EXPORTER.set(exporter);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
}

/// What the worker has exported since it was last asked.
fn exported() -> Vec<Exported> {
    spans_of(EXPORTER.get().unwrap())
}

fn work(n: u64) -> u64 {
    info_span!("inside").in_scope(|| n + 1)
}

fn items(n: u64) -> impl Iterator<Item = u64> {
    (0..n).inspect(|_| drop(info_span!("item").entered()))
}

#[test]
fn spans_of_workers_are_children_of_the_callers() {
    checked_current_thread(async {
        let (layer, exporter) = exporting();
        let subscriber = tracing_subscriber::registry()
            .with(tracing::level_filters::LevelFilter::INFO)
            .with(layer);
        let _guard = tracing::subscriber::set_default(subscriber);
        let pool = Pool::builder().workers(1).initializer(export, ()).build().unwrap();
        for kind in ["apply", "map", "stream", "apply again"] {
            let request = info_span!("request", kind);
            async {
                match kind {
                    "map" => drop(pool.map(work, 0..3).chunk_size(3).await.unwrap()),
                    "stream" => drop(pool.stream(items, 3).collect::<Vec<_>>().await),
                    _ => drop(pool.apply(work, 1).await.unwrap()),
                }
            }
            .instrument(request)
            .await;
            // Its own span comes out when it has ended, which is before the next call.
            let theirs = pool.apply(exported, ()).await.unwrap();
            let ours = spans_of(&exporter);
            let [(name, trace, request, parent)] = &ours[..] else { panic!("{kind}: {ours:?}") };
            assert_eq!((&**name, &*parent.replace('0', "")), ("request", ""), "{kind}");
            let call = theirs.iter().find(|(name, t, ..)| name == "task" && t == trace);
            let (.., call, parent) = call.unwrap_or_else(|| panic!("{kind}: {theirs:?}"));
            assert_eq!(parent, request, "{kind}");
            let within: Vec<_> = theirs.iter().filter(|(.., parent)| parent == call).collect();
            assert_eq!(within.len(), if kind.starts_with("apply") { 1 } else { 3 }, "{kind}");
            assert!(within.iter().all(|(_, t, ..)| t == trace), "{kind}: {theirs:?}");
        }
        // Nobody's call is nobody's child.
        pool.apply(work, 1).await.unwrap();
        let theirs = pool.apply(exported, ()).await.unwrap();
        let call = theirs.iter().find(|(name, ..)| name == "task").unwrap();
        assert_eq!(call.3.replace('0', ""), "");
    });
}

/// The pool's own span of the call, where that is heard, is in between.
#[test]
fn the_pools_own_span_is_between_them() {
    checked_current_thread(async {
        // Not before this test has the process to itself: what others come to first
        // while there is one subscriber, tracing takes for unheard of by all.
        let (layer, exporter) = exporting();
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        let pool = Pool::builder().workers(1).initializer(export, ()).build().unwrap();
        pool.apply(work, 1).instrument(info_span!("request")).await.unwrap();
        let theirs = pool.apply(exported, ()).await.unwrap();
        let ours = spans_of(&exporter);
        let of = |spans: &[Exported], wanted: &str| {
            spans.iter().find(|(name, ..)| name == wanted).unwrap().clone()
        };
        let (_, trace, request, _) = of(&ours, "request");
        let task = ours.iter().find(|(name, _, _, parent)| name == "task" && *parent == request);
        let (_, _, task, _) = task.unwrap();
        let (_, their_trace, _, parent) = of(&theirs, "task");
        assert_eq!((&their_trace, &parent), (&trace, task));
    });
}

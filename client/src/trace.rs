//! The trace that a call belongs to: that of the caller's current span where the feature `telemetry` is on and there is one, else
//! a fresh one. It goes as W3C's `traceparent`, so that the server's spans, events and errors can be found by it.

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

const HEADER: &str = "traceparent";

/// Puts the trace on a call, unless it has one.
pub(crate) fn put(metadata: &mut MetadataMap) {
    if metadata.get(HEADER).is_none()
        && let Ok(value) = current().unwrap_or_else(fresh).parse::<MetadataValue<Ascii>>()
    {
        metadata.insert(HEADER, value);
    }
}

/// The caller's current span.
#[cfg(feature = "telemetry")]
fn current() -> Option<String> {
    use opentelemetry::trace::TraceContextExt;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    let context = tracing::Span::current().context();
    let place = context.span().span_context().clone();
    place.is_valid().then(|| {
        let sampled = u8::from(place.is_sampled());
        format!("00-{}-{}-{sampled:02x}", place.trace_id(), place.span_id())
    })
}

#[cfg(not(feature = "telemetry"))]
fn current() -> Option<String> {
    None
}

/// A trace of its own. Zero is no id.
fn fresh() -> String {
    let (trace, span) = (fastrand::u128(1..), fastrand::u64(1..));
    format!("00-{trace:032x}-{span:016x}-01")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_one_trace_and_another_call_another() {
        let mut calls = [MetadataMap::new(), MetadataMap::new()];
        calls.iter_mut().for_each(put);
        let text = |call: &MetadataMap| call.get(HEADER).unwrap().to_str().unwrap().to_owned();
        assert_ne!(text(&calls[0]), text(&calls[1]));
        let before = text(&calls[0]);
        put(&mut calls[0]);
        assert_eq!(text(&calls[0]), before);
        let lengths: Vec<usize> = before.split('-').map(str::len).collect();
        assert_eq!(lengths, [2, 32, 16, 2]);
    }
}

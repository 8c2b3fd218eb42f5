//! What travels between processes so that their spans come together: W3C Trace Context, level 1, `traceparent`.

use std::fmt;
use std::str::FromStr;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Name of the header.
pub const HEADER: &str = "traceparent";

/// A place in a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext(SpanContext);

/// The text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent")]
pub struct Unreadable;

impl TraceContext {
    /// A trace of its own, in which nothing is recorded yet.
    pub fn fresh() -> Self {
        // Zero, which is no id, is as likely as any other number.
        let trace_id = TraceId::from(fastrand::u128(1..));
        let span_id = SpanId::from(fastrand::u64(1..));
        Self(SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, true, TraceState::NONE))
    }

    /// The place of a span; none where spans go nowhere.
    pub fn of(span: &Span) -> Option<Self> {
        let context = span.context().span().span_context().clone();
        context.is_valid().then_some(Self(context))
    }

    /// The trace, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        self.0.trace_id().to_string()
    }

    /// Makes a span that has not begun a child of this place.
    pub fn adopt(&self, span: &Span) {
        let parent = Context::new().with_remote_span_context(self.0.clone());
        // Where spans go nowhere there is nothing to be a child of.
        let _ = span.set_parent(parent);
    }

    /// Makes a span tell of this place without being part of its trace.
    pub fn link(&self, span: &Span) {
        span.add_link(self.0.clone());
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.0.trace_flags() & TraceFlags::SAMPLED;
        write!(f, "00-{}-{}-{flags:02x}", self.0.trace_id(), self.0.span_id())
    }
}

impl FromStr for TraceContext {
    type Err = Unreadable;

    /// A later version may have more fields, by the rules of the standard.
    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let mut fields = text.trim().splitn(5, '-');
        let mut hex = |len: usize| {
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            fields.next().filter(|field| field.len() == len && field.bytes().all(is_hex)).ok_or(Unreadable)
        };
        let version = hex(2)?;
        let trace_id = TraceId::from_hex(hex(32)?).map_err(|_| Unreadable)?;
        let span_id = SpanId::from_hex(hex(16)?).map_err(|_| Unreadable)?;
        let flags = u8::from_str_radix(hex(2)?, 16).map_err(|_| Unreadable)?;
        if version == "ff" || (version == "00" && fields.next().is_some()) {
            return Err(Unreadable);
        }
        let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
        let context = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
        context.is_valid().then_some(Self(context)).ok_or(Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_place_survives_its_text() {
        let context: TraceContext = TEXT.parse().unwrap();
        assert_eq!(context.to_string(), TEXT);
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let fresh = TraceContext::fresh();
        assert_eq!(fresh.to_string().parse::<TraceContext>().unwrap(), fresh);
        assert_ne!(fresh.trace_id(), TraceContext::fresh().trace_id());
        // Not sampled, flags of tomorrow, a version of tomorrow.
        assert!(TEXT.replace("-01", "-00").parse::<TraceContext>().unwrap().to_string().ends_with("-00"));
        assert!(TEXT.replace("-01", "-03").parse::<TraceContext>().unwrap().to_string().ends_with("-01"));
        assert_eq!(format!("cc{}-more", &TEXT[2..]).parse::<TraceContext>().unwrap().to_string(), TEXT);
    }

    #[test]
    fn what_is_none_is_refused() {
        let zero_trace = TEXT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_span = TEXT.replace("b7ad6b7169203331", &"0".repeat(16));
        let short = &TEXT[..54];
        let long = format!("{TEXT}-more");
        let upper = TEXT.to_uppercase();
        let version = format!("ff{}", &TEXT[2..]);
        for text in ["", "00", "canary", &zero_trace, &zero_span, short, &long, &upper, &version] {
            assert_eq!(text.parse::<TraceContext>(), Err(Unreadable), "{text}");
        }
    }

    #[test]
    fn where_spans_go_nowhere_a_span_has_no_place() {
        assert_eq!(TraceContext::of(&tracing::info_span!("any")), None);
    }
}

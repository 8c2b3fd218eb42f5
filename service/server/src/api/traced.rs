//! The trace of a call: taken from its caller or begun here, at hand for who answers, told to the caller with an error.

use hone_telemetry::{HEADER, TraceContext};
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tracing::Span;
use tracing::field::Empty;

/// Beginning of the methods whose calls have spans: not those of probes, which come every few seconds, nor of trainers, whose
/// attempts have traces of their own.
const TRACED: &str = "hone.v1.";

/// A span for a call, and its place in a trace, which the request carries on to who answers it. Of a stream the span is its
/// beginning: it may last for days.
pub(super) fn begin(request: &mut Request<Body>, method: &'static str) -> (Span, TraceContext) {
    let from = request.headers().get(HEADER).and_then(|value| value.to_str().ok()?.parse::<TraceContext>().ok());
    let span = match method.starts_with(TRACED) {
        true => tracing::info_span!(
            "call",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.response.status_code = Empty,
            trace_id = Empty
        ),
        false => Span::none(),
    };
    if let Some(from) = &from {
        from.adopt(&span);
    }
    let context = TraceContext::of(&span).or(from).unwrap_or_else(TraceContext::fresh);
    span.record("trace_id", context.trace_id());
    request.extensions_mut().insert(context.clone());
    (span, context)
}

/// Tells a span how its call ended. By OpenTelemetry's conventions only what is the server's fault is its error.
pub(super) fn end(span: &Span, code: Code, name: &'static str) {
    span.record("rpc.response.status_code", name);
    let is_fault = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if is_fault {
        span.record("otel.status_code", "ERROR");
    }
}

/// Adds the trace to an error, in headers or trailers, as its RequestInfo: whoever gets it can name it to who runs the server.
pub(super) fn tell(headers: &mut HeaderMap, context: &TraceContext) {
    let Some(status) = Status::from_header_map(headers).filter(|status| status.code() != Code::Ok) else { return };
    let mut details = status.get_error_details();
    details.set_request_info(context.trace_id(), "");
    let told = Status::with_error_details(status.code(), status.message(), details);
    // Should it not fit into headers, the error stays as it was.
    let _ = told.add_header(headers);
}

/// The trace of a call, for what it begins.
pub(super) fn of<T>(request: &tonic::Request<T>) -> TraceContext {
    request.extensions().get().cloned().unwrap_or_else(TraceContext::fresh)
}

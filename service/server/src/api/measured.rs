//! How long calls take and how they end, whoever answers them, and their spans.

use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::BoxFuture;
use http_body_util::BodyExt;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use super::{gate, traced};
use crate::metrics::Metrics;

/// Name of every method that this server does not have; callers choose theirs.
const UNKNOWN: &str = "_OTHER";

/// Measures what passes.
#[derive(Debug, Clone)]
pub(crate) struct Measured(pub(crate) Metrics);

impl<S> Layer<S> for Measured {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Measure<S> {
        Measure { metrics: self.0.clone(), inner }
    }
}

/// A service whose calls are measured.
#[derive(Debug, Clone)]
pub(crate) struct Measure<S> {
    metrics: Metrics,
    inner: S,
}

impl<S> Service<Request<Body>> for Measure<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = gate::known(request.uri().path()).unwrap_or(UNKNOWN);
        let mut call = Call { metrics: self.metrics.clone(), method, start: Instant::now(), has_ended: false };
        let (span, context) = traced::begin(&mut request, method);
        let answer = span.in_scope(|| self.inner.call(request));
        Box::pin(async move {
            let mut answer = answer.instrument(span.clone()).await?;
            let ended = code(answer.headers());
            if let Some(code) = ended {
                call.end(code);
            }
            // An answer with a body has begun well, whatever comes of it.
            let so_far = ended.unwrap_or(Code::Ok);
            traced::end(&span, so_far, name(so_far));
            traced::tell(answer.headers_mut(), &context);
            Ok(answer.map(|body| {
                Body::new(body.map_frame(move |mut frame| {
                    if let Some(trailers) = frame.trailers_mut() {
                        call.end(code(trailers).unwrap_or(Code::Unknown));
                        traced::tell(trailers, &context);
                    }
                    frame
                }))
            }))
        })
    }
}

/// A call on its way.
struct Call {
    metrics: Metrics,
    method: &'static str,
    start: Instant,
    has_ended: bool,
}

impl Call {
    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.metrics.call(self.method, name(code), self.start.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Call {
    /// Whoever goes before the end has cancelled the call.
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The code in the headers of an answer without a body, or in trailers.
fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()))
}

/// A code by its name in the protocol.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

//! Whether the stream of a request came whole.
//!
//! tonic tells a handler that a stream which its caller has reset has ended, as if in good order. An upload must know
//! better, so every request's body is watched on its way in, and says in an extension of the request whether it broke.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::codegen::http;

/// Whether a body broke off.
#[derive(Debug, Clone, Default)]
pub(super) struct Broken(Arc<AtomicBool>);

impl Broken {
    /// Whether it has.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The way of a request through [`watched`].
pub(super) type Watch = fn(http::Request<Body>) -> http::Request<Body>;

/// The same request, with a word on its body.
pub(super) fn watched(request: http::Request<Body>) -> http::Request<Body> {
    let (mut parts, body) = request.into_parts();
    let broken = Broken::default();
    parts.extensions.insert(broken.clone());
    let body = body.map_err(move |error| {
        broken.0.store(true, Ordering::Release);
        error
    });
    http::Request::from_parts(parts, Body::new(body))
}

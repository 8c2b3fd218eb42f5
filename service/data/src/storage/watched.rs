//! How a store answers, told to who counts it: each request of an S3 store, and each failure of any. Requests that are part of
//! a trace are spans of it, and carry their place in it on to the store.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use hone_telemetry::{HEADER, TraceContext};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::Step;

/// Who is told.
pub trait Watcher: fmt::Debug + Send + Sync {
    /// An S3 store answered a request with this status, or not at all, which is status 0. Each try counts.
    fn answered(&self, method: &str, status: u16, seconds: f64);

    /// A step failed for good. That an object is not there is no failure.
    fn failed(&self, step: Step);
}

/// The watcher, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Watched(Option<Arc<dyn Watcher>>);

impl Watched {
    /// By this one.
    pub fn by(watcher: impl Watcher + 'static) -> Self {
        Self(Some(Arc::new(watcher)))
    }

    pub(super) fn failed(&self, step: Step) {
        if let Some(watcher) = &self.0 {
            watcher.failed(step);
        }
    }
}

/// The same when the watcher is the same.
impl PartialEq for Watched {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Watched {}

/// Makes clients whose requests are watched.
#[derive(Debug)]
pub(super) struct Connector(pub(super) Watched);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Client { client, watched: self.0.clone() }))
    }
}

/// A client whose requests are watched.
#[derive(Debug)]
struct Client {
    client: HttpClient,
    watched: Watched,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (method, start) = (request.method().clone(), Instant::now());
        let span = span(&request);
        if let Some(place) = TraceContext::of(&span).and_then(|place| place.to_string().parse().ok()) {
            request.headers_mut().insert(HEADER, place);
        }
        let answer = self.client.execute(request).instrument(span.clone()).await;
        match &answer {
            Ok(answer) => span.record("http.response.status_code", answer.status().as_u16()),
            Err(_) => span.record("otel.status_code", "ERROR"),
        };
        if let Some(watcher) = &self.watched.0 {
            let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            watcher.answered(method.as_str(), status, start.elapsed().as_secs_f64());
        }
        answer
    }
}

/// A span for a request, where it is part of something that has one. The path is left out: it holds names of users' objects.
fn span(request: &HttpRequest) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    tracing::info_span!(
        "request",
        otel.name = request.method().as_str(),
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = request.method().as_str(),
        http.response.status_code = Empty,
        server.address = request.uri().host().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hone_telemetry::{Collector, Traces, resource};
    use object_store::client::{HttpErrorKind, HttpRequestBody};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// A store that does not answer, and what it was asked.
    #[derive(Debug, Clone, Default)]
    struct Silent(Arc<Mutex<Vec<String>>>);

    #[async_trait]
    impl HttpService for Silent {
        async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
            let place = request.headers().get(HEADER).map_or("none", |value| value.to_str().unwrap());
            self.0.lock().unwrap().push(place.to_owned());
            Err(HttpError::new(HttpErrorKind::Connect, std::io::Error::other("silent")))
        }
    }

    impl Watcher for Silent {
        fn answered(&self, method: &str, status: u16, _seconds: f64) {
            self.0.lock().unwrap().push(format!("{method} {status}"));
        }

        fn failed(&self, step: Step) {
            self.0.lock().unwrap().push(step.to_string());
        }
    }

    #[tokio::test]
    async fn a_request_that_is_part_of_a_trace_carries_it_on_and_every_one_is_told() {
        let collector = Collector::find(Some("http://127.0.0.1:9".into()), |_| None);
        let traces = Traces::open(collector.as_ref(), resource("test", "1")).unwrap();
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(traces.layer()));
        let store = Silent::default();
        let client = Client { client: HttpClient::new(store.clone()), watched: Watched::by(store.clone()) };
        let request = || HttpRequest::new(HttpRequestBody::empty());
        client.call(request()).await.unwrap_err();
        let upload = tracing::info_span!(target: "hone_test", "upload");
        let trace_id = TraceContext::of(&upload).unwrap().trace_id();
        client.call(request()).instrument(upload).await.unwrap_err();
        let told = store.0.lock().unwrap().clone();
        let [alone, first, place, second] = &told[..] else { panic!("{told:?}") };
        assert_eq!((alone.as_str(), first.as_str(), second.as_str()), ("none", "GET 0", "GET 0"));
        assert_eq!(place.parse::<TraceContext>().unwrap().trace_id(), trace_id);
    }
}

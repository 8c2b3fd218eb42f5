//! A collector of OTLP over gRPC in the test's own process: what is sent to it can be looked at and waited for. And some that
//! are none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry_proto::tonic::collector::metrics::v1 as metrics_api;
use opentelemetry_proto::tonic::collector::trace::v1 as trace_api;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::soon;

/// A span and who sent it.
#[derive(Debug, Clone)]
pub struct Sent {
    /// `service.name`.
    pub service: String,
    /// The span.
    pub span: Span,
}

impl Sent {
    /// Its trace, hexadecimal.
    pub fn trace_id(&self) -> String {
        hex::encode(&self.span.trace_id)
    }

    /// A text among its attributes.
    pub fn text(&self, key: &str) -> Option<&str> {
        text(&self.span.attributes, key)
    }
}

/// What has come.
#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Sent>,
    metrics: Vec<(String, Metric)>,
    /// Values of the header `api-key`.
    keys: Vec<String>,
}

/// The collector. Dropped, it is gone.
pub struct Collector {
    address: String,
    inbox: Inbox,
    serving: AbortHandle,
}

#[derive(Clone)]
struct Inbox {
    taken: Arc<Mutex<Taken>>,
    arrived: watch::Sender<()>,
}

impl Collector {
    /// One that takes everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let inbox = Inbox { taken: Arc::default(), arrived: watch::Sender::new(()) };
        let served = tonic::transport::Server::builder()
            .add_service(trace_api::trace_service_server::TraceServiceServer::new(inbox.clone()))
            .add_service(metrics_api::metrics_service_server::MetricsServiceServer::new(inbox.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        Self { address, inbox, serving: tokio::spawn(served).abort_handle() }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that has come, once `is_all` says so.
    pub async fn spans(&self, what: &str, is_all: impl Fn(&[Sent]) -> bool) -> Vec<Sent> {
        self.until(what, |taken| is_all(&taken.spans).then(|| taken.spans.clone())).await
    }

    /// A metric of a service by its name, as it came first.
    pub async fn metric(&self, service: &str, name: &str) -> Metric {
        let is_it = |(from, metric): &&(String, Metric)| from == service && metric.name == name;
        self.until(name, |taken| taken.metrics.iter().find(is_it).map(|(_, metric)| metric.clone())).await
    }

    /// Values of the header `api-key` that exporters showed.
    pub fn keys(&self) -> Vec<String> {
        self.inbox.taken().keys.clone()
    }

    async fn until<T>(&self, what: &str, look: impl Fn(&Taken) -> Option<T>) -> T {
        let mut arrived = self.inbox.arrived.subscribe();
        let found = async {
            loop {
                if let Some(found) = look(&self.inbox.taken()) {
                    return found;
                }
                arrived.changed().await.expect("the sender is ours");
            }
        };
        soon(what, found).await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Inbox {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_key<T>(&self, request: &Request<T>) {
        let key = request.metadata().get("api-key").and_then(|value| value.to_str().ok());
        self.taken().keys.extend(key.map(str::to_owned));
    }
}

#[tonic::async_trait]
impl trace_api::trace_service_server::TraceService for Inbox {
    async fn export(
        &self,
        request: Request<trace_api::ExportTraceServiceRequest>,
    ) -> Result<Response<trace_api::ExportTraceServiceResponse>, Status> {
        self.note_key(&request);
        for of_resource in request.into_inner().resource_spans {
            let service = service(of_resource.resource);
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.taken().spans.extend(spans.map(|span| Sent { service: service.clone(), span }));
        }
        self.arrived.send_replace(());
        Ok(Response::new(trace_api::ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl metrics_api::metrics_service_server::MetricsService for Inbox {
    async fn export(
        &self,
        request: Request<metrics_api::ExportMetricsServiceRequest>,
    ) -> Result<Response<metrics_api::ExportMetricsServiceResponse>, Status> {
        self.note_key(&request);
        for of_resource in request.into_inner().resource_metrics {
            let service = service(of_resource.resource);
            let metrics = of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            self.taken().metrics.extend(metrics.map(|metric| (service.clone(), metric)));
        }
        self.arrived.send_replace(());
        Ok(Response::new(metrics_api::ExportMetricsServiceResponse::default()))
    }
}

fn service(resource: Option<Resource>) -> String {
    let attributes = resource.map(|resource| resource.attributes).unwrap_or_default();
    text(&attributes, "service.name").unwrap_or_default().to_owned()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?;
    match value.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Something at a collector's address that is none.
pub struct NoCollector {
    address: String,
    accepting: AbortHandle,
}

impl NoCollector {
    /// One that takes connections and never says a word.
    pub async fn silent() -> Self {
        Self::start(|mut stream| async move {
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        })
        .await
    }

    /// One that answers whatever comes with what nobody asked for.
    pub async fn lying() -> Self {
        Self::start(|mut stream| async move {
            let mut asked = [0; 4096];
            while stream.read(&mut asked).await.is_ok_and(|num_bytes| num_bytes > 0) {
                if stream.write_all(&[b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[0xff; 512]].concat()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn start<F: Future<Output = ()> + Send + 'static>(answer: fn(TcpStream) -> F) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        Self { address, accepting: accepting.abort_handle() }
    }
}

impl Drop for NoCollector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

//! Where telemetry goes: settings in, exporters out. The variables are those of OpenTelemetry's specification.

use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::SpanExporter as ExportSpans;
use tonic::metadata::KeyAndMutValueRef;
use tonic::transport::{Certificate, ClientTlsConfig};
use tonic::{Request, Status};

use crate::patient::Patient;

/// A collector that takes OTLP over gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Its URL where a flag names it; else the exporters read the environment.
    endpoint: Option<String>,
    signals: Vec<Signal>,
}

/// A kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Numbers.
    Metrics,
}

/// Why no exporter can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings make no sense.
    #[error("the OTLP exporter cannot be set up: {0}; look at --otlp-endpoint and the OTEL_EXPORTER_OTLP_ variables")]
    Settings(#[from] ExporterBuildError),
    /// The file of the collector's authorities cannot be read.
    #[error("OTEL_EXPORTER_OTLP_CERTIFICATE {path}: {source}")]
    Certificate {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// Variable with the URL for all signals.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

impl Signal {
    /// Variable with the URL for this signal alone.
    fn variable(self) -> &'static str {
        match self {
            Signal::Traces => "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            Signal::Metrics => "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        }
    }
}

impl Collector {
    /// The one that a flag names, else the environment; none where neither does, or `OTEL_SDK_DISABLED` is true.
    pub fn find(flag: Option<String>, lookup: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let all = flag.is_some() || get(ENDPOINT).is_some();
        let signals: Vec<Signal> = [Signal::Traces, Signal::Metrics]
            .into_iter()
            .filter(|signal| all || get(signal.variable()).is_some())
            .collect();
        (!signals.is_empty()).then_some(Self { endpoint: flag, signals })
    }

    /// Its URL, where a flag names it.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Whether it takes a signal.
    pub fn takes(&self, signal: Signal) -> bool {
        self.signals.contains(&signal)
    }

    /// What sends spans. To be called within a runtime, which must live as long as it sends.
    pub(crate) fn spans(&self) -> Result<impl ExportSpans + 'static + use<>, Error> {
        let mut builder = SpanExporter::builder().with_tonic().with_interceptor(unprinted);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(tls) = self.tls(Signal::Traces)? {
            builder = builder.with_tls_config(tls);
        }
        Ok(Patient::new("traces", builder.build()?))
    }

    /// What sends metrics. To be called within a runtime, which must live as long as it sends.
    pub fn metrics(&self) -> Result<impl PushMetricExporter + use<>, Error> {
        let mut builder = MetricExporter::builder().with_tonic().with_interceptor(unprinted);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(tls) = self.tls(Signal::Metrics)? {
            builder = builder.with_tls_config(tls);
        }
        Ok(Patient::new("metrics", builder.build()?))
    }

    /// How a collector behind `https://` is checked: by the authorities of `OTEL_EXPORTER_OTLP_CERTIFICATE`, else by those of
    /// the system.
    fn tls(&self, signal: Signal) -> Result<Option<ClientTlsConfig>, Error> {
        let get = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = self.endpoint.clone().or_else(|| get(signal.variable())).or_else(|| get(ENDPOINT));
        if !url.is_some_and(|url| url.starts_with("https://")) {
            return Ok(None);
        }
        let tls = ClientTlsConfig::new();
        let Some(path) = get("OTEL_EXPORTER_OTLP_CERTIFICATE") else { return Ok(Some(tls.with_enabled_roots())) };
        match std::fs::read(&path) {
            Ok(pem) => Ok(Some(tls.ca_certificate(Certificate::from_pem(pem)))),
            Err(source) => Err(Error::Certificate { path, source }),
        }
    }
}

/// Headers hold what the collector knows us by: they are not printed by what carries them.
#[allow(clippy::result_large_err, reason = "the type is tonic's")]
fn unprinted(mut request: Request<()>) -> Result<Request<()>, Status> {
    for header in request.metadata_mut().iter_mut() {
        match header {
            KeyAndMutValueRef::Ascii(_, value) => value.set_sensitive(true),
            KeyAndMutValueRef::Binary(_, value) => value.set_sensitive(true),
        }
    }
    Ok(request)
}

/// Who tells: the service by its name, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` name it otherwise.
pub fn resource(service: &'static str, version: &'static str) -> Resource {
    let set = |name: &str| std::env::var(name).unwrap_or_default();
    let is_named = !set("OTEL_SERVICE_NAME").is_empty() || set("OTEL_RESOURCE_ATTRIBUTES").contains("service.name=");
    let builder = Resource::builder().with_attribute(opentelemetry::KeyValue::new("service.version", version));
    if is_named { builder.build() } else { builder.with_service_name(service).build() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(flag: Option<&str>, variables: &[(&str, &str)]) -> Option<Collector> {
        let lookup =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Collector::find(flag.map(str::to_owned), lookup)
    }

    #[test]
    fn there_is_a_collector_only_where_somebody_names_it() {
        assert_eq!(found(None, &[]), None);
        assert_eq!(found(None, &[(ENDPOINT, "")]), None);
        let flag = found(Some("http://a:4317"), &[(ENDPOINT, "http://b:4317")]).unwrap();
        assert_eq!(flag.endpoint(), Some("http://a:4317"));
        let both = found(None, &[(ENDPOINT, "http://b:4317")]).unwrap();
        assert!(both.takes(Signal::Traces) && both.takes(Signal::Metrics));
        let one = found(None, &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://b:4317")]).unwrap();
        assert!(!one.takes(Signal::Traces) && one.takes(Signal::Metrics));
        assert_eq!(found(Some("http://a:4317"), &[("OTEL_SDK_DISABLED", "True")]), None);
    }
}

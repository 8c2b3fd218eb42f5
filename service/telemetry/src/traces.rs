//! The way of spans to the collector.

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::collector::{Collector, Error, Signal};

/// Beginning of the targets whose spans are told: ours. Those of the libraries below are many, and the exporter's own would
/// never end.
const OURS: &str = "hone";

/// Spans go to a collector, or nowhere.
///
/// `OTEL_TRACES_SAMPLER`, `OTEL_BSP_` and the other variables of OpenTelemetry's specification decide which, and in what
/// batches.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// To `collector`, where there is one that takes them. To be called within a runtime, which must live as long as they are
    /// sent.
    pub fn open(collector: Option<&Collector>, resource: Resource) -> Result<Self, Error> {
        let Some(collector) = collector.filter(|collector| collector.takes(Signal::Traces)) else {
            return Ok(Self(None));
        };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(collector.spans()?).with_resource(resource).build();
        Ok(Self(Some(provider)))
    }

    /// What takes spans out of what is told by `tracing`.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> Option<impl Layer<S> + use<S>> {
        let provider = self.0.as_ref()?;
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("hone")).with_location(false);
        Some(layer.with_threads(false).with_filter(Targets::new().with_target(OURS, Level::INFO)))
    }

    /// Sends what is left, for no longer than `patience`. It blocks.
    pub fn end(&self, patience: Duration) {
        if let Some(provider) = &self.0 {
            // What is not taken by then is lost, which was said when the collector first did not answer.
            let _ = provider.shutdown_with_timeout(patience);
        }
    }
}

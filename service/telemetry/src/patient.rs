//! An exporter that says once that its collector takes nothing, and once that it does again. Those of the crates say it with
//! every export, or never.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// The exporter and what became of the last try.
#[derive(Debug)]
pub(crate) struct Patient<E> {
    what: &'static str,
    exporter: E,
    is_failing: AtomicBool,
}

impl<E> Patient<E> {
    pub(crate) fn new(what: &'static str, exporter: E) -> Self {
        Self { what, exporter, is_failing: AtomicBool::new(false) }
    }

    fn tell(&self, result: OTelSdkResult) -> OTelSdkResult {
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        let what = self.what;
        match &result {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "the collector takes no {what}; they are dropped until it does, and nothing waits for it");
            }
            Ok(()) if was_failing => tracing::info!("the collector takes {what} again"),
            _ => {}
        }
        result
    }
}

impl<E: SpanExporter> SpanExporter for Patient<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.tell(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Patient<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.tell(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

//! Numbers about the server and its jobs: what happens in, figures for Prometheus and for a collector out.
//!
//! [`table`] defines each metric once; [`Metrics`] is what the rest of the server tells. Where nobody reads them, telling costs
//! next to nothing.

use std::sync::Arc;
use std::time::Instant;

use hone_telemetry::{Collector, Signal, resource};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider, UpDownCounter};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::Registry;

use crate::Error;
use crate::attempts::Attempts;

mod events;
mod page;
mod process;
mod standing;
pub mod table;

pub use page::Listen;
pub(crate) use page::Page;
pub(crate) use standing::Standing;

use process::Usage;
use table::{Kind, Metric};

/// What is told.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    jobs: Gauge<u64>,
    jobs_created: Counter<u64>,
    jobs_ended: Counter<u64>,
    queue_age: Gauge<f64>,
    queue_wait: Histogram<f64>,
    attempts_started: Counter<u64>,
    attempts_failed: Counter<u64>,
    events: Counter<u64>,
    watches: UpDownCounter<i64>,
    step_duration: Histogram<f64>,
    step_tokens: Counter<u64>,
    steps_skipped: Counter<u64>,
    evaluation_duration: Histogram<f64>,
    warnings: Counter<u64>,
    checkpoint_duration: Histogram<f64>,
    checkpoint_size: Histogram<u64>,
    storage_duration: Histogram<f64>,
    storage_errors: Counter<u64>,
    call_duration: Histogram<f64>,
}

impl Default for Metrics {
    /// Nobody reads them.
    fn default() -> Self {
        Self::of(&SdkMeterProvider::default().meter("hone"))
    }
}

impl Metrics {
    fn of(meter: &Meter) -> Self {
        Self(Arc::new(Instruments {
            jobs: gauge(meter, table::JOBS),
            jobs_created: counter(meter, table::JOBS_CREATED),
            jobs_ended: counter(meter, table::JOBS_ENDED),
            queue_age: described(meter.f64_gauge(table::QUEUE_AGE.name), table::QUEUE_AGE).build(),
            queue_wait: histogram(meter, table::QUEUE_WAIT),
            attempts_started: counter(meter, table::ATTEMPTS_STARTED),
            attempts_failed: counter(meter, table::ATTEMPTS_FAILED),
            events: counter(meter, table::EVENTS),
            watches: described(meter.i64_up_down_counter(table::WATCHES.name), table::WATCHES).build(),
            step_duration: histogram(meter, table::STEP_DURATION),
            step_tokens: counter(meter, table::STEP_TOKENS),
            steps_skipped: counter(meter, table::STEPS_SKIPPED),
            evaluation_duration: histogram(meter, table::EVALUATION_DURATION),
            warnings: counter(meter, table::WARNINGS),
            checkpoint_duration: histogram(meter, table::CHECKPOINT_DURATION),
            checkpoint_size: {
                let builder = meter.u64_histogram(table::CHECKPOINT_SIZE.name);
                let builder = builder.with_description(table::CHECKPOINT_SIZE.help).with_unit("By");
                builder.with_boundaries(bounds(table::CHECKPOINT_SIZE)).build()
            },
            storage_duration: histogram(meter, table::STORAGE_DURATION),
            storage_errors: counter(meter, table::STORAGE_ERRORS),
            call_duration: histogram(meter, table::CALL_DURATION),
        }))
    }

    /// A stream of events is open until what this gives is dropped.
    pub(crate) fn watch(&self) -> Watching {
        self.0.watches.add(1, &[]);
        Watching(self.clone())
    }

    /// A call has ended.
    pub(crate) fn call(&self, method: &'static str, code: &'static str, seconds: f64) {
        let labels = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.response.status_code", code),
        ];
        self.0.call_duration.record(seconds, &labels);
    }
}

impl hone_data::storage::Watcher for Metrics {
    fn answered(&self, method: &str, status: u16, seconds: f64) {
        let labels = [
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("http.response.status_code", i64::from(status)),
        ];
        self.0.storage_duration.record(seconds, &labels);
    }

    fn failed(&self, step: hone_data::storage::Step) {
        self.0.storage_errors.add(1, &[KeyValue::new("step", step.to_string())]);
    }
}

/// An open stream of events.
pub(crate) struct Watching(Metrics);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.0.watches.add(-1, &[]);
    }
}

/// Where metrics go.
pub(crate) struct Outlets {
    provider: SdkMeterProvider,
    registry: Registry,
    meter: Meter,
}

impl Outlets {
    /// To whoever reads the registry, and to the collector, where there is one that takes them.
    pub(crate) fn open(is_read: bool, collector: Option<&Collector>) -> Result<Self, Error> {
        let registry = Registry::new();
        let mut builder = SdkMeterProvider::builder().with_resource(resource(crate::SERVICE, crate::VERSION));
        if is_read {
            let reader =
                opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false).build();
            builder = builder.with_reader(reader.map_err(|error| Error::Metrics(error.to_string()))?);
        }
        if let Some(collector) = collector.filter(|collector| collector.takes(Signal::Metrics)) {
            builder = builder.with_periodic_exporter(collector.metrics()?);
        }
        let provider = builder.build();
        let meter = provider.meter("hone");
        Ok(Self { provider, registry, meter })
    }

    /// What the server tells.
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::of(&self.meter)
    }

    /// What Prometheus reads.
    pub(crate) fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Has attempts and process looked at whenever somebody reads.
    pub(crate) fn look_at(&self, attempts: &Arc<Attempts>) {
        look_at_attempts(&self.meter, attempts);
        look_at_process(&self.meter);
    }

    /// Sends what is left. It blocks for as long as the collector's timeout.
    pub(crate) fn end(&self) {
        // What is not taken now is lost, which was said when the collector first did not answer.
        let _ = self.provider.shutdown();
    }
}

fn look_at_attempts(meter: &Meter, attempts: &Arc<Attempts>) {
    type Figure = fn(&Attempts) -> Option<f64>;
    let figures: [(Metric, Figure); 7] = [
        (table::ATTEMPTS_RUNNING, |attempts| Some(attempts.count() as f64)),
        (table::TRAINER_MEMORY, |attempts| Some(attempts.usage().map(|usage| usage.host_memory_bytes as f64).sum())),
        (table::TRAINER_CPU, |attempts| Some(attempts.usage().map(|usage| usage.cpu_cores).sum())),
        (table::TRAINER_STORAGE_READ, |attempts| {
            Some(attempts.usage().filter_map(|usage| usage.storage_read_bytes_per_second).sum())
        }),
        (table::TRAINER_STORAGE_WRITE, |attempts| {
            Some(attempts.usage().filter_map(|usage| usage.storage_write_bytes_per_second).sum())
        }),
        (table::DEVICE_MEMORY, |attempts| {
            Some(attempts.usage().filter_map(|usage| usage.device_memory_bytes).sum::<u64>() as f64)
        }),
        (table::DEVICE_UTILIZATION, |attempts| {
            let shares: Vec<f64> = attempts.usage().filter_map(|usage| usage.device_utilization).collect();
            (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
        }),
    ];
    for (metric, figure) in figures {
        let attempts = attempts.clone();
        let builder = meter.f64_observable_gauge(metric.name).with_description(metric.help).with_unit(metric.unit);
        builder
            .with_callback(move |observer| {
                if let Some(value) = figure(&attempts) {
                    observer.observe(value, &[]);
                }
            })
            .build();
    }
}

fn look_at_process(meter: &Meter) {
    let start = Instant::now();
    let (cpu, memory, files, uptime) = (table::CPU_TIME, table::MEMORY, table::OPEN_FILES, table::UPTIME);
    meter
        .f64_observable_counter(cpu.name)
        .with_description(cpu.help)
        .with_unit(cpu.unit)
        .with_callback(|observer| {
            let usage = Usage::now();
            observer.observe(usage.user.as_secs_f64(), &[KeyValue::new("cpu.mode", "user")]);
            observer.observe(usage.system.as_secs_f64(), &[KeyValue::new("cpu.mode", "system")]);
        })
        .build();
    meter
        .i64_observable_up_down_counter(memory.name)
        .with_description(memory.help)
        .with_unit(memory.unit)
        .with_callback(|observer| observer.observe(Usage::now().memory_bytes as i64, &[]))
        .build();
    meter
        .i64_observable_up_down_counter(files.name)
        .with_description(files.help)
        .with_unit(files.unit)
        .with_callback(|observer| observer.observe(process::open_files() as i64, &[]))
        .build();
    meter
        .f64_observable_gauge(uptime.name)
        .with_description(uptime.help)
        .with_unit(uptime.unit)
        .with_callback(move |observer| observer.observe(start.elapsed().as_secs_f64(), &[]))
        .build();
}

fn described<'a, T>(
    builder: opentelemetry::metrics::InstrumentBuilder<'a, T>,
    metric: Metric,
) -> opentelemetry::metrics::InstrumentBuilder<'a, T> {
    builder.with_description(metric.help).with_unit(metric.unit)
}

fn counter(meter: &Meter, metric: Metric) -> Counter<u64> {
    described(meter.u64_counter(metric.name), metric).build()
}

fn gauge(meter: &Meter, metric: Metric) -> Gauge<u64> {
    described(meter.u64_gauge(metric.name), metric).build()
}

fn histogram(meter: &Meter, metric: Metric) -> Histogram<f64> {
    let builder = meter.f64_histogram(metric.name).with_description(metric.help).with_unit(metric.unit);
    builder.with_boundaries(bounds(metric)).build()
}

fn bounds(metric: Metric) -> Vec<f64> {
    match metric.kind {
        Kind::Histogram(bounds) => bounds.to_vec(),
        Kind::Counter | Kind::UpDown | Kind::Gauge => Vec::new(),
    }
}

#[cfg(test)]
mod tests;

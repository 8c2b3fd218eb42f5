//! What this process tells while it runs: log lines to standard error, as text or JSON (`RUST_LOG` says which, `info` by
//! default), and spans to a collector.

use hone_telemetry::{Collector, Error, Traces, resource};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::LogFormat;
use crate::{LAST_TELEMETRY, SERVICE, VERSION, within};

/// Starts to tell; once in a process, within its runtime.
pub fn init(format: LogFormat, collector: Option<&Collector>) -> Result<Traces, Error> {
    let traces = Traces::open(collector, resource(SERVICE, VERSION))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(traces.layer()).with(lines).init();
    Ok(traces)
}

/// Sends the last spans, if the collector takes them soon.
pub async fn end(traces: Traces) {
    within(LAST_TELEMETRY, move || traces.end(LAST_TELEMETRY)).await;
}

//! What the process tells while it runs: log lines on stderr, panics in one line each, and spans to a collector.

use std::panic::PanicHookInfo;

use hone_telemetry::{Collector, Error, Traces, resource};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::error::{first_line, panic_message};

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends log lines to stderr, at level info or what `RUST_LOG` says, panics too, and spans to the collector, where there is
/// one; then it is to be called within the runtime. To be called once, at start.
pub fn start(format: LogFormat, collector: Option<&Collector>) -> Result<Traces, Error> {
    let traces = Traces::open(collector, resource("hone-trainer", env!("CARGO_PKG_VERSION")))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).with_ansi(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.with_target(false).json().with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(traces.layer()).with(lines).init();
    std::panic::set_hook(Box::new(panic_line));
    Ok(traces)
}

/// One line for a panic. The default hook would print LibTorch's C++ backtrace, a screen of it, as if it were the message.
fn panic_line(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(thread, location, "panic: {}", first_line(panic_message(info.payload())));
}

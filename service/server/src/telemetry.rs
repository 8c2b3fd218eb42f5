//! Log lines: to standard error, as text or JSON; `RUST_LOG` says which, `info` by default.

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging; once in a process.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

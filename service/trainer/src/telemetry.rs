//! What the process says on stderr: log lines, and panics in one line each.

use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;

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

/// Sends log lines to stderr, at level info or what `RUST_LOG` says, and panics too. To be called once, at start.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
    std::panic::set_hook(Box::new(panic_line));
}

/// One line for a panic. The default hook would print LibTorch's C++ backtrace, a screen of it, as if it were the message.
fn panic_line(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(thread, location, "panic: {}", first_line(panic_message(info.payload())));
}

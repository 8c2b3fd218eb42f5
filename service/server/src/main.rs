//! `hone-server`: flags in, an exit status out. Everything else is in the library.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use hone_data::storage::StorageOptions;
use hone_server::config::Flags;
use hone_server::telemetry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let flags = Flags::parse();
    telemetry::init(flags.log_format);
    match serve(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hone-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(flags: Flags) -> anyhow::Result<()> {
    let listen = flags.listen;
    let options = flags.into_options(StorageOptions::from_env())?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping; press Ctrl-C again to leave at once"),
        }
        // Whoever stops services may say so twice; only a person at a terminal means it differently the second time.
        tokio::spawn(async move {
            interrupt.recv().await;
            tracing::warn!("leaving at once; trainers go on by themselves and look for the next server");
            std::process::exit(130);
        });
    };
    // Its message tells the causes already; the chain would tell them twice, the last one as the store's own XML.
    hone_server::run(listener, options, shutdown).await.map_err(|error| anyhow::anyhow!("{error}"))
}

//! `hone-server`: flags in, an exit status out. Everything else is in the library.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use hone_data::storage::StorageOptions;
use hone_server::caller::Role;
use hone_server::config::{Cli, Command, Flags};
use hone_server::{telemetry, tokens};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let Cli { serve: flags, command } = Cli::parse();
    no_core_dumps();
    let ended = match command {
        Some(Command::Token { name, project, role }) => {
            print_token(&name, &project, role);
            Ok(())
        }
        Some(Command::Preview { max_memory_bytes }) => preview(max_memory_bytes),
        None => serve(flags),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hone-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A core dump of this process, or of a trainer, would hold tokens and credentials.
fn no_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core dump, which would hold secrets");
    }
}

/// The token goes to standard output, so that it can be piped into a secret; what is said about it does not.
#[allow(clippy::print_stdout, reason = "the token is for a program or a person to take")]
fn print_token(name: &str, project: &str, role: Role) {
    let (token, line) = tokens::fresh(name, project, role);
    println!("{token}");
    eprintln!("# The token is shown this once; the next line lets it in, in the file of --token-file.\n{line}");
}

#[tokio::main]
async fn preview(max_memory_bytes: u64) -> anyhow::Result<()> {
    Ok(hone_server::answer_preview(max_memory_bytes, StorageOptions::from_env()).await?)
}

/// Ends with standard input, whatever is said on it. The thread that reads is none of tokio's, for which the process would
/// wait when it leaves.
async fn end_of_input() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}

#[tokio::main]
async fn serve(flags: Flags) -> anyhow::Result<()> {
    let input_ends = flags.stop_with_stdin;
    let (listen, log_format) = (flags.listen, flags.log_format);
    let options = flags.into_options(StorageOptions::from_env())?;
    let traces = telemetry::init(log_format, options.collector.as_ref())?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let shutdown = async move {
        tokio::select! {
            () = end_of_input(), if input_ends => tracing::info!("standard input has ended: stopping"),
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
    let ended = hone_server::run(listener, options, shutdown).await.map_err(|error| anyhow::anyhow!("{error}"));
    telemetry::end(traces).await;
    ended
}

//! `hone`, the command line: takes arguments, drives the SDK, gives text or JSON and an exit code.
//!
//! Reading order: `args` (what can be asked), `connect` (of whom), a file for each noun (`jobs`, `models`, `datasets`, `checkpoints`, `train`,
//! `plot`, `info`), `follow` with `narrate` and `bar` (a job as it runs), and what they all print with (`output`, `table`,
//! `human`, `json`).

mod args;
mod bar;
mod benchmark;
mod chat;
mod checkpoints;
mod choice;
mod compare;
mod connect;
mod datasets;
mod dpo;
mod export;
mod failure;
mod follow;
mod generate;
mod highlights;
mod human;
mod info;
mod init;
mod jobs;
mod json;
mod labels;
mod local;
mod locate;
mod lora;
mod metrics;
mod models;
mod narrate;
mod optim;
mod output;
mod page;
mod parquet;
mod plot;
mod preview;
mod report;
mod scores;
mod sft;
mod shell;
mod spec_file;
mod table;
mod template;
mod train;
mod training;
mod transfers;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use connect::ConnectArgs;
use failure::Failure;
use follow::Ending;
use local::LocalServer;
use output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Output::of_this_process(cli.json, cli.connect.local);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return out.end(Err(Failure::input(format!("cannot start: {error}")))),
    };
    let ended = runtime.block_on(Box::pin(run(cli, &out)));
    // A watch that was interrupted is not worth waiting for.
    runtime.shutdown_background();
    out.end(ended)
}

async fn run(cli: Cli, out: &Output) -> Result<Ending, Failure> {
    match &cli.command {
        Command::Completions { shell } => return shell::completions(*shell, out),
        Command::Man { folder } => return shell::man(folder, out),
        Command::Init(args) => return init::run(args, out),
        _ => {}
    }
    if !cli.connect.local {
        let client = hone_client::Client::connect(cli.connect.options()?).await?;
        return ask(cli.command, &client, out).await;
    }
    let server = LocalServer::start(&cli.connect.data_dir).await?;
    let ended = match hone_client::Client::connect(ConnectArgs::local(server.url())).await {
        Ok(client) => ask(cli.command, &client, out).await,
        Err(error) => Err(error.into()),
    };
    server.stop().await;
    ended
}

async fn ask(command: Command, client: &hone_client::Client, out: &Output) -> Result<Ending, Failure> {
    match command {
        Command::Completions { .. } | Command::Man { .. } | Command::Init(_) => unreachable!("no server was asked"),
        Command::Info => info::run(client, out).await,
        Command::Model(command) => models::run(command, client, out).await,
        Command::Data(command) => datasets::run(command, client, out).await,
        Command::Train(command) => train::run(command, client, out).await,
        Command::Evaluate(args) => compare::evaluate(*args, client, out).await,
        Command::Compare(args) => compare::compare(*args, client, out).await,
        Command::Generate(args) => generate::run(*args, client, out).await,
        Command::Benchmark(command) => benchmark::run(command, client, out).await,
        Command::Export(args) => export::run(*args, client, out).await,
        Command::Jobs(command) => jobs::run(command, client, out).await,
        Command::Checkpoints(command) => checkpoints::run(command, client, out).await,
        Command::Plot(command) => plot::run(command, client, out).await,
        Command::ExportMetrics(args) => metrics::run(args, client, out).await,
    }
}

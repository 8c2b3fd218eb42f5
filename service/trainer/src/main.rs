//! `hone-trainer`: the process that computes. `run` works on an attempt of a job for a server; the rest is for people and
//! scripts, and needs no server.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use hone_data::cache::Cache;
use hone_data::storage::Secret;
use hone_job::ask::Said;
use hone_job::event::{Event, Warning};
use hone_job::spec::{ExportFormat, Precision, WeightType};
use hone_telemetry::Collector;
use hone_trainer::device::{self, Compute};
use hone_trainer::link::{self, Link};
use hone_trainer::task::{self, export, score};
use hone_trainer::telemetry::{self, LogFormat};
use hone_trainer::workspace::Workspace;
use hone_trainer::{doctor, error, generation, trace};

/// The process of hone that computes.
#[derive(Parser)]
#[command(name = "hone-trainer", version)]
struct Cli {
    /// Form of the log lines on stderr.
    #[arg(long, env = "HONE_LOG_FORMAT", value_enum, default_value_t, global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work on an attempt of a job; servers start this.
    ///
    /// Exit status: 0 when the server has acknowledged how the attempt ended, 2 when it could not be reached or refused,
    /// else 1.
    Run(RunArgs),
    /// Answer prompts that come as lines of JSON on standard input, until it ends; servers start this.
    Answer(AnswerArgs),
    /// Say what this machine and its LibTorch can do.
    Doctor {
        /// JSON in place of text.
        #[arg(long)]
        json: bool,
        /// Leave out the measurements.
        #[arg(long)]
        quick: bool,
    },
    /// Write a model, or what was trained on it, as files that other tools load.
    Export(ExportArgs),
    /// Answer prompts greedily.
    Generate(GenerateArgs),
    /// Log-probabilities of the tokens of documents, in float32.
    Score(ScoreArgs),
}

/// What to attach to. The attempt's secret is in `HONE_SECRET` alone, since arguments are seen by everybody on the machine.
#[derive(Args)]
struct RunArgs {
    /// URL of the server.
    #[arg(long, env = "HONE_SERVER")]
    server: String,
    /// PEM file of the authorities that may have signed the server's certificate [default: those of the system].
    #[arg(long, env = "HONE_SERVER_CA")]
    server_ca: Option<PathBuf>,
    /// Name that the server's certificate must be for [default: the host of the URL].
    #[arg(long, env = "HONE_SERVER_NAME")]
    server_name: Option<String>,
    /// Job to work on.
    #[arg(long, env = "HONE_JOB_ID")]
    job_id: String,
    /// Attempt that this process is.
    #[arg(long, env = "HONE_ATTEMPT")]
    attempt: u32,
    /// URL of a collector that takes traces over OTLP/gRPC [default: OTEL_EXPORTER_OTLP_ENDPOINT; without that they are sent
    /// nowhere].
    #[arg(long, env = "HONE_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    #[command(flatten)]
    cache: CacheArgs,
}

#[derive(Args)]
struct AnswerArgs {
    /// URI of the model.
    #[arg(long)]
    model: String,
    #[command(flatten)]
    cache: CacheArgs,
}

#[derive(Args)]
struct CacheArgs {
    /// Folder for fetched models.
    #[arg(long, env = "HONE_CACHE_DIR", default_value = ".hone/cache")]
    cache_dir: PathBuf,
    /// Most bytes of fetched models that are kept there [default: all].
    #[arg(long, env = "HONE_MAX_CACHE_BYTES")]
    max_cache_bytes: Option<u64>,
}

impl CacheArgs {
    fn open(self) -> Cache {
        Cache::new(self.cache_dir, self.max_cache_bytes)
    }
}

#[derive(Args)]
struct ExportArgs {
    /// Folder or GGUF file of the base model.
    #[arg(long)]
    model: PathBuf,
    /// What was trained: folder of an adapter in PEFT's layout, or of a whole model.
    #[arg(long)]
    trained: Option<PathBuf>,
    /// Layout of the files: hugging_face or gguf.
    #[arg(long, default_value = "hugging_face", value_parser = from_word::<ExportFormat>)]
    format: ExportFormat,
    /// Number format of the weights: auto (that of the base model's file, float32 where that is quantised), float32, bfloat16
    /// or float16.
    #[arg(long, default_value = "auto", value_parser = from_word::<WeightType>)]
    weight_type: WeightType,
    /// Export although the base model is quantised; what comes out is not.
    #[arg(long)]
    dequantize: bool,
    /// Folder for the files; made when it is not there.
    #[arg(long)]
    out: PathBuf,
}

/// A value by its word in specs.
fn from_word<T: serde::de::DeserializeOwned>(word: &str) -> Result<T, String> {
    serde_json::from_value(word.into()).map_err(|error| error.to_string())
}

#[derive(Args)]
struct GenerateArgs {
    /// Folder or GGUF file of the model.
    #[arg(long)]
    model: PathBuf,
    /// Folder of an adapter in PEFT's layout.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// JSON list of {"messages": [...]} or {"prompt": "..."}.
    #[arg(long)]
    prompts: PathBuf,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: u32,
    /// JSONL of {"prompt", "answer", "tokens"}, an answer a line.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
struct ScoreArgs {
    /// Folder or GGUF file of the model.
    #[arg(long)]
    model: PathBuf,
    /// Folder of an adapter in PEFT's layout.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// JSON {"documents": [[token ids]]}.
    #[arg(long)]
    ids: PathBuf,
    /// JSON {"logprobs": [[...]], "nll"}.
    #[arg(long)]
    out: PathBuf,
}

/// How long the last spans may take to be sent, once the server knows how the attempt ended.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Exit status of a trainer that could not attach.
const COULD_NOT_ATTACH: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::Run(args) => run(args, cli.log_format),
        other => exit(telemetry::start(cli.log_format, None).map_err(Into::into).and_then(|_| without_server(other))),
    }
}

/// Everything but an attempt of a job.
fn without_server(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(_) => unreachable!("it has a server"),
        Command::Answer(args) => serve(args),
        Command::Doctor { json, quick } => diagnose(json, quick),
        Command::Export(args) => write(args),
        Command::Generate(args) => answer(args),
        Command::Score(args) => rate(args),
    }
}

fn exit(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without those that the messages before tell already.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.contains(&cause) {
        true => told,
        false if told.is_empty() => cause,
        false => format!("{told}: {cause}"),
    })
}

fn run(args: RunArgs, log_format: LogFormat) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit(Err(error).context("cannot start threads")),
    };
    let collector = Collector::find(args.otlp_endpoint.clone(), |name| std::env::var(name).ok());
    let traces = {
        let _within = runtime.enter();
        telemetry::start(log_format, collector.as_ref())
    };
    let traces = match traces {
        Ok(traces) => traces,
        Err(error) => return exit(Err(error.into())),
    };
    let ended = attempt(args, &runtime);
    traces.end(LAST_SPANS);
    ended
}

fn attempt(args: RunArgs, runtime: &tokio::runtime::Runtime) -> ExitCode {
    let Ok(secret) = std::env::var("HONE_SECRET") else {
        tracing::error!("could not attach: HONE_SECRET is not set");
        return ExitCode::from(COULD_NOT_ATTACH);
    };
    let mut options = link::Options::new(args.server, args.job_id, args.attempt, Secret::new(secret));
    options.server_ca = args.server_ca;
    options.server_name = args.server_name;
    let (link, welcome) = match runtime.block_on(Link::attach(options)) {
        Ok(attached) => attached,
        Err(error) => {
            tracing::error!(%error, "could not attach");
            return ExitCode::from(COULD_NOT_ATTACH);
        }
    };
    trace::belongs_to(&welcome.traceparent);
    let traceparent = &welcome.traceparent;
    tracing::info!(job_id = welcome.job_id, attempt = welcome.attempt, traceparent, "attached");
    let workspace = Workspace::new(args.cache.open(), runtime.handle().clone());
    runtime.spawn(stop_on_sigterm(link.clone()));
    let end = on_a_thread_of_its_own({
        let link = link.clone();
        move || task::run(&welcome, &link, &workspace)
    });
    match link.finish(end) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the server does not know how this attempt ended");
            ExitCode::FAILURE
        }
    }
}

/// A node that is drained sends SIGTERM: what was done is saved, and another attempt goes on from it.
async fn stop_on_sigterm(link: Link) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
            let message = "SIGTERM: saving at the next step boundary and leaving";
            tracing::warn!(message);
            link.stop();
            // Said at once: there may be no time to save.
            link.report(Event::Warning(Warning { code: Warning::TOLD_TO_LEAVE.into(), message: message.into() }));
        }
        Err(error) => tracing::warn!(%error, "SIGTERM will not be heard"),
    }
}

/// Runs the task where a panic of LibTorch ends the task and not the process, so that its failure is reported.
fn on_a_thread_of_its_own(work: impl FnOnce() -> link::End + Send + 'static) -> link::End {
    let spawned = std::thread::Builder::new().name("compute".into()).spawn(work);
    let ended = spawned.map(|thread| thread.join());
    match ended {
        Ok(Ok(end)) => end,
        Ok(Err(panic)) => link::End::Failed(error::Error::from_panic(panic.as_ref()).failure()),
        Err(source) => link::End::Failed(error::Error::Thread(source).failure()),
    }
}

#[allow(clippy::print_stdout)] // stdout is what the command is for
fn diagnose(json: bool, quick: bool) -> anyhow::Result<()> {
    let report = doctor::examine(quick)?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

#[allow(clippy::print_stdout)] // stdout is what the command is for
fn write(args: ExportArgs) -> anyhow::Result<()> {
    device::set_threads();
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let options =
        export::Options { format: args.format, weight_type: args.weight_type, dequantize_base: args.dequantize };
    let source = export::Source::open(&args.model, args.trained.as_deref(), &options)?;
    let report = source.write(&mut export::FolderSink(args.out))?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

#[allow(clippy::print_stdout)] // stdout is what the command is for
fn serve(args: AnswerArgs) -> anyhow::Result<()> {
    hone_ops::load_cuda()?;
    device::set_threads();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let workspace = Workspace::new(args.cache.open(), runtime.handle().clone());
    let (send, orders) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("orders".into()).spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                // Nobody takes orders any more when the model could not be loaded.
                Ok(order) => drop(send.send(order)),
                Err(error) => tracing::warn!(%error, "an order that cannot be understood"),
            }
        }
    })?;
    let mut say = |said: Said| println!("{}", serde_json::to_string(&said).expect("what is said has a text"));
    if let Err(error) = generation::serve(&args.model, &workspace, &orders, &mut say) {
        say(Said::Failed { id: None, failure: error.failure() });
        return Err(error.into());
    }
    Ok(())
}

fn answer(args: GenerateArgs) -> anyhow::Result<()> {
    hone_ops::load_cuda()?;
    device::set_threads();
    let prompts = generation::read_prompts(&args.prompts)?;
    let writer = generation::Writer::load(&args.model, args.adapter.as_deref(), Compute::choose(Precision::Auto)?)?;
    writer.answer_all(&prompts, args.max_new_tokens, &args.out)?;
    Ok(())
}

fn rate(args: ScoreArgs) -> anyhow::Result<()> {
    hone_ops::load_cuda()?;
    device::set_threads();
    let documents = score::read_documents(&args.ids)?;
    let compute = Compute::choose(Precision::Float32)?;
    let scores = score::score(&args.model, args.adapter.as_deref(), &documents, compute)?;
    scores.write(&args.out)?;
    Ok(())
}

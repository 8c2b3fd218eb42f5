//! What can be asked: the tree of commands and their flags, with the help that people read.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use hone_client::v1;
use hone_metrics::picture::Topic;

use crate::benchmark::BenchmarkArgs;
use crate::choice::{job_state, loss_on};
use crate::compare::{CompareArgs, EvaluateArgs};
use crate::connect::ConnectArgs;
use crate::dpo::DpoArgs;
use crate::export::ExportArgs;
use crate::generate::GenerateArgs;
use crate::init::InitArgs;
use crate::labels::label;
use crate::metrics::MetricsArgs;
use crate::page::Page;
use crate::plot::topic;
use crate::sft::SftArgs;
use crate::training::DataArgs;

const AFTER_HELP: &str = "\
Exit codes:
  0  done; for a command that follows or waits: the job succeeded
  1  an error; it is explained on standard error
  2  the command line could not be understood
  3  the job failed
  4  the job was cancelled
130  interrupted by Ctrl-C while following; the job goes on

Programs: --json prints protobuf JSON with the proto's own field names, one object a line; errors and notes are JSON
objects on standard error.";

const INIT_EXAMPLES: &str = "\
Examples:
  hone init sft --model SmolLM2-135M-Instruct.Q4_1.gguf --rows rows.jsonl
  hone train sft --spec sft.yaml --dry-run
  hone train sft --spec sft.yaml --learning-rate 1e-4";

const SFT_EXAMPLES: &str = "\
Examples:
  hone train sft --model SmolLM2-135M-Instruct.Q4_1.gguf --train rows.jsonl --eval-fraction 0.1 --epochs 2
  hone train sft --model s3://models/qwen3-8b --train ds-… --eval ds-… --rank 32 --learning-rate 1e-4 --detach

Exit codes: 0 the job succeeded, 1 an error, 2 usage, 3 the job failed, 4 it was cancelled, 130 Ctrl-C; the job goes on.";

const DPO_EXAMPLES: &str = "\
Examples:
  hone train dpo --model SmolLM2-135M-Instruct.Q4_1.gguf --train pairs.jsonl --init-from job-… --eval-fraction 0.1
  hone train dpo --model model-… --train ds-… --loss ipo --beta 0.3 --reference base
  hone train dpo --model model-… --train ds-… --loss sigmoid,sft:0.1 --label-smoothing 0.1

A run that starts from an SFT job's checkpoint is compared with that checkpoint.

Exit codes: 0 the job succeeded, 1 an error, 2 usage, 3 the job failed, 4 it was cancelled, 130 Ctrl-C; the job goes on.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  hone export job-… --to merged
  hone export job-…/step-000200 --format gguf --weight-type float16 --to for-llama.cpp
  hone export s3://runs/adapter --model s3://models/qwen3-8b

Exit codes: 0 the job succeeded, 1 an error, 2 usage, 3 the job failed, 4 it was cancelled, 130 Ctrl-C; the job goes on.";

const EVALUATE_EXAMPLES: &str = "\
Examples:
  hone evaluate job-… --data held-out.jsonl
  hone evaluate --model s3://models/qwen3-8b --data held-out.jsonl --loss-on all

Exit codes: 0 the job succeeded, 1 an error, 2 usage, 3 the job failed, 4 it was cancelled, 130 Ctrl-C; the job goes on.";

const COMPARE_EXAMPLES: &str = "\
Examples:
  hone compare base job-… job-… --data held-out.jsonl
  hone compare base sft=job-… dpo=job-…/step-000020 --data pairs.jsonl --show 10

Exit codes: 0 the job succeeded, 1 an error, 2 usage, 3 the job failed, 4 it was cancelled, 130 Ctrl-C; the job goes on.";

const GENERATE_EXAMPLES: &str = "\
Examples:
  hone generate job-…
  hone generate job-…/step-000200 --message 'What is the capital of France?' --temperature 0.7
  hone generate --model model-… --prompt 'Once upon a time'
  hone generate job-… --data prompts.jsonl --to answers
  hone generate --model s3://models/qwen3-8b --data ds-… --temperature 0.8 --top-p 0.95 --answers-per-row 4

Exit codes: 0 the job succeeded, 1 an error, 2 usage, 3 the job failed, 4 it was cancelled, 130 Ctrl-C; the job goes on.";

const BENCHMARK_EXAMPLES: &str = "\
Examples:
  hone benchmark sft --model model-… --train rows.jsonl
  hone benchmark sft --model model-… --train ds-… --rank 32 --try-precision bfloat16 --try-tokens 4096,16384 --write spec.json
  hone benchmark dpo --model model-… --train pairs.jsonl --timed-steps 10

Exit codes: 0 the job succeeded, 1 an error, 2 usage, 3 the job failed, 4 it was cancelled, 130 Ctrl-C; the job goes on.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  hone completions bash > ~/.local/share/bash-completion/completions/hone
  hone completions zsh > \"${fpath[1]}/_hone\"
  hone completions fish > ~/.config/fish/completions/hone.fish";

const METRICS_EXAMPLES: &str = "\
Examples:
  hone export-metrics job-… job-… --tensorboard runs && tensorboard --logdir runs
  hone export-metrics job-… --tensorboard runs --follow
  hone export-metrics job-… --csv numbers";

/// Fine-tune language models: upload, preview, train, follow every step, take the checkpoints home.
#[derive(Debug, Parser)]
#[command(name = "hone", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// Print JSON for programs, one object a line.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a spec to start from: every setting with its meaning and its default.
    ///
    /// For train --spec and jobs create --spec. No server is asked.
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Show the server: version, devices, limits, where it stores things.
    Info,
    /// Base models: upload, list, show, delete.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Datasets: upload, list, show, delete, preview what would be trained on.
    #[command(subcommand)]
    Data(DataCommand),
    /// Fine-tune a model and follow the job.
    #[command(subcommand)]
    Train(TrainCommand),
    /// Score one model on rows: loss, perplexity, accuracy, the rows that it finds hardest.
    ///
    /// Creates a job and follows it; scores.json and rows.jsonl are its only checkpoint.
    #[command(after_help = EVALUATE_EXAMPLES)]
    Evaluate(Box<EvaluateArgs>),
    /// Compare models on the same rows: how much better, how sure that is, and where they differ most.
    ///
    /// Creates a job and follows it; scores.json and rows.jsonl are its only checkpoint.
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(Box<CompareArgs>),
    /// Have a model answer: a message, a conversation in the terminal, or rows of prompts.
    ///
    /// With --data a job is created and followed; answers.jsonl is its only checkpoint. Without, the server loads the model for
    /// as long as it is asked.
    #[command(after_help = GENERATE_EXAMPLES)]
    Generate(Box<GenerateArgs>),
    /// Measure how fast training is with several settings: precision, micro-batch size, activation checkpointing, attention.
    ///
    /// Takes the flags of `hone train` and creates a job, which trains nothing and recommends settings; benchmark.json is its
    /// only checkpoint.
    #[command(subcommand, after_help = BENCHMARK_EXAMPLES)]
    Benchmark(BenchmarkCommand),
    /// Write what was trained as files that other tools load: merged, as a Hugging Face folder or for llama.cpp.
    ///
    /// Creates a job and follows it; its files are its only checkpoint.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Box<ExportArgs>),
    /// Jobs: create from a spec, show, list, watch, wait, pause, resume, save, cancel, delete.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Checkpoints of a job: list, show, download, delete.
    #[command(subcommand)]
    Checkpoints(CheckpointsCommand),
    /// Draw jobs as a picture, PNG or SVG: losses, rates, norms, speed, memory.
    Plot(PlotArgs),
    /// Write a job's numbers for other tools: CSV, or TensorBoard's event files.
    #[command(after_help = METRICS_EXAMPLES)]
    ExportMetrics(MetricsArgs),
    /// Print the script by which a shell completes this program's commands.
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command.
    Man {
        /// The folder, such as ~/.local/share/man/man1.
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Upload a model: a Hugging Face folder (config.json, safetensors, tokenizer) or one .gguf file.
    Upload {
        /// The folder or the .gguf file.
        path: PathBuf,
        /// A name for people. Default: the name of the folder or file.
        #[arg(long)]
        name: Option<String>,
        /// Take what the server already holds when it has the same bytes under the same names.
        #[arg(long)]
        reuse: bool,
    },
    /// List models, newest first.
    List(Page),
    /// Show one model and its files.
    Get {
        /// Id, model-….
        model: String,
    },
    /// Delete models.
    Delete {
        /// Ids, model-….
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Upload a file of rows: .jsonl or .parquet, plain, .gz or .zst.
    Upload {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Take what the server already holds when it has the same bytes under the same name.
        #[arg(long)]
        reuse: bool,
    },
    /// List datasets, newest first.
    List(Page),
    /// Show one dataset.
    Get {
        /// Id, ds-….
        dataset: String,
    },
    /// Delete datasets.
    Delete {
        /// Ids, ds-….
        #[arg(required = true, value_name = "DATASET")]
        datasets: Vec<String>,
    },
    /// Show what a job would train on: rows dropped and why, lengths, the first rows with the trained tokens marked.
    Preview(PreviewArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PreviewArgs {
    /// Model whose tokenizer and template are used: an id, a URI, or a local path, which is uploaded first.
    #[arg(long)]
    pub(crate) model: String,
    /// Training rows: ids, URIs, or local files, which are uploaded first.
    #[arg(required = true, value_name = "ROWS")]
    pub(crate) train: Vec<String>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Which tokens are trained on. Default completion: in a conversation the last assistant turn.
    #[arg(long, value_name = "WHICH", value_parser = loss_on())]
    pub(crate) loss_on: Option<v1::LossOn>,
    /// The rows are pairs of answers, for dpo.
    #[arg(long, conflicts_with = "loss_on")]
    pub(crate) pairs: bool,
    /// Rows to show, 0 to 100.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) rows: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchmarkCommand {
    /// Supervised fine-tuning with several settings.
    Sft(Box<BenchmarkArgs<SftArgs>>),
    /// Learning from pairs with several settings.
    Dpo(Box<BenchmarkArgs<DpoArgs>>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrainCommand {
    /// Supervised fine-tuning, with LoRA or of all weights, on text, prompt and completion, or conversations.
    ///
    /// Creates the job and follows it to its end. What is left out takes the server's default, which the help of each
    /// flag names. Ctrl-C stops following; the job goes on.
    #[command(after_help = SFT_EXAMPLES)]
    Sft(Box<SftArgs>),
    /// Learn from pairs of answers, one better than the other: DPO and its kin.
    ///
    /// Rows have chosen and rejected, and a prompt or a common beginning. Creates the job and follows it to its end, as sft.
    #[command(after_help = DPO_EXAMPLES)]
    Dpo(Box<DpoArgs>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Create a job from a spec in a file, with every field that hone.v1.JobSpec has; local models and rows are uploaded first.
    Create {
        /// File with the spec (YAML, TOML or JSON; hone init writes one); - reads standard input.
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
        /// Check the spec and print it with every default filled in; create nothing.
        #[arg(long)]
        validate_only: bool,
        /// Text unique to this creation: a repeat with the same text gives the same job. Default: none.
        #[arg(long, value_name = "TEXT", conflicts_with = "validate_only")]
        request_id: Option<String>,
    },
    /// Show where a job stands, its settings, its losses and its result.
    Get {
        /// Id, job-….
        job: String,
    },
    /// List jobs, newest first.
    List {
        #[command(flatten)]
        page: Page,
        /// Only jobs in this state; may be repeated.
        #[arg(long, value_name = "STATE", value_parser = job_state())]
        state: Vec<v1::JobState>,
        /// Only jobs with this label; may be repeated, all must match.
        #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
    },
    /// Follow a job: every event so far and to come, until the job ends.
    Watch {
        /// Id, job-….
        job: String,
        /// Begin after the event of this number; 0 begins with the first.
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
    },
    /// Wait silently until a job has ended, then show it.
    Wait {
        /// Id, job-….
        job: String,
    },
    /// Ask a job to make room; a running one finishes its step, saves and leaves.
    Pause {
        /// Id, job-….
        job: String,
    },
    /// Let a paused job go on from its last checkpoint.
    Resume {
        /// Id, job-….
        job: String,
        /// Passes over the training rows from now on, those made already included.
        #[arg(long, value_name = "N", conflicts_with = "max_steps")]
        epochs: Option<f64>,
        /// Optimizer steps from now on, those taken already included.
        #[arg(long, value_name = "N")]
        max_steps: Option<u64>,
    },
    /// Have a running job save at its next step boundary, and wait until that is verified.
    Save {
        /// Id, job-….
        job: String,
    },
    /// Ask a job to stop for good; a running one finishes its step and saves first.
    Cancel {
        /// Id, job-….
        job: String,
    },
    /// Fetch what a training job left to look at: loss.png, summary.json and hard_examples.jsonl.
    Report {
        /// Id, job-….
        job: String,
        /// Folder for the files; made when it is not there.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Delete jobs that have ended, with their events and checkpoints.
    Delete {
        /// Ids, job-….
        #[arg(required = true, value_name = "JOB")]
        jobs: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointsCommand {
    /// List a job's checkpoints, newest first.
    List {
        /// Id of the job, job-….
        job: String,
    },
    /// Show one checkpoint and its files.
    Get {
        /// Id of the job, job-….
        job: String,
        /// Id of the checkpoint, step-…. Default: the last one.
        checkpoint: Option<String>,
    },
    /// Download a checkpoint into a folder, which appears only when every file has been verified.
    Download {
        /// Id of the job, job-….
        job: String,
        /// Id of the checkpoint, step-…. Default: the last one.
        checkpoint: Option<String>,
        /// The folder; it must not exist or be empty.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// The one with the lowest held-out loss instead of the last one.
        #[arg(long, conflicts_with = "checkpoint")]
        best: bool,
    },
    /// Delete checkpoints.
    Delete {
        /// Id of the job, job-….
        job: String,
        /// Ids of the checkpoints, step-….
        #[arg(required = true, value_name = "CHECKPOINT")]
        checkpoints: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PlotArgs {
    /// Ids of the jobs, job-…; several are drawn over one another, one that still runs as far as it has come.
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// Where to write the picture: .png or .svg.
    #[arg(short, long, value_name = "FILE", default_value = "loss.png")]
    pub(crate) output: PathBuf,
    /// Draw only these, the first one large. Default: all that the jobs have numbers for.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = topic())]
    pub(crate) only: Vec<Topic>,
    /// Write the numbers of a single job too: a line a step, as CSV.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Cli::command().render_help().to_string();
        for code in ["  0  ", "  1  ", "  2  ", "  3  ", "  4  ", "130  "] {
            assert!(help.contains(code), "{code} in\n{help}");
        }
    }
}

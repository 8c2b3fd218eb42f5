//! `benchmark`: how fast training is with several settings, on the server's machine, with these rows.

use std::path::PathBuf;

use clap::Args;
use hone_client::{Client, v1};
use v1::benchmark_task::Training;
use v1::job_event::Event;
use v1::job_spec::Task;

use crate::args::BenchmarkCommand;
use crate::choice::{activation_checkpointing, attention, name_of, precision};
use crate::failure::Failure;
use crate::follow::Ending;
use crate::human::{bytes, duration, printable};
use crate::json;
use crate::output::{Output, Paint};
use crate::table::Table;
use crate::train::{Submission, located, submit, write_whole};

/// Longest bar of the table, in characters.
const BAR: f64 = 24.0;

/// The flags of a training, and what is tried.
#[derive(Debug, Args)]
pub(crate) struct BenchmarkArgs<T: Args> {
    #[command(flatten)]
    training: T,
    #[command(flatten)]
    tried: TriedArgs,
}

/// What is tried beside the training's own settings.
#[derive(Debug, Args)]
pub(crate) struct TriedArgs {
    /// Steps of each run that are timed, after one that is not. Default 3.
    #[arg(long, value_name = "N", help_heading = "Benchmark")]
    timed_steps: Option<u32>,
    /// Precisions to try. Default float32,bfloat16.
    #[arg(long, value_name = "FORMATS", value_delimiter = ',', value_parser = precision(), help_heading = "Benchmark")]
    try_precision: Vec<v1::Precision>,
    /// Sizes of micro-batches to try, in tokens. Default: a quarter, half, double and fourfold of the training's.
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', help_heading = "Benchmark")]
    try_tokens: Vec<u32>,
    /// Ways with activations to try. Default auto,on.
    #[arg(
        long,
        value_name = "WHEN",
        value_delimiter = ',',
        value_parser = activation_checkpointing(),
        help_heading = "Benchmark"
    )]
    try_activation_checkpointing: Vec<v1::ActivationCheckpointing>,
    /// Attention kernels to try. Default: the device's fastest, and math.
    #[arg(long, value_name = "KERNELS", value_delimiter = ',', value_parser = attention(), help_heading = "Benchmark")]
    try_attention: Vec<v1::AttentionKernel>,
    /// Write the training's spec with the recommended settings to this file, for `hone jobs create --spec`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["detach", "dry_run"], help_heading = "Benchmark")]
    write: Option<PathBuf>,
}

impl TriedArgs {
    /// The spec of a benchmark of this job's training.
    fn spec(&self, training: v1::JobSpec) -> v1::JobSpec {
        let own = match training.task {
            Some(Task::Sft(sft)) => Some(Training::Sft(sft)),
            Some(Task::Dpo(dpo)) => Some(Training::Dpo(dpo)),
            _ => None,
        };
        let task = v1::BenchmarkTask {
            training: own,
            steps: self.timed_steps,
            precisions: self.try_precision.iter().map(|&value| value.into()).collect(),
            tokens_per_micro_batch: self.try_tokens.clone(),
            activation_checkpointing: self.try_activation_checkpointing.iter().map(|&value| value.into()).collect(),
            attention: self.try_attention.iter().map(|&value| value.into()).collect(),
        };
        v1::JobSpec { task: Some(Task::Benchmark(task)), ..training }
    }
}

pub(crate) async fn run(command: BenchmarkCommand, client: &Client, out: &Output) -> Result<Ending, Failure> {
    match command {
        BenchmarkCommand::Sft(args) => {
            let spec = located(args.training.spec()?, &args.training.training, client, out).await?;
            measure(spec, &args.tried, &args.training.training.submission, client, out).await
        }
        BenchmarkCommand::Dpo(args) => {
            let spec = located(args.training.spec()?, &args.training.training, client, out).await?;
            measure(spec, &args.tried, &args.training.training.submission, client, out).await
        }
    }
}

async fn measure(
    training: v1::JobSpec,
    tried: &TriedArgs,
    submission: &Submission,
    client: &Client,
    out: &Output,
) -> Result<Ending, Failure> {
    let (ending, job_id) = submit(tried.spec(training.clone()), submission, client, out).await?;
    if let (Some(file), Some(job_id), Ending::Done) = (&tried.write, job_id, ending) {
        let events = client.job(job_id).events_so_far(0).await?;
        let recommended = events.into_iter().find_map(|event| match event.event {
            Some(Event::Benchmark(report)) => report.recommended,
            _ => None,
        });
        let Some(settings) = recommended else {
            return Err(Failure::input("nothing is recommended, since every run failed; the table says why"));
        };
        let spec = json::pretty("JobSpec", &with_settings(training, &settings));
        write_whole(file, format!("{spec}\n"))?;
        out.note(&format!("train with these settings: hone jobs create --spec {}", file.display()));
    }
    Ok(ending)
}

/// The spec with other settings.
fn with_settings(mut spec: v1::JobSpec, settings: &v1::BenchmarkSettings) -> v1::JobSpec {
    let parts = match &mut spec.task {
        Some(Task::Sft(task)) => Some((&mut task.precision, &mut task.attention, &mut task.batch)),
        Some(Task::Dpo(task)) => Some((&mut task.precision, &mut task.attention, &mut task.batch)),
        _ => None,
    };
    if let Some((precision, attention, batch)) = parts {
        (*precision, *attention) = (settings.precision, settings.attention);
        let batch = batch.get_or_insert_default();
        batch.tokens_per_micro_batch = Some(settings.tokens_per_micro_batch);
        batch.activation_checkpointing = settings.activation_checkpointing;
    }
    spec
}

/// The table of runs with what is recommended, for people.
pub(crate) fn text(report: &v1::BenchmarkReport, paint: Paint) -> String {
    let headings = ["PRECISION", "TOKENS AT ONCE", "ACTIVATIONS", "ATTENTION", "STEP", "MEMORY", "TOKENS/S", ""];
    let mut table = Table::new(&headings, &[1, 4, 5, 6]);
    let fastest = report.runs.iter().map(|run| run.tokens_per_second).fold(0.0, f64::max);
    for run in &report.runs {
        let settings = run.settings.unwrap_or_default();
        let own = [
            name_of(settings.precision().as_str_name(), "PRECISION_"),
            settings.tokens_per_micro_batch.to_string(),
            activations(settings.activation_checkpointing()).to_owned(),
            printable(&run.attention_kernel),
        ];
        let mean = run.step_seconds.iter().sum::<f64>() / run.step_seconds.len().max(1) as f64;
        let measured = match run.failure.is_empty() {
            true => [
                duration(mean),
                run.peak_memory_bytes.map_or(String::new(), bytes),
                format!("{:.0}", run.tokens_per_second),
                "█".repeat((BAR * run.tokens_per_second / fastest.max(1.0)).round() as usize),
            ],
            false => [String::new(), String::new(), String::new(), format!("failed: {}", printable(&run.failure))],
        };
        table.row(own.into_iter().chain(measured));
    }
    let mut lines = vec![paint.cyan("measured"), table.text("nothing was measured")];
    if let Some(settings) = &report.recommended {
        lines.push(format!("{} {}", paint.cyan("recommended"), flags(settings)));
    }
    lines.join("\n")
}

fn activations(value: v1::ActivationCheckpointing) -> &'static str {
    match value {
        v1::ActivationCheckpointing::Unspecified | v1::ActivationCheckpointing::Auto => "auto",
        v1::ActivationCheckpointing::On => "made again",
        v1::ActivationCheckpointing::Off => "kept",
    }
}

/// The settings as flags of `hone train`.
fn flags(settings: &v1::BenchmarkSettings) -> String {
    let mut flags = vec![format!("--tokens-per-micro-batch {}", settings.tokens_per_micro_batch)];
    let mut add = |flag: &str, name: &str, prefix: &str| {
        if !name.ends_with("UNSPECIFIED") {
            flags.push(format!("{flag} {}", name_of(name, prefix)));
        }
    };
    add("--precision", settings.precision().as_str_name(), "PRECISION_");
    let checkpointing = settings.activation_checkpointing().as_str_name();
    add("--activation-checkpointing", checkpointing, "ACTIVATION_CHECKPOINTING_");
    add("--attention", settings.attention().as_str_name(), "ATTENTION_KERNEL_");
    flags.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};

    fn settings() -> v1::BenchmarkSettings {
        v1::BenchmarkSettings {
            precision: v1::Precision::Bfloat16.into(),
            tokens_per_micro_batch: 4096,
            activation_checkpointing: v1::ActivationCheckpointing::Auto.into(),
            attention: v1::AttentionKernel::Unspecified.into(),
        }
    }

    #[test]
    fn flags_are_fields_of_the_spec() {
        let flags = ["--model", "m", "--train", "r", "--rank", "4", "--timed-steps", "5"];
        let tried = ["--try-tokens", "512,1024", "--try-precision", "float32", "--try-attention", "flash,math"];
        let words = ["hone", "benchmark", "sft"].iter().chain(&flags).chain(&tried);
        let Command::Benchmark(command) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command")
        };
        let BenchmarkCommand::Sft(args) = command else { panic!("another training") };
        let training = v1::JobSpec { task: Some(Task::Sft(v1::SftTask::default())), ..Default::default() };
        let spec: serde_json::Value = serde_json::from_str(&json::line("JobSpec", &args.tried.spec(training))).unwrap();
        let expected = json!({
            "sft": {}, "steps": 5, "precisions": ["PRECISION_FLOAT32"], "tokens_per_micro_batch": [512, 1024],
            "attention": ["ATTENTION_KERNEL_FLASH", "ATTENTION_KERNEL_MATH"],
        });
        assert_eq!(spec["benchmark"], expected);
    }

    #[test]
    fn the_table_has_a_row_for_each_run_and_flags_to_take_over() {
        let run = v1::BenchmarkRun {
            settings: Some(settings()),
            tokens_per_second: 1200.0,
            step_seconds: vec![2.0, 4.0],
            micro_batches: 3,
            peak_memory_bytes: Some(700_000_000),
            attention_kernel: "flash_cpu".into(),
            failure: String::new(),
        };
        let failed = v1::BenchmarkRun { tokens_per_second: 0.0, failure: "out of memory".into(), ..run.clone() };
        let report = v1::BenchmarkReport { runs: vec![run, failed], recommended: Some(settings()) };
        let text = text(&report, Paint::plain());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        for part in ["bfloat16", "4096", "auto", "flash_cpu", "700.0 MB", "1200", &"█".repeat(24)] {
            assert!(lines[2].contains(part), "{part}: {text}");
        }
        assert!(lines[3].ends_with("failed: out of memory"), "{text}");
        let flags = "--tokens-per-micro-batch 4096 --precision bfloat16 --activation-checkpointing auto";
        assert_eq!(lines[4], format!("recommended {flags}"));
    }

    #[test]
    fn a_training_takes_the_settings_and_keeps_the_rest() {
        let batch = Some(v1::BatchSpec { examples_per_step: Some(4), ..Default::default() });
        let task = v1::SftTask { batch, seed: Some(3), ..Default::default() };
        let spec = v1::JobSpec { task: Some(Task::Sft(task)), ..Default::default() };
        let Some(Task::Sft(found)) = with_settings(spec, &settings()).task else { panic!("another task") };
        let batch = found.batch.unwrap();
        assert_eq!((batch.examples_per_step, batch.tokens_per_micro_batch), (Some(4), Some(4096)));
        assert_eq!((found.precision(), found.seed), (v1::Precision::Bfloat16, Some(3)));
    }
}

//! `generate`: a model answers rows of prompts in a job, which is followed and its answers taken home; or one who waits.

use std::path::PathBuf;

use clap::Args;
use hone_client::{Client, v1};

use crate::choice::precision;
use crate::failure::Failure;
use crate::follow::Ending;
use crate::output::Output;
use crate::train::{Submission, submit};
use crate::{chat, checkpoints, locate};

/// Which model answers what.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What answers: JOB for its last checkpoint, JOB/CHECKPOINT, or the URI of a checkpoint, PEFT folder or model's folder.
    /// Default: the base model.
    #[arg(value_name = "CHECKPOINT", required_unless_present = "model")]
    pub(crate) checkpoint: Option<String>,
    /// The base model: an id, a URI, or a local path, which is uploaded first. Default: that of the job.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Say this and show the answer. Without it, or a prompt or rows, each line of standard input is a turn of a conversation.
    #[arg(long, short, value_name = "TEXT", conflicts_with_all = ["prompt", "data"])]
    pub(crate) message: Option<String>,
    /// A text to go on with, as it is, without the model's chat template.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["data", "system"])]
    pub(crate) prompt: Option<String>,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT", conflicts_with = "data")]
    pub(crate) system: Option<String>,
    /// Rows to answer in a job: an id (ds-…), a URI, or a local file, which is uploaded first. May be repeated.
    #[arg(long, value_name = "ROWS", help_heading = "Rows")]
    pub(crate) data: Vec<String>,
    /// File with a chat template (Jinja) to use instead of the tokenizer's own.
    #[arg(long, value_name = "FILE", requires = "data", help_heading = "Rows")]
    chat_template: Option<PathBuf>,
    /// At most this many rows, a uniform sample. Default: all.
    #[arg(long, value_name = "N", requires = "data", help_heading = "Rows")]
    max_examples: Option<u64>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Answers to each row; more than one need a temperature. Default 1.
    #[arg(long, value_name = "N", requires = "data", help_heading = "Answers")]
    answers_per_row: Option<u32>,
    /// Answers that are written at once. Default 8.
    #[arg(long, value_name = "N", requires = "data", help_heading = "Answers")]
    answers_at_once: Option<u32>,
    /// Number format of weights and activations. Default: bfloat16 on a GPU, float32 on a CPU.
    #[arg(long, value_name = "FORMAT", value_parser = precision(), requires = "data", help_heading = "Answers")]
    precision: Option<v1::Precision>,
    /// Download answers.jsonl into this folder, which must not exist or be empty. Default: it stays on the server.
    #[arg(long, value_name = "DIR", requires = "data", conflicts_with_all = ["detach", "dry_run"])]
    to: Option<PathBuf>,
    #[command(flatten)]
    submission: Submission,
}

/// How texts go on.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Most tokens of an answer. Default 256.
    #[arg(long, value_name = "TOKENS", help_heading = "Answers")]
    max_new_tokens: Option<u32>,
    /// 0 takes the likeliest token each time, 1 draws as the model says. Default 0.
    #[arg(long, value_name = "T", help_heading = "Answers")]
    temperature: Option<f64>,
    /// Only so many of the likeliest tokens; 0 is all. Default 0.
    #[arg(long, value_name = "K", help_heading = "Answers")]
    top_k: Option<u32>,
    /// Only the fewest of the likeliest tokens whose probabilities reach this sum. Default 1.
    #[arg(long, value_name = "P", help_heading = "Answers")]
    top_p: Option<f64>,
    /// Only tokens at least this share as likely as the likeliest. Default 0.
    #[arg(long, value_name = "SHARE", help_heading = "Answers")]
    min_p: Option<f64>,
    /// Makes tokens that stand in prompt or text less likely. Default 1: it does not.
    #[arg(long, value_name = "X", help_heading = "Answers")]
    repetition_penalty: Option<f64>,
    /// What chance draws from: the same seed gives the same answer. Default 42.
    #[arg(long, help_heading = "Answers")]
    seed: Option<u64>,
    /// A text that ends an answer, which does not hold it. May be repeated.
    #[arg(long, value_name = "TEXT", help_heading = "Answers")]
    stop: Vec<String>,
}

impl SamplingArgs {
    pub(crate) fn spec(&self) -> v1::SamplingSpec {
        v1::SamplingSpec {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
        }
    }
}

impl GenerateArgs {
    /// The spec that these flags ask for; `model`, `checkpoint` and `rows` are ids and URIs.
    fn spec(
        &self,
        model: String,
        checkpoint: Option<String>,
        rows: Vec<String>,
        chat_template: Option<String>,
    ) -> v1::JobSpec {
        let task = v1::GenerateTask {
            checkpoint,
            data: Some(v1::PromptRows { rows, chat_template, max_examples: self.max_examples }),
            sampling: Some(self.sampling.spec()),
            answers_per_row: self.answers_per_row,
            answers_at_once: self.answers_at_once,
            precision: self.precision.unwrap_or_default().into(),
        };
        self.submission.job(model, v1::job_spec::Task::Generate(task))
    }
}

pub(crate) async fn run(args: GenerateArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let (model, checkpoint) =
        locate::model_and_checkpoint(args.model.as_deref(), args.checkpoint.as_deref(), client, out).await?;
    if args.data.is_empty() {
        return chat::run(args, model, checkpoint, client, out).await;
    }
    let rows = locate::rows(&args.data, client, out).await?;
    let chat_template = args.chat_template.as_deref().map(locate::text).transpose()?;
    let spec = args.spec(model, checkpoint, rows, chat_template);
    let (ending, job_id) = submit(spec, &args.submission, client, out).await?;
    checkpoints::take_home(ending, job_id, args.to, client, out).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use crate::args::{Cli, Command};
    use crate::json::line;

    fn generate(flags: &[&str]) -> Result<Value, clap::Error> {
        let cli = Cli::try_parse_from(["hone", "generate"].iter().chain(flags))?;
        let Command::Generate(args) = cli.command else { panic!("another command") };
        let spec = args.spec("m".into(), args.checkpoint.clone(), args.data.clone(), None);
        Ok(serde_json::from_str(&line("JobSpec", &spec)).expect("JSON"))
    }

    #[test]
    fn flags_are_fields_of_the_spec() {
        let flags = ["c", "--data", "r", "--temperature", "0.7", "--top-p", "0.9", "--stop", "\n\n", "--stop", "User:"];
        let spec =
            generate(&[&flags[..], &["--answers-per-row", "3", "--seed", "7", "--max-new-tokens", "9"]].concat());
        let expected = json!({
            "checkpoint": "c",
            "data": {"rows": ["r"]},
            "sampling": {
                "max_new_tokens": 9, "temperature": 0.7, "top_p": 0.9, "seed": "7", "stop": ["\n\n", "User:"],
            },
            "answers_per_row": 3,
        });
        assert_eq!(spec.unwrap()["generate"], expected);
        assert!(generate(&["--data", "r"]).is_err(), "a checkpoint or a model");
        assert!(generate(&["c", "--answers-per-row", "3"]).is_err(), "only rows have several answers");
        assert!(generate(&["c", "--message", "a", "--data", "r"]).is_err(), "a message or rows");
        assert!(generate(&["c", "--message", "a"]).is_ok() && generate(&["c"]).is_ok());
    }
}

//! `evaluate` and `compare`: models scored on rows that they were not trained on; the job is followed, its figures are its end.

use std::path::PathBuf;

use clap::Args;
use hone_client::{Client, v1};

use crate::choice::{loss_on, precision, row_kind};
use crate::failure::Failure;
use crate::follow::Ending;
use crate::locate;
use crate::output::Output;
use crate::train::{Submission, submit};

/// The base model among the models that are compared.
const BASE: &str = "base";

/// One model on rows.
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// What to score: JOB for its last checkpoint, JOB/CHECKPOINT, or the URI of a checkpoint, PEFT folder or model's folder.
    /// Default: the base model.
    #[arg(value_name = "CHECKPOINT", required_unless_present = "model")]
    checkpoint: Option<String>,
    /// The base model: an id, a URI, or a local path, which is uploaded first. Default: that of the job.
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    scoring: ScoringArgs,
}

/// Models on the same rows.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The models; the others are compared with the first. `base` is the base model; else JOB for its last checkpoint,
    /// JOB/CHECKPOINT, or the URI of a checkpoint, PEFT folder or model's folder. NAME=… gives it a name of its own.
    #[arg(value_name = "MODEL", required = true, num_args = 2..)]
    candidates: Vec<String>,
    /// The base model: an id, a URI, or a local path, which is uploaded first. Default: that of the first job named.
    #[arg(long)]
    model: Option<String>,
    /// Seed of the bootstrap. Default 42.
    #[arg(long, help_heading = "Scoring")]
    seed: Option<u64>,
    #[command(flatten)]
    scoring: ScoringArgs,
}

/// Which rows, and how they are scored.
#[derive(Debug, Args)]
struct ScoringArgs {
    /// Rows to score: an id (ds-…), a URI, or a local file, which is uploaded first. May be repeated.
    #[arg(long, required = true, value_name = "ROWS", help_heading = "Rows")]
    data: Vec<String>,
    /// What of a row is scored. Default: pairs when the first row has chosen or rejected, else texts.
    #[arg(long, value_parser = row_kind(), help_heading = "Rows")]
    kind: Option<v1::RowKind>,
    /// Which tokens of texts are scored. Default completion.
    #[arg(long, value_name = "TOKENS", value_parser = loss_on(), help_heading = "Rows")]
    loss_on: Option<v1::LossOn>,
    /// File with a chat template (Jinja) to use instead of the tokenizer's own.
    #[arg(long, value_name = "FILE", help_heading = "Rows")]
    chat_template: Option<PathBuf>,
    /// At most this many rows, a uniform sample. Default: all.
    #[arg(long, value_name = "N", help_heading = "Rows")]
    max_examples: Option<u64>,
    /// Number format of weights and activations. Default: bfloat16 on a GPU, float32 on a CPU.
    #[arg(long, value_name = "FORMAT", value_parser = precision(), help_heading = "Scoring")]
    precision: Option<v1::Precision>,
    /// Most tokens that go through the model at once; never changes the result. Default 2048.
    #[arg(long, value_name = "TOKENS", help_heading = "Scoring")]
    tokens_per_micro_batch: Option<u32>,
    /// Rows to show with their text: the hardest of one model, those in which several differ most. Default 5.
    #[arg(long, value_name = "N", help_heading = "Scoring")]
    show: Option<u32>,
    /// Length of the answer that each model writes to a shown row; 0 writes none. Default 64.
    #[arg(long, value_name = "TOKENS", help_heading = "Scoring")]
    max_new_tokens: Option<u32>,
    #[command(flatten)]
    submission: Submission,
}

impl ScoringArgs {
    async fn rows(&self, client: &Client, out: &Output) -> Result<v1::ScoredRows, Failure> {
        let chat_template = self.chat_template.as_deref().map(locate::text).transpose()?;
        Ok(self.scored_rows(locate::rows(&self.data, client, out).await?, chat_template))
    }

    fn scored_rows(&self, rows: Vec<String>, chat_template: Option<String>) -> v1::ScoredRows {
        v1::ScoredRows {
            rows,
            kind: self.kind.unwrap_or_default().into(),
            loss_on: self.loss_on.unwrap_or_default().into(),
            chat_template,
            max_examples: self.max_examples,
        }
    }

    fn spec(&self) -> v1::ScoringSpec {
        v1::ScoringSpec {
            precision: self.precision.unwrap_or_default().into(),
            tokens_per_micro_batch: self.tokens_per_micro_batch,
            shown_rows: self.show,
            max_new_tokens: self.max_new_tokens,
        }
    }
}

pub(crate) async fn evaluate(args: EvaluateArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let (model, checkpoint) =
        locate::model_and_checkpoint(args.model.as_deref(), args.checkpoint.as_deref(), client, out).await?;
    let data = Some(args.scoring.rows(client, out).await?);
    let task = v1::EvaluateTask { checkpoint, data, scoring: Some(args.scoring.spec()) };
    let submission = &args.scoring.submission;
    let spec = submission.job(model, v1::job_spec::Task::Evaluate(task));
    Ok(submit(spec, submission, client, out).await?.0)
}

pub(crate) async fn compare(args: CompareArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let named: Vec<_> = args.candidates.iter().map(|given| split_name(given)).collect();
    let model = match &args.model {
        Some(model) => locate::model(model, client, out).await?,
        None => {
            let job = named.iter().map(|(_, given)| *given).find(|given| given.starts_with("job-"));
            locate::model_of_job(job.unwrap_or(named[0].1), client).await?
        }
    };
    let mut candidates = Vec::with_capacity(named.len());
    for (name, given) in named {
        candidates.push(candidate(name, given, client).await?);
    }
    let data = Some(args.scoring.rows(client, out).await?);
    let task = v1::CompareTask { candidates, data, scoring: Some(args.scoring.spec()), seed: args.seed };
    let submission = &args.scoring.submission;
    let spec = submission.job(model, v1::job_spec::Task::Compare(task));
    Ok(submit(spec, submission, client, out).await?.0)
}

/// A name and what it stands for, of `NAME=MODEL`; a sign within a URI gives no name.
fn split_name(given: &str) -> (Option<&str>, &str) {
    match given.split_once('=') {
        Some((name, model)) if !name.contains(['/', ':']) => (Some(name), model),
        _ => (None, given),
    }
}

/// One of the models, called by what it was called here, else by its job's name, else by its id.
async fn candidate(name: Option<&str>, given: &str, client: &Client) -> Result<v1::Candidate, Failure> {
    if given == BASE {
        return Ok(v1::Candidate { name: name.unwrap_or(BASE).to_owned(), checkpoint: None });
    }
    let checkpoint = Some(locate::checkpoint(given, client).await?);
    let name = match (name, given.split_once('/').map_or((given, None), |(job, rest)| (job, Some(rest)))) {
        (Some(name), _) => name.to_owned(),
        (None, (job_id, checkpoint_id)) if job_id.starts_with("job-") => {
            let name = client.job(job_id).get().await?.spec.unwrap_or_default().display_name;
            let name = if name.is_empty() { job_id.to_owned() } else { name };
            checkpoint_id.map_or(name.clone(), |id| format!("{name}/{id}"))
        }
        (None, _) => given.to_owned(),
    };
    Ok(v1::Candidate { name, checkpoint })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::json::line;

    #[test]
    fn a_name_stands_before_its_model() {
        assert_eq!(split_name("ours=job-1"), (Some("ours"), "job-1"));
        assert_eq!(split_name("job-1/step-000010"), (None, "job-1/step-000010"));
        assert_eq!(split_name("s3://bucket/a=b"), (None, "s3://bucket/a=b"));
    }

    #[test]
    fn every_flag_sets_its_field_and_no_other() {
        let parse = |flags: &[&str]| {
            let cli = Cli::try_parse_from(["hone", "compare", "base", "job-1", "--data", "d"].iter().chain(flags));
            let Command::Compare(args) = cli.expect("flags").command else { panic!("another command") };
            let rows = line("ScoredRows", &args.scoring.scored_rows(args.scoring.data.clone(), None));
            let scoring = line("ScoringSpec", &args.scoring.spec());
            [rows, scoring].map(|text| serde_json::from_str::<serde_json::Value>(&text).expect("JSON"))
        };
        assert_eq!(parse(&[]), [json!({"rows": ["d"]}), json!({})]);
        let flags = ["--kind", "pairs", "--loss-on", "all", "--max-examples", "7", "--precision", "bfloat16"];
        let more = ["--tokens-per-micro-batch", "9", "--show", "2", "--max-new-tokens", "0"];
        let rows = json!({"rows": ["d"], "kind": "ROW_KIND_PAIRS", "loss_on": "LOSS_ON_ALL", "max_examples": "7"});
        let scoring = json!({
            "precision": "PRECISION_BFLOAT16", "tokens_per_micro_batch": 9, "shown_rows": 2, "max_new_tokens": 0
        });
        assert_eq!(parse(&[&flags[..], &more[..]].concat()), [rows, scoring]);
    }

    #[test]
    fn a_comparison_takes_two_models_and_an_evaluation_one() {
        for flags in [&["compare", "base", "--data", "d"][..], &["evaluate", "--data", "d"], &["evaluate", "job-1"]] {
            assert!(Cli::try_parse_from(["hone"].iter().chain(flags)).is_err(), "{flags:?}");
        }
    }
}

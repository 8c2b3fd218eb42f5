//! `export`: a trained model as files that other tools load; the job is followed, its files are taken home.

use std::path::PathBuf;

use clap::Args;
use hone_client::{Client, v1};

use crate::choice::{export_format, weight_type};
use crate::failure::Failure;
use crate::follow::Ending;
use crate::output::Output;
use crate::train::{Submission, submit};
use crate::{checkpoints, locate};

/// What to export, and how.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// What was trained: JOB for its last checkpoint, JOB/CHECKPOINT, or the URI of a checkpoint or PEFT folder.
    #[arg(value_name = "CHECKPOINT", required_unless_present = "model")]
    pub(crate) checkpoint: Option<String>,
    /// The base model: an id, a URI, or a local path, which is uploaded first. Default: that of the job. Without a
    /// checkpoint it is exported as it is.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Layout of the files. Default hugging-face.
    #[arg(long, value_parser = export_format())]
    format: Option<v1::ExportFormat>,
    /// Number format of the weights. Default: that of the base model's file, float32 where that is quantised.
    #[arg(long, value_name = "FORMAT", value_parser = weight_type())]
    weight_type: Option<v1::WeightType>,
    /// Export although the base model is quantised; what comes out is not.
    #[arg(long)]
    dequantize: bool,
    /// Download the files into this folder, which must not exist or be empty. Default: they stay on the server.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["detach", "dry_run"])]
    to: Option<PathBuf>,
    #[command(flatten)]
    submission: Submission,
}

impl ExportArgs {
    /// The spec that these flags ask for; `model` and `checkpoint` are ids and URIs.
    fn spec(&self, model: String, checkpoint: Option<String>) -> v1::JobSpec {
        let task = v1::ExportTask {
            checkpoint,
            format: self.format.unwrap_or_default().into(),
            weight_type: self.weight_type.unwrap_or_default().into(),
            dequantize_base: self.dequantize,
        };
        self.submission.job(model, v1::job_spec::Task::Export(task))
    }
}

pub(crate) async fn run(args: ExportArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let (model, checkpoint) =
        locate::model_and_checkpoint(args.model.as_deref(), args.checkpoint.as_deref(), client, out).await?;
    let (ending, job_id) = submit(args.spec(model, checkpoint), &args.submission, client, out).await?;
    checkpoints::take_home(ending, job_id, args.to, client, out).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use crate::args::{Cli, Command};
    use crate::json::line;

    fn export(flags: &[&str]) -> Result<Value, clap::Error> {
        let cli = Cli::try_parse_from(["hone", "export"].iter().chain(flags))?;
        let Command::Export(args) = cli.command else { panic!("another command") };
        let spec = args.spec("m".into(), args.checkpoint.clone());
        Ok(serde_json::from_str(&line("JobSpec", &spec)).expect("JSON"))
    }

    #[test]
    fn every_flag_sets_its_field_and_no_other() {
        let check = |flags: &[&str], task: Value| {
            let expected = json!({"base_model": {"uri": "m"}, "export": task});
            assert_eq!(export(flags).expect("flags"), expected, "{flags:?}");
        };
        check(&["--model", "m"], json!({}));
        check(&["job-1"], json!({"checkpoint": "job-1"}));
        check(&["job-1", "--format", "gguf"], json!({"checkpoint": "job-1", "format": "EXPORT_FORMAT_GGUF"}));
        check(
            &["job-1", "--weight-type", "float16", "--dequantize"],
            json!({"checkpoint": "job-1", "weight_type": "WEIGHT_TYPE_FLOAT16", "dequantize_base": true}),
        );
        let named = export(&["job-1", "--name", "n", "--label", "a=b"]).expect("flags");
        assert_eq!((&named["display_name"], &named["labels"]), (&json!("n"), &json!({"a": "b"})));
    }

    #[test]
    fn something_must_be_exported_and_what_is_left_alone_cannot_be_downloaded() {
        for flags in [&[][..], &["job-1", "--to", "d", "--detach"], &["job-1", "--to", "d", "--dry-run"]] {
            assert!(export(flags).is_err(), "{flags:?}");
        }
    }
}

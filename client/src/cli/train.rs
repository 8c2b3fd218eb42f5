//! `train`: uploads what is local, creates the job, follows it.

use std::path::{Path, PathBuf};

use clap::Args;
use hone_client::{Client, v1};
use serde_json::json;

use crate::args::TrainCommand;
use crate::dpo::{BASE, DpoArgs, INITIAL};
use crate::failure::Failure;
use crate::follow::{Ending, follow};
use crate::labels::label;
use crate::output::Output;
use crate::sft::SftArgs;
use crate::training::{Located, TrainingArgs};
use crate::{jobs, locate};

pub(crate) async fn run(command: TrainCommand, client: &Client, out: &Output) -> Result<Ending, Failure> {
    match command {
        TrainCommand::Sft(args) => {
            let spec = sft_spec(&args, client, out).await?;
            Ok(submit(spec, &args.training.submission, client, out).await?.0)
        }
        TrainCommand::Dpo(args) => {
            let spec = dpo_spec(&args, client, out).await?;
            Ok(submit(spec, &args.training.submission, client, out).await?.0)
        }
    }
}

/// The spec that flags ask for, once what is local was uploaded.
pub(crate) async fn sft_spec(args: &SftArgs, client: &Client, out: &Output) -> Result<v1::JobSpec, Failure> {
    args.spec(locate(&args.training, client, out).await?)
}

/// The same for pairs.
pub(crate) async fn dpo_spec(args: &DpoArgs, client: &Client, out: &Output) -> Result<v1::JobSpec, Failure> {
    let located = locate(&args.training, client, out).await?;
    let reference = match args.reference.as_deref() {
        None | Some(INITIAL | BASE) => None,
        Some(named) => Some(locate::checkpoint(named, client).await?),
    };
    args.spec(located, reference)
}

async fn locate(args: &TrainingArgs, client: &Client, out: &Output) -> Result<Located, Failure> {
    Ok(Located {
        model: locate::model(&args.model, client, out).await?,
        train: locate::rows(&args.train, client, out).await?,
        eval: locate::rows(&args.data.eval, client, out).await?,
        init_from: match &args.init_from {
            Some(named) => Some(locate::checkpoint(named, client).await?),
            None => None,
        },
    })
}

/// What a job is called, and whether it is followed.
#[derive(Debug, Args)]
pub(crate) struct Submission {
    /// A name for people.
    #[arg(long, help_heading = "Job")]
    name: Option<String>,
    /// A label to filter lists by; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label, help_heading = "Job")]
    label: Vec<(String, String)>,
    /// How many attempts in a row, without a new checkpoint in between, may fail in a way that may pass and be followed by
    /// another, 0 to 100. Default 3.
    #[arg(long, value_name = "N", help_heading = "Job")]
    max_retries: Option<u32>,
    /// Write the job's id to this file once the job exists.
    #[arg(long, value_name = "FILE", help_heading = "Job")]
    job_file: Option<PathBuf>,
    /// Create the job and leave; do not follow it.
    #[arg(long, conflicts_with = "local", help_heading = "Job")]
    detach: bool,
    /// Check everything and print the spec with every default filled in; create no job.
    #[arg(long, conflicts_with_all = ["detach", "job_file"], help_heading = "Job")]
    dry_run: bool,
}

impl Submission {
    /// A spec of this task on this model.
    pub(crate) fn job(&self, model: String, task: v1::job_spec::Task) -> v1::JobSpec {
        v1::JobSpec {
            display_name: self.name.clone().unwrap_or_default(),
            labels: self.label.iter().cloned().collect(),
            base_model: Some(v1::BaseModel { uri: model }),
            task: Some(task),
            resources: None,
            max_retries: self.max_retries,
        }
    }
}

/// Creates the job and follows it, as far as is asked for. Gives the job's id where there is one.
pub(crate) async fn submit(
    spec: v1::JobSpec,
    submission: &Submission,
    client: &Client,
    out: &Output,
) -> Result<(Ending, Option<String>), Failure> {
    if submission.dry_run {
        jobs::validate(spec, client, out).await?;
        return Ok((Ending::Done, None));
    }
    let job = client.create_job(spec).await?;
    if let Some(file) = &submission.job_file {
        write_whole(file, &format!("{}\n", job.id()))?;
    }
    let job_id = Some(job.id().to_owned());
    if submission.detach {
        let created = job.get().await?;
        out.show("Job", &created, || format!("{}\nwatch it: hone jobs watch {}", job.id(), job.id()))?;
        return Ok((Ending::Done, job_id));
    }
    out.note_with(&format!("created {}", job.id()), json!({ "job_id": job.id() }));
    Ok((follow(&job, 0, out).await?, job_id))
}

/// Writes a file so that whoever reads it finds all of it or nothing.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let unwritten = |error| Failure::file("write", path, error);
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, text).map_err(unwritten)?;
    std::fs::rename(&partial, path).map_err(unwritten)
}

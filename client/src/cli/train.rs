//! `train`: makes a spec of a file and flags, checks it, uploads what is local, creates the job, follows it.

use std::mem::discriminant;
use std::path::{Path, PathBuf};

use clap::Args;
use hone_client::{Client, spec, v1};
use serde_json::json;
use v1::job_spec::Task;

use crate::args::TrainCommand;
use crate::failure::Failure;
use crate::follow::{Ending, follow};
use crate::labels::label;
use crate::output::Output;
use crate::training::TrainingArgs;
use crate::{jobs, locate, spec_file};

pub(crate) async fn run(command: TrainCommand, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let (asked, training) = match &command {
        TrainCommand::Sft(args) => (args.spec()?, &args.training),
        TrainCommand::Dpo(args) => (args.spec()?, &args.training),
    };
    let spec = located(asked, training, client, out).await?;
    Ok(submit(spec, &training.submission, client, out).await?.0)
}

/// What flags ask for, over what the file that they name asks for; once what is local was uploaded.
pub(crate) async fn located(
    asked: v1::JobSpec,
    training: &TrainingArgs,
    client: &Client,
    out: &Output,
) -> Result<v1::JobSpec, Failure> {
    let asked = match &training.spec {
        Some(file) => spec_file::overlaid(&of_the_same_task(file, &asked)?, &asked),
        None => asked,
    };
    // What the server would refuse is known before anything is uploaded.
    spec::check(&asked)?;
    locate::spec(asked, client, out).await
}

/// The spec in a file, which must be for the command's own task.
fn of_the_same_task(file: &Path, asked: &v1::JobSpec) -> Result<v1::JobSpec, Failure> {
    let read = spec_file::read(file)?;
    match (&read.task, &asked.task) {
        (Some(found), Some(due)) if discriminant(found) != discriminant(due) => {
            let message = format!("{} is a spec for {}", file.display(), task_name(found));
            Err(Failure::input_with_hint(message, format!("hone {}", command_for(found, file))))
        }
        _ => Ok(read),
    }
}

/// The field of a spec that holds a task.
fn task_name(task: &Task) -> &'static str {
    match task {
        Task::Sft(_) => "sft",
        Task::Dpo(_) => "dpo",
        Task::Evaluate(_) => "evaluate",
        Task::Compare(_) => "compare",
        Task::Generate(_) => "generate",
        Task::Export(_) => "export",
        Task::Benchmark(_) => "benchmark",
    }
}

/// The command that takes a spec of a task from a file.
pub(crate) fn command_for(task: &Task, file: &Path) -> String {
    match task {
        Task::Sft(_) | Task::Dpo(_) => format!("train {} --spec {}", task_name(task), file.display()),
        Task::Evaluate(_) | Task::Compare(_) | Task::Generate(_) | Task::Export(_) | Task::Benchmark(_) => {
            format!("jobs create --spec {}", file.display())
        }
    }
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
    pub(crate) fn job(&self, model: String, task: Task) -> v1::JobSpec {
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
        write_whole(file, format!("{}\n", job.id()))?;
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
pub(crate) fn write_whole(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Failure> {
    let unwritten = |error| Failure::file("write", path, error);
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, content).map_err(unwritten)?;
    std::fs::rename(&partial, path).map_err(unwritten)
}

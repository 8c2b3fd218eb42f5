//! `train`: uploads what is local, creates the job, follows it.

use std::path::Path;

use hone_client::{Client, v1};
use serde_json::json;

use crate::args::TrainCommand;
use crate::dpo::{BASE, INITIAL};
use crate::failure::Failure;
use crate::follow::{Ending, follow};
use crate::output::Output;
use crate::training::{Located, TrainingArgs};
use crate::{jobs, locate};

pub(crate) async fn run(command: TrainCommand, client: &Client, out: &Output) -> Result<Ending, Failure> {
    match command {
        TrainCommand::Sft(args) => {
            let located = locate(&args.training, client, out).await?;
            train(args.spec(located)?, &args.training, client, out).await
        }
        TrainCommand::Dpo(args) => {
            let located = locate(&args.training, client, out).await?;
            let reference = match args.reference.as_deref() {
                None | Some(INITIAL | BASE) => None,
                Some(adapter) => Some(locate::adapter(adapter, client).await?),
            };
            train(args.spec(located, reference)?, &args.training, client, out).await
        }
    }
}

async fn locate(args: &TrainingArgs, client: &Client, out: &Output) -> Result<Located, Failure> {
    Ok(Located {
        model: locate::model(&args.model, client, out).await?,
        train: locate::rows(&args.train, client, out).await?,
        eval: locate::rows(&args.data.eval, client, out).await?,
        init_from: match &args.init_from {
            Some(adapter) => Some(locate::adapter(adapter, client).await?),
            None => None,
        },
    })
}

async fn train(spec: v1::JobSpec, args: &TrainingArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    if args.dry_run {
        jobs::validate(spec, client, out).await?;
        return Ok(Ending::Done);
    }
    let job = client.create_job(spec).await?;
    if let Some(file) = &args.job_file {
        write_whole(file, &format!("{}\n", job.id()))?;
    }
    if args.detach {
        let created = job.get().await?;
        out.show("Job", &created, || format!("{}\nwatch it: hone jobs watch {}", job.id(), job.id()))?;
        return Ok(Ending::Done);
    }
    out.note_with(&format!("created {}", job.id()), json!({ "job_id": job.id() }));
    follow(&job, 0, out).await
}

/// Writes a file so that whoever reads it finds all of it or nothing.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), Failure> {
    let unwritten = |error| Failure::file("write", path, error);
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, text).map_err(unwritten)?;
    std::fs::rename(&partial, path).map_err(unwritten)
}

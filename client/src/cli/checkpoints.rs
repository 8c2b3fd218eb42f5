//! `checkpoints`: what a job has saved, and taking it home.

use std::path::{Path, PathBuf};

use chrono::Local;
use hone_client::{Client, Error, JobHandle, v1};

use crate::args::CheckpointsCommand;
use crate::failure::Failure;
use crate::follow::Ending;
use crate::human::{ago, bytes, count, date, printable};
use crate::output::Output;
use crate::table::Table;
use crate::transfers::TransferBar;

/// What a job made, once it is done and where somebody wants it.
pub(crate) async fn take_home(
    ending: Ending,
    job_id: Option<String>,
    to: Option<PathBuf>,
    client: &Client,
    out: &Output,
) -> Result<Ending, Failure> {
    let (Ending::Done, Some(job), Some(to)) = (ending, job_id, to) else { return Ok(ending) };
    run(CheckpointsCommand::Download { job, checkpoint: None, to, best: false }, client, out).await
}

pub(crate) async fn run(command: CheckpointsCommand, client: &Client, out: &Output) -> Result<Ending, Failure> {
    match command {
        CheckpointsCommand::List { job } => {
            let checkpoints = client.job(job).checkpoints().await?;
            out.show_all("Checkpoint", &checkpoints, || table(&checkpoints).text("no checkpoints yet"))?;
        }
        CheckpointsCommand::Get { job, checkpoint } => {
            let checkpoint = match checkpoint {
                Some(checkpoint_id) => client.get_checkpoint(&job, &checkpoint_id).await?,
                None => client.job(job).last_checkpoint().await?,
            };
            out.show("Checkpoint", &checkpoint, || text(&checkpoint))?;
        }
        CheckpointsCommand::Download { job, checkpoint, to, best } => {
            let job = client.job(job);
            let checkpoint_id = match checkpoint {
                Some(checkpoint_id) => checkpoint_id,
                None => chosen(&job, best).await?.checkpoint_id,
            };
            let bar = TransferBar::new("downloading", out);
            let checkpoint = job.download_with(&checkpoint_id, &to, &mut |progress| bar.update(progress)).await?;
            drop(bar);
            out.show("Checkpoint", &checkpoint, || downloaded(&checkpoint, &to))?;
        }
        CheckpointsCommand::Delete { job, checkpoints } => {
            for checkpoint in checkpoints {
                client.delete_checkpoint(&job, &checkpoint).await?;
                out.deleted(&format!("{job}/{checkpoint}"))?;
            }
        }
    }
    Ok(Ending::Done)
}

async fn chosen(job: &JobHandle, best: bool) -> Result<v1::Checkpoint, Error> {
    if !best {
        return job.last_checkpoint().await;
    }
    match job.best_checkpoint().await? {
        Some(checkpoint) => Ok(checkpoint),
        // Says that there is none.
        None => job.last_checkpoint().await,
    }
}

fn downloaded(checkpoint: &v1::Checkpoint, to: &Path) -> String {
    let size = bytes(checkpoint.size_bytes);
    format!(
        "{} is in {}: {} files, {size}, verified",
        checkpoint.checkpoint_id,
        to.display(),
        checkpoint.files.len() + 1
    )
}

fn table(checkpoints: &[v1::Checkpoint]) -> Table {
    let mut table = Table::new(&["CHECKPOINT", "STEP", "HELD-OUT LOSS", "SIZE", "CREATED", "AT"], &[1, 2, 3]);
    let now = Local::now();
    for checkpoint in checkpoints {
        table.row([
            printable(&checkpoint.checkpoint_id),
            count(checkpoint.step),
            checkpoint.eval_loss.map_or("-".to_owned(), |loss| format!("{loss:.4}")),
            bytes(checkpoint.size_bytes),
            checkpoint.create_time.as_ref().map(|time| ago(time, now)).unwrap_or_default(),
            printable(&checkpoint.uri),
        ]);
    }
    table
}

fn text(checkpoint: &v1::Checkpoint) -> String {
    let mut files = Table::new(&["FILE", "SIZE", "SHA-256"], &[1]);
    for file in &checkpoint.files {
        files.row([printable(&file.name), bytes(file.size_bytes), file.sha256.clone()]);
    }
    format!(
        "{} of {}\nstep           {}\nheld-out loss  {}\nsize           {}\ncreated        {}, attempt {}\nat             {}\n\n{}",
        printable(&checkpoint.checkpoint_id),
        checkpoint.job_id,
        count(checkpoint.step),
        checkpoint.eval_loss.map_or("not measured".to_owned(), |loss| format!("{loss:.4}")),
        bytes(checkpoint.size_bytes),
        checkpoint.create_time.as_ref().map(date).unwrap_or_default(),
        checkpoint.attempt,
        printable(&checkpoint.uri),
        files.text("no files"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_was_not_measured_is_a_dash() {
        let checkpoint = |id: &str, step, eval_loss| v1::Checkpoint {
            checkpoint_id: id.into(),
            step,
            eval_loss,
            size_bytes: 19_400_000,
            uri: format!("file:///s/{id}"),
            ..Default::default()
        };
        let all = [checkpoint("step-001200", 1200, Some(2.43211)), checkpoint("step-000600", 600, None)];
        let expected = "\
CHECKPOINT    STEP  HELD-OUT LOSS     SIZE  CREATED  AT
step-001200  1,200         2.4321  19.4 MB           file:///s/step-001200
step-000600    600              -  19.4 MB           file:///s/step-000600";
        assert_eq!(table(&all).text(""), expected);
    }
}

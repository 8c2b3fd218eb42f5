//! A pipeline that may be killed at any moment and started again: it makes one job, sees each event once, and ends with the
//! adapter. What it must remember lies in a folder.
//!
//! ```text
//! cargo run -p hone-client --example resume -- MODEL ROWS FOLDER
//! ```

#![allow(clippy::print_stdout)]

use std::path::Path;

use futures::StreamExt;
use hone_client::spec::{Data, Job, Sft};
use hone_client::v1::job_event::Event;
use hone_client::{Client, JobHandle, Outcome, Update};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [model, rows, folder] = &arguments[..] else {
        return Err("usage: resume MODEL ROWS FOLDER".into());
    };
    let folder = Path::new(folder);
    std::fs::create_dir_all(folder)?;
    let server = std::env::var("HONE_SERVER").unwrap_or("http://127.0.0.1:7400".to_owned());
    let client = Client::connect(server).await?;
    let job = the_job(&client, model, rows, &folder.join("request_id")).await?;
    println!("{}", job.id());

    let bookmark = folder.join("sequence");
    let seen = std::fs::read_to_string(&bookmark).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let mut updates = job.updates_after(seen);
    while let Some(update) = updates.next().await {
        match update? {
            Update::Event(event) => {
                if let Some(Event::TrainStep(step)) = &event.event {
                    println!("event {}: step {}, loss {:?}", event.sequence, step.step, step.loss);
                }
                // Only now is the event dealt with; a crash before this line shows it again, never loses it.
                std::fs::write(&bookmark, event.sequence.to_string())?;
            }
            Update::Reconnecting { error, delay } => println!("{error}; next attempt in {delay:?}"),
            _ => {}
        }
    }

    let adapter = folder.join("adapter");
    match job.wait().await?.outcome {
        // A download that was cut goes on as well; one that is whole is there.
        Outcome::Succeeded(result) if !adapter.exists() => {
            job.download(&result.final_checkpoint_id, &adapter).await?;
        }
        Outcome::Succeeded(_) => {}
        Outcome::Failed(failure) => return Err(failure.message.into()),
        Outcome::Cancelled => return Err("somebody cancelled the job".into()),
    }
    println!("{}", adapter.display());
    Ok(())
}

/// The job of this folder: made, or found when it was made before under the same request id.
async fn the_job(
    client: &Client,
    model: &str,
    rows: &str,
    note: &Path,
) -> Result<JobHandle, Box<dyn std::error::Error>> {
    // On disk before it is used: whoever comes back asks for the same job.
    if !note.exists() {
        std::fs::write(note.with_extension("new"), uuid::Uuid::new_v4().to_string())?;
        std::fs::rename(note.with_extension("new"), note)?;
    }
    let request_id = std::fs::read_to_string(note)?;
    // The same bytes are uploaded once.
    let model = match client.find_model(model).await? {
        Some(found) => found,
        None => client.upload_model(model, "resume").await?,
    };
    let rows = match client.find_dataset(rows).await? {
        Some(found) => found,
        None => client.upload_dataset(rows).await?,
    };
    let spec = Job::new(model.model_id, Sft::new(Data::new([rows.dataset_id]))).build()?;
    Ok(client.create_job_once(request_id, spec).await?)
}

//! A job every night, of which the last few are kept: made once for its date however often this is started, followed by deleting
//! older ones.
//!
//! ```text
//! cargo run -p hone-client --example nightly -- MODEL ROWS "$(date +%F)" 7
//! ```

#![allow(clippy::print_stdout)]

use hone_client::spec::{Data, Job, Sft};
use hone_client::{Client, Outcome, is_final, v1};

const LABEL: (&str, &str) = ("schedule", "nightly");

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [model, rows, date, keep] = &arguments[..] else {
        return Err("usage: nightly MODEL ROWS DATE KEEP".into());
    };
    let keep: usize = keep.parse()?;
    let server = std::env::var("HONE_SERVER").unwrap_or("http://127.0.0.1:7400".to_owned());
    let client = Client::connect(server).await?;
    let model = match client.find_model(model).await? {
        Some(found) => found,
        None => client.upload_model(model, "nightly").await?,
    };
    let rows = match client.find_dataset(rows).await? {
        Some(found) => found,
        None => client.upload_dataset(rows).await?,
    };
    let spec = Job::new(model.model_id, Sft::new(Data::new([rows.dataset_id])))
        .display_name(format!("nightly {date}"))
        .label(LABEL.0, LABEL.1)
        .build()?;
    let job = client.create_job_once(format!("nightly {date}"), spec).await?;
    let outcome = job.wait().await?.outcome;
    println!("{date}: {} {}", job.id(), if matches!(outcome, Outcome::Succeeded(_)) { "succeeded" } else { "failed" });

    // Newest first. What succeeded counts towards those that are kept; what did not is deleted once newer ones did.
    let mut kept = 0;
    for old in all(&client).await? {
        let succeeded = old.state() == v1::JobState::Succeeded;
        if kept >= keep && is_final(old.state()) {
            client.delete_job(&old.job_id).await?;
            println!("{} deleted", old.spec.unwrap_or_default().display_name);
        }
        kept += usize::from(succeeded);
    }
    match outcome {
        Outcome::Succeeded(_) => Ok(()),
        Outcome::Failed(failure) => Err(failure.message.into()),
        Outcome::Cancelled => Err("somebody cancelled the job".into()),
    }
}

/// Every job of the schedule, newest first.
async fn all(client: &Client) -> hone_client::Result<Vec<v1::Job>> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let labels = [(LABEL.0.to_owned(), LABEL.1.to_owned())].into();
        let page = client.list_jobs(v1::ListJobsRequest { labels, page_token, ..Default::default() }).await?;
        all.extend(page.jobs);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}

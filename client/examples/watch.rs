//! Follow a job across restarts of this program: the last event seen is kept in a file, and the next run goes on after it.
//!
//! ```text
//! cargo run -p hone-client --example watch -- job-0123456789abcdef0123456789abcdef
//! ```

#![allow(clippy::print_stdout)]

use futures::StreamExt;
use hone_client::v1::job_event::Event;
use hone_client::{Client, Update};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(job_id) = std::env::args().nth(1) else {
        return Err("usage: watch JOB".into());
    };
    let server = std::env::var("HONE_SERVER").unwrap_or("http://127.0.0.1:7400".to_owned());
    let client = Client::connect(server).await?;

    let bookmark = format!("{job_id}.sequence");
    let seen = std::fs::read_to_string(&bookmark).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);

    let mut updates = client.job(job_id).updates_after(seen);
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
    Ok(())
}

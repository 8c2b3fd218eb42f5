//! List the jobs of a label, keep the best checkpoint of each that succeeded, and delete those that failed.
//!
//! ```text
//! cargo run -p hone-client --example cleanup -- team nlp
//! ```

#![allow(clippy::print_stdout)]

use hone_client::{Client, v1};
use v1::JobState;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(key), Some(value)) = (arguments.next(), arguments.next()) else {
        return Err("usage: cleanup LABEL VALUE".into());
    };
    let server = std::env::var("HONE_SERVER").unwrap_or("http://127.0.0.1:7400".to_owned());
    let client = Client::connect(server).await?;

    let mut page_token = String::new();
    loop {
        let labels = [(key.clone(), value.clone())].into();
        let page = client.list_jobs(v1::ListJobsRequest { labels, page_token, ..Default::default() }).await?;
        for job in page.jobs {
            let handle = client.job(&job.job_id);
            match job.state() {
                JobState::Failed => {
                    handle.delete().await?;
                    println!("{} deleted", job.job_id);
                }
                JobState::Succeeded => {
                    let best = handle.best_checkpoint().await?.map(|one| one.checkpoint_id);
                    for checkpoint in handle.checkpoints().await? {
                        if Some(&checkpoint.checkpoint_id) != best.as_ref() {
                            client.delete_checkpoint(&job.job_id, &checkpoint.checkpoint_id).await?;
                            println!("{}/{} deleted", job.job_id, checkpoint.checkpoint_id);
                        }
                    }
                }
                state => println!("{} is {}", job.job_id, state.as_str_name()),
            }
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        page_token = page.next_page_token;
    }
}

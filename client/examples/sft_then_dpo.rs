//! Supervised fine-tuning, then DPO on pairs from its checkpoint, then base, SFT and DPO side by side on held-out pairs.
//!
//! ```text
//! cargo run -p hone-client --example sft_then_dpo -- MODEL ROWS PAIRS HELD_OUT_PAIRS
//! ```

#![allow(clippy::print_stdout)]

use futures::StreamExt;
use hone_client::spec::{Candidate, Compare, Data, Dpo, Job, ScoredRows, Sft};
use hone_client::v1::job_event::Event;
use hone_client::{Client, JobHandle, Outcome, v1};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [model, rows, pairs, held_out] = &arguments[..] else {
        return Err("usage: sft_then_dpo MODEL ROWS PAIRS HELD_OUT_PAIRS".into());
    };
    let server = std::env::var("HONE_SERVER").unwrap_or("http://127.0.0.1:7400".to_owned());
    let client = Client::connect(server).await?;
    let model = client.upload_model(model, "sft_then_dpo").await?.model_id;
    let rows = client.upload_dataset(rows).await?.dataset_id;
    let pairs = client.upload_dataset(pairs).await?.dataset_id;
    let held_out = client.upload_dataset(held_out).await?.dataset_id;

    let sft = Job::new(&model, Sft::new(Data::new([rows]))).display_name("sft").build()?;
    let sft = trained(&client.create_job(sft).await?).await?;
    println!("sft: {sft}");

    // The reference policy is what the run starts from: the checkpoint of SFT, not the bare model.
    let dpo = Dpo::new(Data::new([pairs])).init_from(&sft);
    let dpo = trained(&client.create_job(Job::new(&model, dpo).display_name("dpo").build()?).await?).await?;
    println!("dpo: {dpo}");

    let candidates =
        [Candidate::new("base"), Candidate::new("sft").checkpoint(sft), Candidate::new("dpo").checkpoint(dpo)];
    let compare = Job::new(&model, Compare::new(candidates, ScoredRows::new([held_out]))).build()?;
    let job = client.create_job(compare).await?;
    let mut events = job.watch();
    while let Some(event) = events.next().await {
        if let Some(Event::Scores(scores)) = event?.event {
            show(&scores);
        }
    }
    result(&job).await.map(drop)
}

/// Waits for a run and gives the URI of its last checkpoint.
async fn trained(job: &JobHandle) -> Result<String, Box<dyn std::error::Error>> {
    Ok(result(job).await?.final_checkpoint_uri)
}

async fn result(job: &JobHandle) -> Result<v1::JobResult, Box<dyn std::error::Error>> {
    match job.wait().await?.outcome {
        Outcome::Succeeded(result) => Ok(*result),
        Outcome::Failed(failure) => Err(format!("{}; try: {}", failure.message, failure.remedy).into()),
        Outcome::Cancelled => Err("somebody cancelled the job".into()),
    }
}

fn show(scores: &v1::ScoreReport) {
    for model in &scores.models {
        let told_apart = model.evaluation.as_ref().and_then(|found| found.preference);
        println!(
            "{}: tells {:.0}% of pairs apart",
            model.name,
            100.0 * told_apart.map_or(f64::NAN, |one| one.accuracy)
        );
    }
    for difference in &scores.differences {
        if let Some(margin) = &difference.margin {
            let (name, baseline) = (&difference.name, &difference.baseline);
            println!(
                "{name} against {baseline}: margin {:+.4} ({:+.4} to {:+.4})",
                margin.difference, margin.low, margin.high
            );
        }
    }
}

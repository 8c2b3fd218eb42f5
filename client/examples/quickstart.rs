//! From rows to a trained adapter: upload, preview, train, follow, download.
//!
//! ```text
//! cargo run -p hone-client --example quickstart -- SmolLM2-135M-Instruct.Q4_1.gguf conversations.jsonl adapter
//! ```

#![allow(clippy::print_stdout)]

use futures::StreamExt;
use hone_client::spec::{Data, Job, Sft};
use hone_client::v1::job_event::Event;
use hone_client::{Client, Outcome, v1};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [model, rows, target] = &arguments[..] else {
        return Err("usage: quickstart MODEL ROWS FOLDER".into());
    };
    let server = std::env::var("HONE_SERVER").unwrap_or("http://127.0.0.1:7400".to_owned());
    let client = Client::connect(server).await?;

    // Both uploads are verified: the server's digest must be ours.
    let model = client.upload_model(model, "quickstart").await?;
    let rows = client.upload_dataset(rows).await?;
    let data = Data::new([rows.dataset_id]).eval_fraction(0.25);

    // The preview takes the same steps as training does, and creates nothing.
    let request = v1::PreviewDatasetRequest {
        base_model: Some(v1::BaseModel { uri: model.model_id.clone() }),
        data: Some(data.clone().into()),
        ..Default::default()
    };
    for report in client.preview_dataset(request).await?.reports {
        println!("{}: {} of {} rows take part", report.split, report.examples, report.rows_read);
        for reason in report.reasons {
            println!("  {}: {} rows", reason.reason, reason.count);
        }
    }

    // Everything left out takes the default that stands in the method's documentation; what cannot run is told here.
    let spec = Job::new(model.model_id, Sft::new(data)).display_name("quickstart").build()?;
    let job = client.create_job(spec).await?;
    println!("{}", job.id());

    // The stream survives lost connections and ends with the job.
    let mut events = job.watch();
    while let Some(event) = events.next().await {
        match event?.event {
            Some(Event::TrainStep(step)) => println!("step {}: loss {:.4}", step.step, step.loss.unwrap_or(f64::NAN)),
            Some(Event::Evaluation(result)) => println!("held-out loss {:.4}", result.loss.unwrap_or(f64::NAN)),
            Some(Event::Warning(warning)) => println!("{}: {}", warning.code, warning.message),
            _ => {}
        }
    }

    // A job that failed is an outcome, not an error: it says why, where, and what to try.
    match job.wait().await?.outcome {
        Outcome::Succeeded(result) => {
            job.download(&result.final_checkpoint_id, target).await?;
            println!("the adapter is in {target}, ready for PEFT");
            Ok(())
        }
        Outcome::Failed(failure) => Err(format!("{}; try: {}", failure.message, failure.remedy).into()),
        Outcome::Cancelled => Err("somebody cancelled the job".into()),
    }
}

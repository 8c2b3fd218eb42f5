//! From rows to a trained adapter: upload, preview, train, follow, download.
//!
//! ```text
//! cargo run -p hone-client --example quickstart -- SmolLM2-135M-Instruct.Q4_1.gguf conversations.jsonl
//! ```

#![allow(clippy::print_stdout)]

use futures::StreamExt;
use hone_client::v1::job_event::Event;
use hone_client::{Client, Outcome, v1};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(rows)) = (arguments.next(), arguments.next()) else {
        return Err("usage: quickstart MODEL ROWS".into());
    };
    let server = std::env::var("HONE_SERVER").unwrap_or("http://127.0.0.1:7400".to_owned());
    let client = Client::connect(server).await?;

    // Both uploads are verified: the server's digest must be ours.
    let model = client.upload_model(model, "quickstart").await?;
    let rows = client.upload_dataset(rows).await?;
    let base_model = v1::BaseModel { uri: model.model_id };
    let data = v1::DataSpec { train: vec![rows.dataset_id], eval_fraction: Some(0.1), ..Default::default() };

    // The preview takes the same steps as training does, and creates nothing.
    let request = v1::PreviewDatasetRequest {
        base_model: Some(base_model.clone()),
        data: Some(data.clone()),
        ..Default::default()
    };
    for report in client.preview_dataset(request).await?.reports {
        println!("{}: {} of {} rows take part", report.split, report.examples, report.rows_read);
        for reason in report.reasons {
            println!("  {}: {} rows", reason.reason, reason.count);
        }
    }

    // Everything left out takes the default that is written beside the field in spec.proto.
    let task = v1::SftTask { data: Some(data), ..Default::default() };
    let spec = v1::JobSpec {
        display_name: "quickstart".to_owned(),
        base_model: Some(base_model),
        task: Some(v1::job_spec::Task::Sft(task)),
        ..Default::default()
    };
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
            job.download(&result.final_checkpoint_id, "adapter").await?;
            println!("the adapter is in adapter/, ready for PEFT");
            Ok(())
        }
        Outcome::Failed(failure) => Err(format!("{}; try: {}", failure.message, failure.remedy).into()),
        Outcome::Cancelled => Err("somebody cancelled the job".into()),
    }
}

//! A sweep over learning rates that gives up on runs that lag: at every evaluation a run is held against the best loss that any
//! other had at the same step, and cancelled when it is clearly worse. A cancelled run keeps its checkpoint.
//!
//! ```text
//! cargo run -p hone-client --example sweep -- MODEL ROWS 1e-5 1e-4 1e-3
//! ```

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::sync::Mutex;

use futures::StreamExt;
use futures::future::try_join_all;
use hone_client::spec::{Data, Evaluation, Job, Optimizer, Sft};
use hone_client::v1::job_event::Event;
use hone_client::{Client, JobHandle, Outcome};

/// Standard errors by which a run may lag.
const PATIENCE: f64 = 3.0;

/// The best loss at each step, of all runs so far.
type Best = Mutex<HashMap<u64, f64>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(rows)) = (arguments.next(), arguments.next()) else {
        return Err("usage: sweep MODEL ROWS RATE...".into());
    };
    let rates = arguments.map(|rate| rate.parse()).collect::<Result<Vec<f64>, _>>()?;
    let server = std::env::var("HONE_SERVER").unwrap_or("http://127.0.0.1:7400".to_owned());
    let client = Client::connect(server).await?;
    let model = client.upload_model(model, "sweep").await?.model_id;
    let rows = client.upload_dataset(rows).await?.dataset_id;

    // All at once: the server runs as many as it may and queues the rest.
    let mut runs = Vec::new();
    for rate in rates {
        let sft = Sft::new(Data::new([&rows]).eval_fraction(0.25))
            .optimizer(Optimizer::new().learning_rate(rate))
            .evaluation(Evaluation::new().every_steps(5).max_time_fraction(1.0))
            .epochs(20.0);
        let spec = Job::new(&model, sft).display_name(format!("rate {rate:e}")).label("sweep", "rates").build()?;
        runs.push((rate, client.create_job(spec).await?));
    }
    let best = Best::default();
    let ends = try_join_all(runs.iter().map(|(rate, job)| follow(*rate, job, &best))).await?;
    match ends.into_iter().flatten().min_by(|one, other| one.1.total_cmp(&other.1)) {
        Some((rate, loss)) => println!("best: {rate:e} with a held-out loss of {loss:.4}"),
        None => println!("no run came to its end"),
    }
    Ok(())
}

/// Follows a run and gives its held-out loss in the end, unless it was given up.
async fn follow(rate: f64, job: &JobHandle, best: &Best) -> hone_client::Result<Option<(f64, f64)>> {
    let mut given_up = false;
    let mut events = job.watch();
    while let Some(event) = events.next().await {
        let Some(Event::Evaluation(found)) = event?.event else { continue };
        let Some(loss) = found.loss else { continue };
        if !given_up && lags(best, found.step, loss, found.loss_standard_error) {
            given_up = true;
            println!("{rate:e}: given up at step {} with {loss:.4}", found.step);
            job.cancel().await?;
        }
    }
    match job.wait().await?.outcome {
        Outcome::Succeeded(result) if !given_up => Ok(result.eval_loss_after.map(|loss| (rate, loss))),
        Outcome::Failed(failure) => {
            println!("{rate:e}: {}", failure.message);
            Ok(None)
        }
        Outcome::Succeeded(_) | Outcome::Cancelled => Ok(None),
    }
}

/// Whether a loss is clearly worse than the best one at its step.
fn lags(best: &Best, step: u64, loss: f64, standard_error: f64) -> bool {
    let mut best = best.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let at_step = best.entry(step).or_insert(loss);
    *at_step = at_step.min(loss);
    loss > *at_step + PATIENCE * standard_error
}

//! The client SDK of hone: submit fine-tuning jobs, follow every step, take the checkpoints home.
//!
//! ```no_run
//! use futures::StreamExt;
//! use hone_client::{Client, Outcome, v1};
//!
//! # async fn example() -> hone_client::Result<()> {
//! let client = Client::connect("http://127.0.0.1:7400").await?;
//! let model = client.upload_model("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2 135M").await?;
//! let rows = client.upload_dataset("conversations.jsonl").await?;
//!
//! let spec = v1::JobSpec {
//!     base_model: Some(v1::BaseModel { uri: model.model_id }),
//!     task: Some(v1::job_spec::Task::Sft(v1::SftTask {
//!         data: Some(v1::DataSpec { train: vec![rows.dataset_id], eval_fraction: Some(0.1), ..Default::default() }),
//!         ..Default::default()
//!     })),
//!     ..Default::default()
//! };
//! let job = client.create_job(spec).await?;
//!
//! let mut events = job.watch();
//! while let Some(event) = events.next().await {
//!     if let Some(v1::job_event::Event::TrainStep(step)) = event?.event {
//!         println!("step {}: loss {:?}", step.step, step.loss);
//!     }
//! }
//! match job.wait().await?.outcome {
//!     Outcome::Succeeded(result) => drop(job.download(&result.final_checkpoint_id, "adapter").await?),
//!     other => println!("{other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What it takes care of:
//!
//! - **Lost connections.** [`JobHandle::watch`] continues after the last event it gave, each event once and in order.
//! - **Lost answers.** [`Client::create_job`] can be repeated without making a second job.
//! - **Saying who calls.** [`ConnectOptions::token`] goes with every call, over TLS to other machines, and is never printed.
//! - **Waiting.** Every unary call has a deadline, every stream a longest silence; see [`ConnectOptions`].
//! - **Damaged files.** A downloaded checkpoint appears only when every byte of it is verified.
//! - **Traces.** Every call carries a `traceparent`, and its errors name the trace ([`RpcError::trace_id`]); with the feature
//!   `telemetry` a call is part of the caller's current `tracing` span.
//! - **Telling errors apart.** An [`Error`] means that something could not be asked; a job that failed is an [`Outcome`].
//!
//! The types of requests and answers are the generated ones of [`v1`]; enum values that this client does not know pass
//! through as numbers.

#![deny(missing_docs)]

mod client;
mod error;
mod generation;
mod job;
mod options;
mod retry;
mod token;
mod trace;
mod transfer;
mod watch;

pub use client::Client;
pub use error::{Error, FieldViolation, Result, RpcError};
pub use generation::Generation;
pub use hone_proto::v1;
pub use job::{Finished, JobHandle, Outcome, is_final, outcome};
pub use options::{ClientCertificate, ConnectOptions};
pub use retry::{RETRYABLE, RetryPolicy};
pub use token::Token;
pub use tonic::Code;
pub use transfer::Progress;
pub use watch::{JobEvents, JobUpdates, Update};

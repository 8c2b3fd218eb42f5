//! The client SDK of hone: submit fine-tuning jobs, follow every step, take the checkpoints home.
//!
//! ```no_run
//! use futures::StreamExt;
//! use hone_client::spec::{Data, Job, Lora, Sft};
//! use hone_client::{Client, Outcome, v1};
//!
//! # async fn example() -> hone_client::Result<()> {
//! let client = Client::connect("http://127.0.0.1:7400").await?;
//! let model = client.upload_model("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2 135M").await?;
//! let rows = client.upload_dataset("conversations.jsonl").await?;
//!
//! let data = Data::new([rows.dataset_id]).eval_fraction(0.1);
//! let sft = Sft::new(data).adapter(Lora::new().rank(8)).epochs(2.0);
//! let spec = Job::new(model.model_id, sft).display_name("first try").build()?;
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
//! - **Lost answers.** [`Client::create_job`] makes one job, however often its call has to be repeated;
//!   [`Client::create_job_once`] makes one for a program that is started again, too.
//! - **Saying who calls.** [`ConnectOptions::token`] goes with every call, over TLS to other machines, and is never printed.
//! - **Waiting.** Every unary call has a deadline, every transfer and watch a longest silence; see [`ConnectOptions`]. What a
//!   model answers takes as long as the server is there: it may have to be loaded, or to wait for room.
//! - **Cut transfers.** Uploads and downloads go on from where they were, hashed on the way, and tell how far they are.
//! - **Damaged files.** A downloaded checkpoint appears only when every byte of it is verified.
//! - **Mistakes in a spec.** [`spec`] has a builder for each part and finds what the server would refuse before it is asked.
//! - **Traces.** Every call carries a `traceparent`, and its errors name the trace ([`RpcError::trace_id`]); with the feature
//!   `telemetry` a call is part of the caller's current `tracing` span.
//! - **Telling errors apart.** An [`Error`] means that something could not be asked; a job that failed is an [`Outcome`].
//!
//! Programs that are not asynchronous take the module `blocking`, behind the feature of that name.
//!
//! The types of requests and answers are the generated ones of [`v1`]; enum values that this client does not know pass
//! through as numbers.

#![deny(missing_docs)]

#[cfg(feature = "blocking")]
pub mod blocking;
mod client;
mod error;
mod generation;
mod job;
mod options;
mod retry;
pub mod spec;
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

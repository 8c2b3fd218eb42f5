//! The process that computes: model, loss, optimizer, the loop, checkpoints.

pub mod checkpoint;
pub mod device;
pub mod doctor;
pub mod error;
pub mod fingerprint;
pub mod generation;
pub mod link;
pub mod loss;
mod mix;
pub mod model;
pub mod optim;
pub mod peft;
pub mod pretrained;
pub mod pulse;
pub mod task;
pub mod telemetry;
pub mod tensors;
pub mod trace;
pub mod workspace;

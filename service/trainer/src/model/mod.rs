//! The model: a folder or GGUF file in, hidden states of packed documents out.
//!
//! [`Decoder::load`] reads [`Config`] and weights; [`Batch`] holds documents end to end; [`Adapter`] holds the low-rank
//! matrices that are trained and takes part in a pass as an argument, so that the same base weights serve as policy (with
//! it) and reference (without). [`FullWeights`] makes the model's own weights the trained ones instead.

mod attention;
mod batch;
mod cache;
mod config;
mod decoder;
mod dequantize;
mod error;
mod family;
mod full;
mod gguf;
mod linear;
mod lora;
mod mlp;
mod noise;
mod norm;
mod parameters;
mod rope;
mod safetensors;
mod softcap;
mod trained;
mod training_pass;
mod weights;

#[cfg(test)]
mod parity;
#[cfg(test)]
pub(crate) mod tiny;

pub use batch::{Batch, GRAIN};
pub use cache::Cache;
pub use config::Config;
pub use decoder::Decoder;
pub use error::Error;
pub use family::{Architecture, Family};
pub use full::FullWeights;
pub use gguf::{GgufExport, GgufType};
pub use linear::LinearInfo;
pub use lora::{Adapter, LoraOptions, TargetModules};
pub use mlp::Activation;
pub use rope::{Rope, Scaling};
pub use trained::Trained;
pub use training_pass::{TrainingOptions, TrainingPass};
pub use weights::{Stored, stored};

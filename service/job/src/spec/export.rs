//! A trained model as files that other tools load.

use serde::{Deserialize, Serialize};

use super::Check;

/// A trained model as files that other tools load. An adapter is merged into the base model in float32, and rounded once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportTask {
    /// What to export: the URI of a checkpoint or of a PEFT adapter. Default: the base model as it is.
    pub checkpoint: Option<String>,
    /// Layout of the files.
    pub format: ExportFormat,
    /// Number format of the weights.
    pub weight_type: WeightType,
    /// Export although the base model is quantised, which the export then no longer is. Default off: refused, since a merge
    /// into other weights than those that were trained on is best made with the unquantised base model.
    pub dequantize_base: bool,
}

impl ExportTask {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.that(self.checkpoint.as_deref() != Some(""), "checkpoint", "is empty: give a URI, or leave it out");
    }
}

/// Layout of exported files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// A folder that transformers, vLLM and others load: config.json, safetensors, tokenizer. The default.
    #[default]
    HuggingFace,
    /// One file for llama.cpp and what is built on it.
    Gguf,
}

impl ExportFormat {
    /// Its name in specs and reports.
    pub fn name(self) -> &'static str {
        match self {
            ExportFormat::HuggingFace => "hugging_face",
            ExportFormat::Gguf => "gguf",
        }
    }
}

/// Number format of exported weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightType {
    /// That of the base model's file; float32 where that is quantised. The default.
    #[default]
    Auto,
    /// IEEE single precision.
    Float32,
    /// Brain floating point.
    Bfloat16,
    /// IEEE half precision.
    Float16,
}

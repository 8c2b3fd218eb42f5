//! Exports, there and back.

use hone_job::spec::{ExportFormat, ExportTask, WeightType};
use hone_proto::v1 as pb;

use super::Reader;

impl Reader {
    pub(super) fn export(&mut self, path: &str, task: pb::ExportTask) -> ExportTask {
        ExportTask {
            checkpoint: task.checkpoint,
            format: self.choice(format!("{path}.format"), task.format, format),
            weight_type: self.choice(format!("{path}.weight_type"), task.weight_type, weight_type),
            dequantize_base: task.dequantize_base,
        }
    }
}

fn format(value: pb::ExportFormat) -> ExportFormat {
    match value {
        pb::ExportFormat::Unspecified => ExportFormat::default(),
        pb::ExportFormat::HuggingFace => ExportFormat::HuggingFace,
        pb::ExportFormat::Gguf => ExportFormat::Gguf,
    }
}

fn weight_type(value: pb::WeightType) -> WeightType {
    match value {
        pb::WeightType::Unspecified => WeightType::Auto,
        pb::WeightType::Float32 => WeightType::Float32,
        pb::WeightType::Bfloat16 => WeightType::Bfloat16,
        pb::WeightType::Float16 => WeightType::Float16,
    }
}

/// The settings in force as a message. Which number format `Auto` is depends on the base model; the report says it.
pub(super) fn message(task: ExportTask) -> pb::ExportTask {
    pb::ExportTask {
        checkpoint: task.checkpoint,
        format: match task.format {
            ExportFormat::HuggingFace => pb::ExportFormat::HuggingFace,
            ExportFormat::Gguf => pb::ExportFormat::Gguf,
        }
        .into(),
        weight_type: match task.weight_type {
            WeightType::Auto => pb::WeightType::Unspecified,
            WeightType::Float32 => pb::WeightType::Float32,
            WeightType::Bfloat16 => pb::WeightType::Bfloat16,
            WeightType::Float16 => pb::WeightType::Float16,
        }
        .into(),
        dequantize_base: task.dequantize_base,
    }
}

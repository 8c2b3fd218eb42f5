//! Enums that several messages of a spec have, there and back.

use hone_job::spec::{ActivationCheckpointing, AttentionKernel, LossOn, Precision};
use hone_proto::v1 as pb;

pub(super) fn activation_checkpointing(value: pb::ActivationCheckpointing) -> ActivationCheckpointing {
    match value {
        pb::ActivationCheckpointing::Unspecified | pb::ActivationCheckpointing::Auto => ActivationCheckpointing::Auto,
        pb::ActivationCheckpointing::On => ActivationCheckpointing::On,
        pb::ActivationCheckpointing::Off => ActivationCheckpointing::Off,
    }
}

pub(super) fn activation_checkpointing_message(value: ActivationCheckpointing) -> pb::ActivationCheckpointing {
    match value {
        ActivationCheckpointing::Auto => pb::ActivationCheckpointing::Auto,
        ActivationCheckpointing::On => pb::ActivationCheckpointing::On,
        ActivationCheckpointing::Off => pb::ActivationCheckpointing::Off,
    }
}

pub(super) fn attention(value: pb::AttentionKernel) -> AttentionKernel {
    match value {
        pb::AttentionKernel::Unspecified => AttentionKernel::Auto,
        pb::AttentionKernel::Flash => AttentionKernel::Flash,
        pb::AttentionKernel::Math => AttentionKernel::Math,
        pb::AttentionKernel::Efficient => AttentionKernel::Efficient,
    }
}

/// Which one `Auto` is depends on the device; a training job's plan says it.
pub(super) fn attention_message(value: AttentionKernel) -> pb::AttentionKernel {
    match value {
        AttentionKernel::Auto => pb::AttentionKernel::Unspecified,
        AttentionKernel::Flash => pb::AttentionKernel::Flash,
        AttentionKernel::Math => pb::AttentionKernel::Math,
        AttentionKernel::Efficient => pb::AttentionKernel::Efficient,
    }
}

pub(super) fn loss_on(value: pb::LossOn) -> LossOn {
    match value {
        pb::LossOn::Unspecified => LossOn::default(),
        pb::LossOn::Completion => LossOn::Completion,
        pb::LossOn::Assistant => LossOn::Assistant,
        pb::LossOn::All => LossOn::All,
    }
}

pub(super) fn loss_on_message(value: LossOn) -> pb::LossOn {
    match value {
        LossOn::Completion => pb::LossOn::Completion,
        LossOn::Assistant => pb::LossOn::Assistant,
        LossOn::All => pb::LossOn::All,
    }
}

pub(super) fn precision(value: pb::Precision) -> Precision {
    match value {
        pb::Precision::Unspecified => Precision::default(),
        pb::Precision::Float32 => Precision::Float32,
        pb::Precision::Bfloat16 => Precision::Bfloat16,
    }
}

/// Which one `Auto` is depends on the device; a training job's plan says it.
pub(super) fn precision_message(value: Precision) -> pb::Precision {
    match value {
        Precision::Auto => pb::Precision::Unspecified,
        Precision::Float32 => pb::Precision::Float32,
        Precision::Bfloat16 => pb::Precision::Bfloat16,
    }
}

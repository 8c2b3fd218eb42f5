//! The training tasks, there and back: what each has of its own, and the parts that all have.

use hone_job::spec::{Adapter, Batch, Checkpoints, DpoTask, Order, SftTask, Training};
use hone_proto::v1 as pb;
use pb::adapter_spec::Kind as AdapterKind;

use super::choices::{
    activation_checkpointing, activation_checkpointing_message, attention, attention_message, loss_on, loss_on_message,
    precision, precision_message,
};
use super::{Reader, TrainingParts, data, evaluation, lora, optim, preference};

/// What sft's default learning rates are multiplied by for dpo: its losses' gradients are larger.
const DPO_RATE_SCALE: f64 = 0.05;

impl Reader {
    pub(super) fn sft(&mut self, path: &str, task: pb::SftTask) -> SftTask {
        let loss_on = self.choice(format!("{path}.loss_on"), task.loss_on, loss_on);
        let neftune_noise_alpha = task.neftune_noise_alpha.unwrap_or(0.0);
        SftTask { training: self.training(path, task.into(), 1.0), loss_on, neftune_noise_alpha }
    }

    pub(super) fn dpo(&mut self, path: &str, task: pb::DpoTask) -> DpoTask {
        let preference = self.preference(path, &task);
        DpoTask { training: self.training(path, task.into(), DPO_RATE_SCALE), preference }
    }

    /// `rate_scale` is what default learning rates are multiplied by for this task.
    fn training(&mut self, path: &str, parts: TrainingParts, rate_scale: f64) -> Training {
        let defaults = Training::on(Vec::new());
        let data = self.data(&format!("{path}.data"), parts.data.unwrap_or_default());
        let adapter = self.adapter(&format!("{path}.adapter"), parts.adapter.unwrap_or_default());
        let rate_scale = rate_scale * adapter.default_rate_scale();
        let optimizer = parts.optimizer.unwrap_or_default();
        Training {
            data,
            adapter,
            init_from: parts.init_from,
            optimizer: self.optimizer(&format!("{path}.optimizer"), optimizer, rate_scale),
            schedule: self.schedule(&format!("{path}.schedule"), parts.schedule.unwrap_or_default()),
            batch: self.batch(&format!("{path}.batch"), parts.batch.unwrap_or_default()),
            length: parts.length.unwrap_or(defaults.length),
            evaluation: self.evaluation(&format!("{path}.evaluation"), parts.evaluation.unwrap_or_default()),
            checkpoints: checkpoints(parts.checkpoints.unwrap_or_default()),
            precision: self.choice(format!("{path}.precision"), parts.precision, precision),
            seed: parts.seed.unwrap_or(defaults.seed),
            order: self.choice(format!("{path}.order"), parts.order, order),
            attention: self.choice(format!("{path}.attention"), parts.attention, attention),
        }
    }

    fn adapter(&mut self, path: &str, adapter: pb::AdapterSpec) -> Adapter {
        match adapter.kind.unwrap_or_else(|| AdapterKind::Lora(pb::LoraSpec::default())) {
            AdapterKind::Lora(lora) => Adapter::Lora(self.lora(&format!("{path}.lora"), lora)),
            AdapterKind::Full(pb::FullSpec {}) => Adapter::Full,
        }
    }

    fn batch(&mut self, path: &str, batch: pb::BatchSpec) -> Batch {
        let defaults = Batch::default();
        let checkpointing = batch.activation_checkpointing;
        Batch {
            examples_per_step: batch.examples_per_step.unwrap_or(defaults.examples_per_step),
            tokens_per_micro_batch: batch.tokens_per_micro_batch.unwrap_or(defaults.tokens_per_micro_batch),
            activation_checkpointing: self.choice(
                format!("{path}.activation_checkpointing"),
                checkpointing,
                activation_checkpointing,
            ),
        }
    }
}

fn checkpoints(checkpoints: pb::CheckpointSpec) -> Checkpoints {
    let defaults = Checkpoints::default();
    Checkpoints {
        every_steps: checkpoints.every_steps.unwrap_or(defaults.every_steps),
        every_minutes: checkpoints.every_minutes.unwrap_or(defaults.every_minutes),
        keep_last: checkpoints.keep_last.unwrap_or(defaults.keep_last),
    }
}

fn order(value: pb::Order) -> Order {
    match value {
        pb::Order::Unspecified => Order::default(),
        pb::Order::Shuffled => Order::Shuffled,
        pb::Order::Sequential => Order::Sequential,
    }
}

/// The settings in force as a message.
pub(super) fn sft_message(task: SftTask) -> pb::SftTask {
    pb::SftTask {
        loss_on: loss_on_message(task.loss_on).into(),
        neftune_noise_alpha: Some(task.neftune_noise_alpha),
        ..parts(task.training).into()
    }
}

/// The settings in force as a message.
pub(super) fn dpo_message(task: DpoTask) -> pb::DpoTask {
    preference::message(task.preference, parts(task.training))
}

fn parts(training: Training) -> TrainingParts {
    TrainingParts {
        data: Some(data::message(training.data)),
        adapter: Some(adapter_message(training.adapter)),
        init_from: training.init_from,
        optimizer: Some(optim::optimizer_message(training.optimizer)),
        schedule: Some(optim::schedule_message(training.schedule)),
        batch: Some(pb::BatchSpec {
            examples_per_step: Some(training.batch.examples_per_step),
            tokens_per_micro_batch: Some(training.batch.tokens_per_micro_batch),
            activation_checkpointing: activation_checkpointing_message(training.batch.activation_checkpointing).into(),
        }),
        length: Some(training.length),
        evaluation: Some(evaluation::message(training.evaluation)),
        checkpoints: Some(pb::CheckpointSpec {
            every_steps: Some(training.checkpoints.every_steps),
            every_minutes: Some(training.checkpoints.every_minutes),
            keep_last: Some(training.checkpoints.keep_last),
        }),
        precision: precision_message(training.precision).into(),
        seed: Some(training.seed),
        order: match training.order {
            Order::Shuffled => pb::Order::Shuffled,
            Order::Sequential => pb::Order::Sequential,
        }
        .into(),
        attention: attention_message(training.attention).into(),
    }
}

fn adapter_message(adapter: Adapter) -> pb::AdapterSpec {
    let kind = match adapter {
        Adapter::Lora(lora) => AdapterKind::Lora(lora::message(lora)),
        Adapter::Full => AdapterKind::Full(pb::FullSpec {}),
    };
    pb::AdapterSpec { kind: Some(kind) }
}

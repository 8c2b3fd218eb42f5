//! What the messages of all training tasks have in common, as one type: the protos have it in each message anew.

use hone_job::spec::Length;
use hone_proto::v1 as pb;

/// The fields that [`pb::SftTask`] and [`pb::DpoTask`] both have. Made into one of them, it is a task with these fields alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingParts {
    /// Rows to train and evaluate on.
    pub data: Option<pb::DataSpec>,
    /// What is trained.
    pub adapter: Option<pb::AdapterSpec>,
    /// What to start from.
    pub init_from: Option<String>,
    /// How gradients become updates.
    pub optimizer: Option<pb::OptimizerSpec>,
    /// How the learning rate moves.
    pub schedule: Option<pb::ScheduleSpec>,
    /// How many examples make a step.
    pub batch: Option<pb::BatchSpec>,
    /// When to stop.
    pub length: Option<Length>,
    /// When and how to evaluate.
    pub evaluation: Option<pb::EvaluationSpec>,
    /// When to save and what to keep.
    pub checkpoints: Option<pb::CheckpointSpec>,
    /// Number format of weights and activations, a [`pb::Precision`].
    pub precision: i32,
    /// Seed of order, initialisation and dropout.
    pub seed: Option<u64>,
    /// Order of the rows, a [`pb::Order`].
    pub order: i32,
    /// How attention is computed, a [`pb::AttentionKernel`].
    pub attention: i32,
}

impl From<pb::SftTask> for TrainingParts {
    fn from(task: pb::SftTask) -> Self {
        use pb::sft_task::Length as Given;
        Self {
            data: task.data,
            adapter: task.adapter,
            init_from: task.init_from,
            optimizer: task.optimizer,
            schedule: task.schedule,
            batch: task.batch,
            length: task.length.map(|length| match length {
                Given::Epochs(epochs) => Length::Epochs(epochs),
                Given::MaxSteps(steps) => Length::MaxSteps(steps),
            }),
            evaluation: task.evaluation,
            checkpoints: task.checkpoints,
            precision: task.precision,
            seed: task.seed,
            order: task.order,
            attention: task.attention,
        }
    }
}

impl From<TrainingParts> for pb::SftTask {
    fn from(parts: TrainingParts) -> Self {
        use pb::sft_task::Length as Given;
        Self {
            data: parts.data,
            adapter: parts.adapter,
            init_from: parts.init_from,
            optimizer: parts.optimizer,
            schedule: parts.schedule,
            batch: parts.batch,
            length: parts.length.map(|length| match length {
                Length::Epochs(epochs) => Given::Epochs(epochs),
                Length::MaxSteps(steps) => Given::MaxSteps(steps),
            }),
            evaluation: parts.evaluation,
            checkpoints: parts.checkpoints,
            precision: parts.precision,
            seed: parts.seed,
            order: parts.order,
            attention: parts.attention,
            ..Default::default()
        }
    }
}

impl From<pb::DpoTask> for TrainingParts {
    fn from(task: pb::DpoTask) -> Self {
        use pb::dpo_task::Length as Given;
        Self {
            data: task.data,
            adapter: task.adapter,
            init_from: task.init_from,
            optimizer: task.optimizer,
            schedule: task.schedule,
            batch: task.batch,
            length: task.length.map(|length| match length {
                Given::Epochs(epochs) => Length::Epochs(epochs),
                Given::MaxSteps(steps) => Length::MaxSteps(steps),
            }),
            evaluation: task.evaluation,
            checkpoints: task.checkpoints,
            precision: task.precision,
            seed: task.seed,
            order: task.order,
            attention: task.attention,
        }
    }
}

impl From<TrainingParts> for pb::DpoTask {
    fn from(parts: TrainingParts) -> Self {
        use pb::dpo_task::Length as Given;
        Self {
            data: parts.data,
            adapter: parts.adapter,
            init_from: parts.init_from,
            optimizer: parts.optimizer,
            schedule: parts.schedule,
            batch: parts.batch,
            length: parts.length.map(|length| match length {
                Length::Epochs(epochs) => Given::Epochs(epochs),
                Length::MaxSteps(steps) => Given::MaxSteps(steps),
            }),
            evaluation: parts.evaluation,
            checkpoints: parts.checkpoints,
            precision: parts.precision,
            seed: parts.seed,
            order: parts.order,
            attention: parts.attention,
            ..Default::default()
        }
    }
}

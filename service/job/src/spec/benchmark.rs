//! Training with several settings, to see which is fastest.

use serde::{Deserialize, Serialize};

use super::{ActivationCheckpointing, AttentionKernel, Check, JobSpec, Precision, SftTask, Task, Training, Violation};

/// Training with several settings. One at a time differs from those that the training asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkTask {
    /// What to measure: [`Task::Sft`] or [`Task::Dpo`].
    pub training: Box<Task>,
    /// Steps of each run that are timed, after one that is not. 1 to [`BenchmarkTask::MAX_STEPS`], default 3.
    pub steps: u32,
    /// Precisions to try. Default: float32 and bfloat16.
    pub precisions: Vec<Precision>,
    /// Sizes of micro-batches to try beside the training's own. Default: its quarter, half, double and fourfold.
    pub tokens_per_micro_batch: Vec<u32>,
    /// Ways with activations to try. Default: auto and on.
    pub activation_checkpointing: Vec<ActivationCheckpointing>,
    /// Attention kernels to try. Default: the device's fastest, and math.
    pub attention: Vec<AttentionKernel>,
}

impl BenchmarkTask {
    /// Most steps that are timed.
    pub const MAX_STEPS: u32 = 100;
    /// Most values of a setting.
    pub const MAX_VALUES: usize = 16;

    /// This training with every setting that is tried by default.
    pub fn of(training: Task) -> Self {
        let own = training.training().map_or(0, |training| training.batch.tokens_per_micro_batch);
        let sizes = [own / 4, own / 2, own.saturating_mul(2), own.saturating_mul(4)];
        Self {
            training: Box::new(training),
            steps: 3,
            precisions: vec![Precision::Float32, Precision::Bfloat16],
            tokens_per_micro_batch: sizes.into_iter().filter(|size| Training::MICRO_BATCHES.contains(size)).collect(),
            activation_checkpointing: vec![ActivationCheckpointing::Auto, ActivationCheckpointing::On],
            attention: vec![AttentionKernel::Auto, AttentionKernel::Math],
        }
    }

    /// What the spec of a job of the training alone would be refused for, under this task's path.
    pub(super) fn validate(&self, job: &JobSpec, check: &mut Check<'_>) {
        check.within(self.steps.into(), 1.0..=Self::MAX_STEPS.into(), "steps");
        let lists = [
            ("precisions", self.precisions.len()),
            ("tokens_per_micro_batch", self.tokens_per_micro_batch.len()),
            ("activation_checkpointing", self.activation_checkpointing.len()),
            ("attention", self.attention.len()),
        ];
        for (field, len) in lists {
            check.that(len <= Self::MAX_VALUES, field, format!("has {len} values; at most {}", Self::MAX_VALUES));
        }
        for size in &self.tokens_per_micro_batch {
            let (least, most) = (Training::MICRO_BATCHES.start(), Training::MICRO_BATCHES.end());
            let allowed = || format!("has {size}; sizes must be from {least} to {most}");
            check.that(Training::MICRO_BATCHES.contains(size), "tokens_per_micro_batch", allowed());
        }
        let alone = JobSpec { task: (*self.training).clone(), ..job.clone() };
        let path = alone.task.path();
        let of_training = |violation: Violation| {
            let field = violation.field.strip_prefix(&path)?;
            Some(Violation { field: format!("{}.{}{field}", check.path, self.training.name()), ..violation })
        };
        let found: Vec<Violation> = alone.validate().into_iter().filter_map(of_training).collect();
        check.found.extend(found);
    }
}

impl Default for BenchmarkTask {
    /// Of a training that says nothing.
    fn default() -> Self {
        Self::of(Task::Sft(SftTask::new(Training::on(Vec::new()), Default::default())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::*;

    fn fields(task: BenchmarkTask) -> Vec<String> {
        let task = Task::Benchmark(task);
        JobSpec { task, ..spec() }.validate().into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn sizes_around_the_trainings_own_are_tried() {
        let task = BenchmarkTask::of(spec().task);
        assert_eq!(task.tokens_per_micro_batch, [512, 1024, 4096, 8192]);
        assert_eq!(fields(task), [""; 0]);
        let mut small = spec().task;
        small.training_mut().unwrap().batch.tokens_per_micro_batch = 20;
        assert_eq!(BenchmarkTask::of(small).tokens_per_micro_batch, [40, 80]);
    }

    #[test]
    fn what_cannot_be_measured_is_told_by_its_field() {
        let mut task = BenchmarkTask::of(spec().task);
        task.steps = 0;
        task.tokens_per_micro_batch = vec![4096, 1];
        task.precisions = vec![Precision::Float32; 17];
        task.training.training_mut().unwrap().data.train.clear();
        let expected = ["steps", "precisions", "tokens_per_micro_batch", "sft.data.train"];
        assert_eq!(fields(task), expected.map(|field| format!("spec.benchmark.{field}")));
    }

    #[test]
    fn a_benchmark_reads_what_its_training_reads() {
        let task = Task::Benchmark(BenchmarkTask::of(spec().task));
        assert_eq!(task.path(), "spec.benchmark.sft");
        assert_eq!(task.rows(), spec().task.rows());
        assert_eq!(task.training(), spec().task.training());
    }
}

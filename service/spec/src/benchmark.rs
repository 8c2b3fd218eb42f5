//! Training with several settings, there and back, and what came out.

use hone_job::benchmark::{BenchmarkReport, BenchmarkRun, BenchmarkSettings};
use hone_job::spec::{BenchmarkTask, Task};
use hone_proto::v1 as pb;
use pb::benchmark_task::Training as TrainingOneof;

use super::Reader;
use super::choices::{
    activation_checkpointing, activation_checkpointing_message, attention, attention_message, precision,
    precision_message,
};
use super::training::{dpo_message, sft_message};

impl Reader {
    pub(super) fn benchmark(&mut self, path: &str, task: pb::BenchmarkTask) -> BenchmarkTask {
        let training = match task.training {
            Some(TrainingOneof::Sft(sft)) => Task::Sft(self.sft(&format!("{path}.sft"), sft)),
            Some(TrainingOneof::Dpo(dpo)) => Task::Dpo(self.dpo(&format!("{path}.dpo"), dpo)),
            None => {
                self.wrong(path, "needs a training to measure: sft or dpo, as in a training job");
                *BenchmarkTask::default().training
            }
        };
        let defaults = BenchmarkTask::of(training);
        BenchmarkTask {
            steps: task.steps.unwrap_or(defaults.steps),
            precisions: or_default(
                self.choices(&format!("{path}.precisions"), task.precisions, precision),
                defaults.precisions,
            ),
            tokens_per_micro_batch: or_default(task.tokens_per_micro_batch, defaults.tokens_per_micro_batch),
            activation_checkpointing: or_default(
                self.choices(
                    &format!("{path}.activation_checkpointing"),
                    task.activation_checkpointing,
                    activation_checkpointing,
                ),
                defaults.activation_checkpointing,
            ),
            attention: or_default(
                self.choices(&format!("{path}.attention"), task.attention, attention),
                defaults.attention,
            ),
            training: defaults.training,
        }
    }

    fn choices<P: TryFrom<i32>, T: Default>(
        &mut self,
        field: &str,
        numbers: Vec<i32>,
        convert: impl Fn(P) -> T,
    ) -> Vec<T> {
        // More are a violation of their own.
        let numbers = numbers.into_iter().take(BenchmarkTask::MAX_VALUES + 1).enumerate();
        numbers.map(|(index, number)| self.choice(format!("{field}[{index}]"), number, &convert)).collect()
    }
}

fn or_default<T>(given: Vec<T>, default: Vec<T>) -> Vec<T> {
    if given.is_empty() { default } else { given }
}

/// The settings in force as a message.
pub(super) fn message(task: BenchmarkTask) -> pb::BenchmarkTask {
    let training = match *task.training {
        Task::Sft(sft) => Some(TrainingOneof::Sft(sft_message(sft))),
        Task::Dpo(dpo) => Some(TrainingOneof::Dpo(dpo_message(dpo))),
        _ => None,
    };
    pb::BenchmarkTask {
        training,
        steps: Some(task.steps),
        precisions: task.precisions.into_iter().map(|value| precision_message(value).into()).collect(),
        tokens_per_micro_batch: task.tokens_per_micro_batch,
        activation_checkpointing: task
            .activation_checkpointing
            .into_iter()
            .map(|value| activation_checkpointing_message(value).into())
            .collect(),
        attention: task.attention.into_iter().map(|value| attention_message(value).into()).collect(),
    }
}

/// What came out.
pub fn report(report: BenchmarkReport) -> pb::BenchmarkReport {
    pb::BenchmarkReport {
        runs: report.runs.into_iter().map(run).collect(),
        recommended: report.recommended.map(settings),
    }
}

fn run(run: BenchmarkRun) -> pb::BenchmarkRun {
    pb::BenchmarkRun {
        settings: Some(settings(run.settings)),
        tokens_per_second: run.tokens_per_second,
        step_seconds: run.step_seconds,
        micro_batches: run.micro_batches,
        peak_memory_bytes: run.peak_memory_bytes,
        attention_kernel: run.attention_kernel,
        failure: run.failure,
    }
}

fn settings(settings: BenchmarkSettings) -> pb::BenchmarkSettings {
    pb::BenchmarkSettings {
        precision: precision_message(settings.precision).into(),
        tokens_per_micro_batch: settings.tokens_per_micro_batch,
        activation_checkpointing: activation_checkpointing_message(settings.activation_checkpointing).into(),
        attention: attention_message(settings.attention).into(),
    }
}

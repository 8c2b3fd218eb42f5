//! Which settings are measured, and in which order.

use std::collections::VecDeque;

use hone_job::benchmark::{BenchmarkRun, BenchmarkSettings};
use hone_job::spec::{ActivationCheckpointing, AttentionKernel, BenchmarkTask, Precision, Training};

/// Settings that are still to be measured, and the runs of those that were.
pub(super) struct Choices {
    waiting: VecDeque<BenchmarkSettings>,
    runs: Vec<BenchmarkRun>,
    has_combined: bool,
}

impl Choices {
    /// Those of a task. `micro_batches` says into how many a size cuts the steps.
    pub(super) fn new(task: &BenchmarkTask, training: &Training, micro_batches: &dyn Fn(u32) -> u32) -> Self {
        let mut waiting: Vec<BenchmarkSettings> = Vec::new();
        for &precision in &task.precisions {
            let own = BenchmarkSettings {
                precision,
                tokens_per_micro_batch: training.batch.tokens_per_micro_batch,
                activation_checkpointing: training.batch.activation_checkpointing,
                attention: training.attention,
            };
            let mut cuts = vec![micro_batches(own.tokens_per_micro_batch)];
            let mut cuts_anew = |size: &&u32| {
                let count = micro_batches(**size);
                let is_new = !cuts.contains(&count);
                cuts.push(count);
                is_new
            };
            let sizes = task.tokens_per_micro_batch.iter().filter(&mut cuts_anew);
            let sizes = sizes.map(|&tokens_per_micro_batch| BenchmarkSettings { tokens_per_micro_batch, ..own });
            let ways = task.activation_checkpointing.iter();
            let ways = ways.map(|&activation_checkpointing| BenchmarkSettings { activation_checkpointing, ..own });
            let kernels = task.attention.iter().map(|&attention| BenchmarkSettings { attention, ..own });
            for settings in [own].into_iter().chain(sizes).chain(ways).chain(kernels) {
                if !waiting.contains(&settings) {
                    waiting.push(settings);
                }
            }
        }
        Choices { waiting: waiting.into(), runs: Vec::new(), has_combined: false }
    }

    /// What is measured next.
    pub(super) fn next(&mut self) -> Option<BenchmarkSettings> {
        if self.waiting.is_empty() && !self.has_combined {
            self.has_combined = true;
            let best = self.best_of_each();
            self.waiting.extend(best.filter(|best| self.runs.iter().all(|run| run.settings != *best)));
        }
        self.waiting.pop_front()
    }

    pub(super) fn add(&mut self, run: BenchmarkRun) {
        self.runs.push(run);
    }

    pub(super) fn runs(&self) -> &[BenchmarkRun] {
        &self.runs
    }

    pub(super) fn into_runs(self) -> Vec<BenchmarkRun> {
        self.runs
    }

    /// The fastest precision with the fastest value of each other setting in it.
    fn best_of_each(&self) -> Option<BenchmarkSettings> {
        let precision = fastest(self.runs.iter())?.precision;
        let of_precision = || self.runs.iter().filter(|run| run.settings.precision == precision);
        let own = of_precision().next()?.settings;
        let best = |differs: fn(&BenchmarkSettings, &BenchmarkSettings) -> bool| {
            let runs = of_precision().filter(|run| run.settings == own || differs(&run.settings, &own));
            fastest(runs).unwrap_or(own)
        };
        Some(BenchmarkSettings {
            precision,
            tokens_per_micro_batch: best(|one, own| one.tokens_per_micro_batch != own.tokens_per_micro_batch)
                .tokens_per_micro_batch,
            activation_checkpointing: best(|one, own| one.activation_checkpointing != own.activation_checkpointing)
                .activation_checkpointing,
            attention: best(|one, own| one.attention != own.attention).attention,
        })
    }
}

fn fastest<'a>(runs: impl Iterator<Item = &'a BenchmarkRun>) -> Option<BenchmarkSettings> {
    runs.filter(|run| run.failure.is_empty())
        .reduce(|best, run| if run.tokens_per_second > best.tokens_per_second { run } else { best })
        .map(|run| run.settings)
}

/// A choice in words.
pub(super) fn text(settings: &BenchmarkSettings) -> String {
    let precision = match settings.precision {
        Precision::Auto => "the device's precision",
        Precision::Float32 => "float32",
        Precision::Bfloat16 => "bfloat16",
    };
    let activations = match settings.activation_checkpointing {
        ActivationCheckpointing::Auto => "",
        ActivationCheckpointing::On => ", activations made again",
        ActivationCheckpointing::Off => ", activations kept",
    };
    let attention = match settings.attention {
        AttentionKernel::Auto => "",
        AttentionKernel::Flash => ", flash attention",
        AttentionKernel::Efficient => ", memory-efficient attention",
        AttentionKernel::Math => ", plain attention",
    };
    format!("{precision}, {} tokens at once{activations}{attention}", settings.tokens_per_micro_batch)
}

#[cfg(test)]
mod tests {
    use hone_job::spec::{LossOn, SftTask, Task};

    use super::*;

    /// Settings in the order of their measurement, when each is as fast as `rate` says.
    fn measured(rate: impl Fn(&BenchmarkSettings) -> f64) -> Vec<BenchmarkSettings> {
        let training = Training::on(vec!["ds-1".into()]);
        let mut task = BenchmarkTask::of(Task::Sft(SftTask::new(training.clone(), LossOn::default())));
        task.precisions = vec![Precision::Float32, Precision::Bfloat16];
        task.tokens_per_micro_batch = vec![1024, 4096, 8192];
        let mut choices = Choices::new(&task, &training, &|size| if size >= 4096 { 1 } else { 8192 / size });
        while let Some(settings) = choices.next() {
            let tokens_per_second = rate(&settings);
            let failure = if tokens_per_second > 0.0 { String::new() } else { "failed".into() };
            choices.add(BenchmarkRun {
                settings,
                tokens_per_second,
                step_seconds: Vec::new(),
                micro_batches: 1,
                peak_memory_bytes: None,
                attention_kernel: String::new(),
                failure,
            });
        }
        choices.into_runs().into_iter().map(|run| run.settings).collect()
    }

    #[test]
    fn one_setting_at_a_time_differs_and_the_last_run_has_the_best_of_each() {
        let rate = |settings: &BenchmarkSettings| {
            let mut rate = 100.0;
            rate += if settings.precision == Precision::Bfloat16 { 50.0 } else { 0.0 };
            rate += if settings.tokens_per_micro_batch == 4096 { 9.0 } else { 0.0 };
            rate + if settings.attention == AttentionKernel::Math { 5.0 } else { 0.0 }
        };
        let found: Vec<String> = measured(rate).iter().map(text).collect();
        let alone = ["2048 tokens at once", "1024 tokens at once", "4096 tokens at once"]
            .into_iter()
            .chain(["2048 tokens at once, activations made again", "2048 tokens at once, plain attention"]);
        let expected: Vec<String> = alone.clone().map(|text| format!("float32, {text}")).collect();
        assert_eq!(found[..5], expected[..], "8192 cuts as 4096 does");
        let expected: Vec<String> = alone.map(|text| format!("bfloat16, {text}")).collect();
        assert_eq!(found[5..10], expected[..]);
        assert_eq!(found[10..], ["bfloat16, 4096 tokens at once, plain attention"]);
    }

    #[test]
    fn what_was_measured_is_not_measured_again() {
        assert_eq!(measured(|_| 1.0).len(), 10);
        let own =
            |settings: &BenchmarkSettings| if text(settings) == "float32, 2048 tokens at once" { 9.0 } else { 1.0 };
        assert_eq!(measured(own).len(), 10);
        assert_eq!(measured(|_| 0.0).len(), 10, "nothing is best where all failed");
    }
}

//! How fast training is with several settings.

use serde::{Deserialize, Serialize};

use crate::spec::{ActivationCheckpointing, AttentionKernel, Precision};

/// How fast training is with several settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkReport {
    /// The runs, in the order in which they were measured.
    pub runs: Vec<BenchmarkRun>,
    /// What a new job may ask for as it is; none when every run failed.
    pub recommended: Option<BenchmarkSettings>,
}

impl BenchmarkReport {
    /// What a run may be slower than the fastest one, as a share, and be recommended for taking less memory.
    pub const NEAR: f64 = 0.03;

    /// The settings of the fastest run, or of one nearly as fast that takes less memory.
    pub fn recommend(runs: &[BenchmarkRun]) -> Option<BenchmarkSettings> {
        let fastest = runs.iter().map(|run| run.tokens_per_second).fold(0.0, f64::max);
        let near = |run: &&BenchmarkRun| {
            run.failure.is_empty() && run.tokens_per_second >= (1.0 - Self::NEAR) * fastest && fastest > 0.0
        };
        let cost = |run: &BenchmarkRun| run.peak_memory_bytes.map_or(f64::INFINITY, |bytes| bytes as f64);
        let better = |one: &&BenchmarkRun, other: &&BenchmarkRun| {
            cost(one).total_cmp(&cost(other)).then(other.tokens_per_second.total_cmp(&one.tokens_per_second))
        };
        runs.iter().filter(near).min_by(better).map(|run| run.settings)
    }
}

/// Training with one choice of settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkRun {
    /// The choice.
    pub settings: BenchmarkSettings,
    /// Tokens of all timed steps over their time; 0 when the run failed.
    pub tokens_per_second: f64,
    /// Time of each timed step: gradients, clipping and update.
    pub step_seconds: Vec<f64>,
    /// Micro-batches of the timed steps.
    pub micro_batches: u32,
    /// The most memory that the process had at any time of the run; none where the machine does not tell, and on a GPU.
    pub peak_memory_bytes: Option<u64>,
    /// The attention kernel that was used, such as `flash_cpu`.
    pub attention_kernel: String,
    /// Why the run failed; empty when it did not.
    pub failure: String,
}

/// Settings that change how fast training is, and nothing of what is trained but its rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchmarkSettings {
    /// Number format of weights and activations.
    pub precision: Precision,
    /// Most tokens that go through the model at once.
    pub tokens_per_micro_batch: u32,
    /// Whether activations are made again in the backward pass.
    pub activation_checkpointing: ActivationCheckpointing,
    /// How attention is computed.
    pub attention: AttentionKernel,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tokens_per_micro_batch: u32, tokens_per_second: f64, peak_memory_bytes: Option<u64>) -> BenchmarkRun {
        let settings = BenchmarkSettings {
            precision: Precision::Float32,
            tokens_per_micro_batch,
            activation_checkpointing: ActivationCheckpointing::Off,
            attention: AttentionKernel::Flash,
        };
        BenchmarkRun {
            settings,
            tokens_per_second,
            step_seconds: Vec::new(),
            micro_batches: 1,
            peak_memory_bytes,
            attention_kernel: String::new(),
            failure: String::new(),
        }
    }

    fn recommended(runs: &[BenchmarkRun]) -> Option<u32> {
        BenchmarkReport::recommend(runs).map(|settings| settings.tokens_per_micro_batch)
    }

    #[test]
    fn the_fastest_is_recommended_or_one_nearly_as_fast_with_less_memory() {
        assert_eq!(recommended(&[run(1, 90.0, Some(10)), run(2, 100.0, Some(50)), run(3, 98.0, Some(40))]), Some(3));
        assert_eq!(recommended(&[run(1, 96.0, Some(10)), run(2, 100.0, Some(50))]), Some(2));
        assert_eq!(recommended(&[run(1, 98.0, None), run(2, 100.0, None)]), Some(2), "no memory is told");
    }

    #[test]
    fn what_failed_is_not_recommended() {
        let failed = BenchmarkRun { failure: "no memory".into(), ..run(1, 0.0, Some(1)) };
        assert_eq!(recommended(&[failed.clone(), run(2, 5.0, Some(9))]), Some(2));
        assert_eq!(recommended(&[failed]), None);
        assert_eq!(recommended(&[]), None);
    }
}

//! What a job was asked to do, with every default filled in: the effective spec.
//!
//! The API turns a request into a [`JobSpec`] (absent fields take the defaults written here) and calls
//! [`JobSpec::validate`] once; past that point code relies on it and checks nothing again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::Warning;

mod benchmark;
mod check;
mod data;
mod evaluation;
mod export;
mod generate;
mod lora;
mod optimizer;
mod preference;
mod resume;
mod sampling;
mod schedule;
mod score;
mod training;

pub use benchmark::BenchmarkTask;
use check::Check;
pub use check::Violation;
pub use data::{Data, Mix, MixUntil, OverLength};
pub use evaluation::{AnswerHardExamples, EarlyStopping, Evaluation, Metric};
pub use export::{ExportFormat, ExportTask, WeightType};
pub use generate::{GenerateTask, PromptRows};
pub use lora::{AlphaPattern, Lora, LoraInit, NOT_FOR_VLLM, RankPattern};
pub use optimizer::{MomentFormat, Optimizer, UpdateRule};
pub use preference::{Divergence, DpoTask, Preference, PreferenceLoss, Reference, WeightedLoss};
pub use sampling::Sampling;
pub use schedule::{Decay, DecayShape, Plateau, Schedule, ScheduleKind, Warmup};
pub use score::{Candidate, CompareTask, EvaluateTask, RowKind, ScoredRows, Scoring};
pub use training::{
    ActivationCheckpointing, Adapter, AttentionKernel, Batch, Checkpoints, Length, Order, Precision, Training,
};

/// The effective spec of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// A name for people; not unique. Default: empty.
    pub display_name: String,
    /// Labels to filter lists by.
    pub labels: BTreeMap<String, String>,
    /// The base model: `model-…` id, `file://` or `s3://` URI of a Hugging Face folder or a GGUF file.
    pub base_model: String,
    /// What to do.
    pub task: Task,
    /// What it may use.
    pub resources: Resources,
    /// How many attempts in a row, without a new checkpoint in between, may fail in a way that may pass and be followed by
    /// another. 0 to 100, default 3.
    #[serde(default = "default_max_retries")]
    pub max_retries: u32,
}

fn default_max_retries() -> u32 {
    JobSpec::DEFAULT_MAX_RETRIES
}

/// What a job does. One variant a task; tasks share their parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Supervised fine-tuning.
    Sft(SftTask),
    /// Preference optimisation.
    Dpo(DpoTask),
    /// One model scored on rows.
    Evaluate(EvaluateTask),
    /// Models scored on the same rows.
    Compare(CompareTask),
    /// Prompts that a model answers.
    Generate(GenerateTask),
    /// A trained model as files that other tools load.
    Export(ExportTask),
    /// Training with several settings, to see which is fastest.
    Benchmark(BenchmarkTask),
}

impl Task {
    /// The name of the task as in the request's oneof.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Sft(_) => "sft",
            Task::Dpo(_) => "dpo",
            Task::Evaluate(_) => "evaluate",
            Task::Compare(_) => "compare",
            Task::Generate(_) => "generate",
            Task::Export(_) => "export",
            Task::Benchmark(_) => "benchmark",
        }
    }

    /// Where a request has the fields of the task that reads rows and models, such as `spec.sft`.
    pub fn path(&self) -> String {
        match self {
            Task::Benchmark(task) => format!("spec.benchmark.{}", task.training.name()),
            task => format!("spec.{}", task.name()),
        }
    }

    /// The parts that every training task has; none of a task that neither trains nor measures training.
    pub fn training(&self) -> Option<&Training> {
        match self {
            Task::Sft(task) => Some(&task.training),
            Task::Dpo(task) => Some(&task.training),
            Task::Benchmark(task) => task.training.training(),
            Task::Evaluate(_) | Task::Compare(_) | Task::Generate(_) | Task::Export(_) => None,
        }
    }

    /// The same, to change them.
    pub fn training_mut(&mut self) -> Option<&mut Training> {
        match self {
            Task::Sft(task) => Some(&mut task.training),
            Task::Dpo(task) => Some(&mut task.training),
            Task::Benchmark(task) => task.training.training_mut(),
            Task::Evaluate(_) | Task::Compare(_) | Task::Generate(_) | Task::Export(_) => None,
        }
    }

    /// The rows that it reads: fields and their lists of sources.
    pub fn rows(&self) -> Vec<(&'static str, &Vec<String>)> {
        match self {
            Task::Sft(SftTask { training, .. }) | Task::Dpo(DpoTask { training, .. }) => {
                vec![("data.train", &training.data.train), ("data.eval", &training.data.eval)]
            }
            Task::Evaluate(EvaluateTask { data, .. }) | Task::Compare(CompareTask { data, .. }) => {
                vec![("data.rows", &data.rows)]
            }
            Task::Generate(GenerateTask { data, .. }) => vec![("data.rows", &data.rows)],
            Task::Benchmark(task) => task.training.rows(),
            Task::Export(_) => Vec::new(),
        }
    }

    /// The same, to change them.
    pub fn rows_mut(&mut self) -> Vec<&mut Vec<String>> {
        match self {
            Task::Sft(SftTask { training, .. }) | Task::Dpo(DpoTask { training, .. }) => {
                vec![&mut training.data.train, &mut training.data.eval]
            }
            Task::Evaluate(EvaluateTask { data, .. }) | Task::Compare(CompareTask { data, .. }) => {
                vec![&mut data.rows]
            }
            Task::Generate(GenerateTask { data, .. }) => vec![&mut data.rows],
            Task::Benchmark(task) => task.training.rows_mut(),
            Task::Export(_) => Vec::new(),
        }
    }

    /// What it reads that was trained before: fields and URIs.
    pub fn checkpoints(&self) -> Vec<(String, &String)> {
        let mut found = Vec::new();
        let mut add = |field: &str, uri| found.extend(Option::into_iter(uri).map(|uri| (field.to_owned(), uri)));
        add("init_from", self.training().and_then(|training| training.init_from.as_ref()));
        match self {
            Task::Dpo(DpoTask { preference: Preference { reference: Reference::Checkpoint(uri), .. }, .. }) => {
                add("reference.checkpoint", Some(uri));
            }
            Task::Evaluate(EvaluateTask { checkpoint, .. })
            | Task::Generate(GenerateTask { checkpoint, .. })
            | Task::Export(ExportTask { checkpoint, .. }) => {
                add("checkpoint", checkpoint.as_ref());
            }
            Task::Compare(task) => {
                for (index, candidate) in task.candidates.iter().enumerate() {
                    add(&format!("candidates[{index}].checkpoint"), candidate.checkpoint.as_ref());
                }
            }
            Task::Benchmark(task) => return task.training.checkpoints(),
            Task::Sft(_) | Task::Dpo(_) => {}
        }
        found
    }
}

/// Supervised fine-tuning on text, prompt and completion, or conversations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftTask {
    /// The parts shared with every training task.
    pub training: Training,
    /// Which tokens are trained on.
    pub loss_on: LossOn,
    /// Noise on the embeddings while training (NEFTune, arXiv 2310.05914). 0 to 100, default 0: none.
    #[serde(default)]
    pub neftune_noise_alpha: f64,
}

impl SftTask {
    /// Training on these tokens, with every other setting's default.
    pub fn new(training: Training, loss_on: LossOn) -> Self {
        Self { training, loss_on, neftune_noise_alpha: 0.0 }
    }
}

/// Which tokens of a row are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// The completion; in a conversation, the last assistant turn. The default.
    #[default]
    Completion,
    /// Every assistant turn of a conversation.
    Assistant,
    /// Every token, prompt included.
    All,
}

/// What a job may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Devices of an attempt. Default 1, the only value for now.
    pub devices: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Self { devices: 1 }
    }
}

/// Limits that hold for every spec; the server says them in `GetServerInfo`.
pub mod limits {
    /// Longest display name and label value, in bytes.
    pub const MAX_NAME_BYTES: usize = 256;
    /// Most labels of a job.
    pub const MAX_LABELS: usize = 64;
    /// Most sources of rows in one list.
    pub const MAX_SOURCES: usize = 256;
    /// Most entries of a list of modules, layers or patterns.
    pub const MAX_MODULES: usize = 1024;
    /// Longest regular expression, in bytes.
    pub const MAX_PATTERN_BYTES: usize = 4096;
    /// Most violations that are told at once: a request has room for millions, an answer has not.
    pub const MAX_VIOLATIONS: usize = 32;
    /// Longest chat template, in bytes.
    pub const MAX_TEMPLATE_BYTES: usize = 256 * 1024;
}

impl JobSpec {
    /// [`JobSpec::max_retries`] where none is given.
    pub const DEFAULT_MAX_RETRIES: u32 = 3;

    /// Every violation at once, as far as [`limits::MAX_VIOLATIONS`] of them; empty when the spec may run. Paths start at `spec`.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check { path: "spec", found: Vec::new() };
        check.that(self.display_name.len() <= limits::MAX_NAME_BYTES, "display_name", "must be at most 256 bytes");
        check.that(self.labels.len() <= limits::MAX_LABELS, "labels", "at most 64 labels");
        for (key, value) in &self.labels {
            let ok = !key.is_empty() && key.len() <= limits::MAX_NAME_BYTES && value.len() <= limits::MAX_NAME_BYTES;
            check.that(ok, "labels", format!("label {key:?}: keys are 1 to 256 bytes, values at most 256"));
        }
        check.that(!self.base_model.is_empty(), "base_model.uri", "is required: a model id, file:// or s3:// URI");
        check.within(f64::from(self.max_retries), 0.0..=100.0, "max_retries");
        check.that(
            self.resources.devices == 1,
            "resources.devices",
            "must be 1: several devices are not supported yet",
        );
        let mut found = check.found;
        let path = format!("spec.{}", self.task.name());
        let mut check = Check { path: &path, found: Vec::new() };
        match &self.task {
            Task::Sft(task) => {
                task.training.validate(&mut check);
                check.within(task.neftune_noise_alpha, 0.0..=100.0, "neftune_noise_alpha");
                let metric = task.training.evaluation.early_stopping.map_or(Metric::Loss, |stopping| stopping.metric);
                let known = metric == Metric::Loss;
                check.that(known, "evaluation.early_stopping.metric", format!("{} is for dpo", metric.name()));
            }
            Task::Dpo(task) => {
                task.training.validate(&mut check);
                task.preference.validate(&mut check);
            }
            Task::Evaluate(task) => task.validate(&mut check),
            Task::Compare(task) => task.validate(&mut check),
            Task::Generate(task) => task.validate(&mut check),
            Task::Export(task) => task.validate(&mut check),
            Task::Benchmark(task) => task.validate(self, &mut check),
        }
        found.extend(check.found);
        found.truncate(limits::MAX_VIOLATIONS);
        found
    }
}

impl JobSpec {
    /// What a person should know about a job that may run all the same.
    pub fn warnings(&self) -> Vec<Warning> {
        let lora = self.task.training().and_then(|training| training.adapter.lora());
        let settings = lora.map(Lora::not_for_vllm).unwrap_or_default();
        if settings.is_empty() { Vec::new() } else { vec![Warning::not_for_vllm(&settings)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn spec() -> JobSpec {
        JobSpec {
            display_name: String::new(),
            labels: BTreeMap::new(),
            base_model: "file:///models/a".into(),
            task: Task::Sft(SftTask::new(Training::on(vec!["ds-1".into()]), LossOn::default())),
            resources: Resources::default(),
            max_retries: JobSpec::DEFAULT_MAX_RETRIES,
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(spec().validate(), []);
    }

    #[test]
    fn every_violation_comes_back_at_once_with_its_path() {
        let mut bad = spec();
        bad.base_model.clear();
        let training = bad.task.training_mut().unwrap();
        training.data.train.clear();
        training.optimizer.learning_rate = -1.0;
        training.optimizer.rule = UpdateRule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: f64::NAN };
        training.adapter = Adapter::Lora(Lora { rank: 0, ..Lora::default() });
        let fields: Vec<String> = bad.validate().into_iter().map(|violation| violation.field).collect();
        assert_eq!(
            fields,
            [
                "spec.base_model.uri",
                "spec.sft.data.train",
                "spec.sft.adapter.lora.rank",
                "spec.sft.optimizer.learning_rate",
                "spec.sft.optimizer.epsilon"
            ]
        );
    }

    #[test]
    fn a_million_violations_are_told_by_the_first_few() {
        let mut bad = spec();
        bad.labels = BTreeMap::from([("k".repeat(1 << 20), String::new())]);
        bad.task.training_mut().unwrap().data.train = vec![String::new(); 1_000_000];
        let found = bad.validate();
        assert_eq!(found.len(), limits::MAX_VIOLATIONS);
        assert!(found.iter().all(|violation| violation.description.len() < 400), "what is long is cut");
    }

    #[test]
    fn weights_are_one_for_each_source() {
        let check = |weights: &[f64], expected: &[&str]| {
            let mut spec = spec();
            let training = spec.task.training_mut().unwrap();
            training.data.train = vec!["ds-1".into(), "ds-2".into()];
            training.data.mix = Some(Mix { weights: weights.to_vec(), until: MixUntil::default() });
            let found: Vec<String> = spec.validate().into_iter().map(|violation| violation.description).collect();
            assert_eq!(found.len(), expected.len(), "{weights:?}: {found:?}");
            assert!(found.iter().zip(expected).all(|(found, expected)| found.contains(expected)), "{found:?}");
        };
        check(&[1.0, 2.5], &[]);
        check(&[1.0], &["has 1 weights for 2 sources"]);
        check(&[0.0, f64::NAN], &["is 0; must be from", "is NaN; must be from"]);
    }

    #[test]
    fn a_spec_from_before_mixing_reads_as_without() {
        let mut old = serde_json::to_value(spec()).unwrap();
        let data = old["task"]["sft"]["training"]["data"].as_object_mut().unwrap();
        assert!(data.remove("mix").is_some() && data.remove("drop_duplicates").is_some());
        assert_eq!(serde_json::from_value::<JobSpec>(old).unwrap(), spec());
    }

    #[test]
    fn epochs_round_a_short_last_group_up() {
        assert_eq!(Length::Epochs(2.0).total_steps(33, 16), 6);
        assert_eq!(Length::Epochs(0.5).total_steps(33, 16), 2);
        assert_eq!(Length::MaxSteps(7).total_steps(33, 16), 7);
        assert_eq!(Warmup::Ratio(0.03).steps(100), 3);
    }

    #[test]
    fn what_a_schedule_or_an_optimizer_cannot_do_is_told_by_its_field() {
        let check = |change: fn(&mut Training), expected: &[&str]| {
            let mut bad = spec();
            change(bad.task.training_mut().unwrap());
            let fields: Vec<String> = bad.validate().into_iter().map(|violation| violation.field).collect();
            let expected: Vec<String> = expected.iter().map(|field| format!("spec.sft.{field}")).collect();
            assert_eq!(fields, expected);
        };
        let plateau = ScheduleKind::Plateau(Plateau::default());
        check(|training| training.schedule.kind = ScheduleKind::Plateau(Plateau::default()), &["schedule.type"]);
        check(
            |training| {
                training.data.eval_fraction = 0.1;
                training.schedule.kind =
                    ScheduleKind::Plateau(Plateau { factor: 1.0, threshold: -0.1, ..Plateau::default() });
            },
            &["schedule.plateau.factor", "schedule.plateau.threshold"],
        );
        check(
            |training| {
                training.schedule.kind = ScheduleKind::Constant;
                training.schedule.min_learning_rate_ratio = 0.1;
            },
            &["schedule.min_learning_rate_ratio"],
        );
        check(
            |training| training.schedule.kind = ScheduleKind::CosineWithRestarts { num_cycles: 0 },
            &["schedule.num_cycles"],
        );
        check(|training| training.schedule.kind = ScheduleKind::Polynomial { power: 0.0 }, &["schedule.power"]);
        check(
            |training| training.schedule.kind = ScheduleKind::InverseSqrt { timescale: Some(0) },
            &["schedule.timescale"],
        );
        check(
            |training| {
                training.schedule.kind =
                    ScheduleKind::WarmupStableDecay { decay: Decay::Ratio(1.5), shape: DecayShape::Linear };
            },
            &["schedule.decay_ratio"],
        );
        check(
            |training| {
                training.optimizer.rule = UpdateRule::Sgd { momentum: 0.0, nesterov: true };
                training.optimizer.lora_plus_ratio = 0.5;
            },
            &["optimizer.nesterov", "optimizer.lora_plus_ratio"],
        );
        check(
            |training| {
                training.adapter = Adapter::Full;
                training.optimizer.lora_plus_ratio = 2.0;
            },
            &["optimizer.lora_plus_ratio"],
        );
        check(
            |training| training.optimizer.rule = UpdateRule::Lion { beta1: 1.0, beta2: -0.1 },
            &["optimizer.beta1", "optimizer.beta2"],
        );

        let mut good = spec();
        good.task.training_mut().unwrap().data.eval = vec!["ds-2".into()];
        good.task.training_mut().unwrap().schedule.kind = plateau;
        assert_eq!(good.validate(), []);
    }

    #[test]
    fn survives_serde() {
        let mut full = spec();
        full.task.training_mut().unwrap().schedule.kind =
            ScheduleKind::WarmupStableDecay { decay: Decay::Steps(7), shape: DecayShape::OneMinusSqrt };
        full.task.training_mut().unwrap().optimizer =
            Optimizer { moments: MomentFormat::Block8, ..Optimizer::of(UpdateRule::lion()) };
        for spec in [spec(), full] {
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<JobSpec>(&text).unwrap(), spec);
        }
    }

    #[test]
    fn a_spec_of_an_older_server_is_still_read() {
        let optimizer = r#"{"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0, "max_grad_norm": 1.0}"#;
        let schedule = r#"{"kind": "linear", "warmup": {"steps": 3}, "min_learning_rate_ratio": 0.1}"#;
        let expected = Optimizer { learning_rate: 1e-3, ..Optimizer::default() };
        assert_eq!(serde_json::from_str::<Optimizer>(optimizer).unwrap(), expected);
        let expected = Schedule { kind: ScheduleKind::Linear, warmup: Warmup::Steps(3), min_learning_rate_ratio: 0.1 };
        assert_eq!(serde_json::from_str::<Schedule>(schedule).unwrap(), expected);
    }
}

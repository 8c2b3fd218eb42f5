//! Specs of jobs: builders in, a checked [`v1::JobSpec`] out, or every field that is wrong.
//!
//! There is a builder for each message of the spec, with a method for each of its fields, called as the field; what a spec cannot
//! do without is an argument of `new`. A violation's path, such as `spec.sft.adapter.lora.rank`, therefore reads as the calls that
//! led to it. What is left out takes the default that stands in the method's documentation.
//!
//! ```
//! use hone_client::spec::{Data, Job, Lora, Optimizer, Schedule, ScheduleType, Sft};
//!
//! let data = Data::new(["s3://rows/train.jsonl"]).eval_fraction(0.1).max_length(512);
//! let sft = Sft::new(data)
//!     .adapter(Lora::new().rank(8).target_modules(["q_proj", "v_proj"]))
//!     .optimizer(Optimizer::new().learning_rate(1e-4))
//!     .schedule(Schedule::new().r#type(ScheduleType::Linear).warmup_steps(10))
//!     .epochs(2.0);
//! let spec = Job::new("s3://models/SmolLM2-135M-Instruct", sft).label("team", "search").build()?;
//! assert_eq!(spec.labels["team"], "search");
//!
//! // What the server would refuse is found here, all of it at once.
//! let sft = Sft::new(Data::new(["ds-1"])).adapter(Lora::new().dropout(1.5)).optimizer(Optimizer::new().learning_rate(7.0));
//! let error = Job::new("model-1", sft).build().unwrap_err();
//! let fields: Vec<_> = error.violations().iter().map(|one| one.field.as_str()).collect();
//! assert_eq!(fields, ["spec.sft.adapter.lora.dropout", "spec.sft.optimizer.learning_rate"]);
//! # Ok::<(), hone_client::Error>(())
//! ```
//!
//! The rules are the server's own code; what they cannot know is whether a dataset, model or checkpoint exists and may be read,
//! which the server alone says.

pub use hone_proto::spec::*;
use hone_proto::v1;

use crate::error::{Error, FieldViolation, Result};

/// What a job is asked to do: a task on a base model.
///
/// ```
/// use hone_client::spec::{Data, Job, Sft};
///
/// let spec = Job::new("model-1", Sft::new(Data::new(["ds-1"])))
///     .display_name("first try")
///     .label("team", "search")
///     .max_retries(0)
///     .build()?;
/// // Another job like it.
/// let again = Job::from(spec).display_name("second try").build()?;
/// assert_eq!((again.display_name.as_str(), again.max_retries), ("second try", Some(0)));
/// # Ok::<(), hone_client::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Job(v1::JobSpec);

impl Job {
    /// A task, such as [`Sft`] or [`Dpo`], on a base model: the id of an uploaded one, or a `file://` or `s3://` URI that the
    /// server may read.
    pub fn new(base_model: impl Into<String>, task: impl Into<v1::job_spec::Task>) -> Self {
        let base_model = Some(v1::BaseModel { uri: base_model.into() });
        Self(v1::JobSpec { base_model, task: Some(task.into()), ..Default::default() })
    }

    /// A name for people; not unique. At most 256 bytes. Default: empty.
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.0.display_name = name.into();
        self
    }

    /// A label to filter lists by; one of the same key takes its place. At most 64; keys 1 to 256 bytes, values at most 256.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.labels.insert(key.into(), value.into());
        self
    }

    /// Devices of an attempt. Default 1.
    pub fn devices(mut self, devices: u32) -> Self {
        self.0.resources.get_or_insert_default().devices = Some(devices);
        self
    }

    /// How many attempts in a row may fail in a way that may pass and be followed by another. 0 to 100. Default 3.
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.0.max_retries = Some(max_retries);
        self
    }

    /// The spec, if it may run.
    pub fn build(self) -> Result<v1::JobSpec> {
        check(&self.0)?;
        Ok(self.0)
    }
}

/// Goes on from a spec, such as that of an earlier job.
impl From<v1::JobSpec> for Job {
    fn from(spec: v1::JobSpec) -> Self {
        Self(spec)
    }
}

/// Says what is wrong with a spec, all of it at once, without asking a server.
///
/// ```
/// use hone_client::{spec, v1};
///
/// let error = spec::check(&v1::JobSpec::default()).unwrap_err();
/// assert_eq!(error.violations()[0].field, "spec.base_model.uri");
/// ```
pub fn check(spec: &v1::JobSpec) -> Result<()> {
    effective(spec).map(drop)
}

/// A spec with every default filled in, as this version of hone has them, without asking a server; see also
/// [`Client::validate_job`](crate::Client::validate_job).
///
/// ```
/// use hone_client::spec::{Data, Job, Sft, effective};
///
/// let spec = Job::new("model-1", Sft::new(Data::new(["ds-1"]))).build()?;
/// assert_eq!(effective(&spec)?.max_retries, Some(3));
/// # Ok::<(), hone_client::Error>(())
/// ```
pub fn effective(spec: &v1::JobSpec) -> Result<v1::JobSpec> {
    let (read, violations) = hone_spec::job_spec(Some(spec.clone()));
    if violations.is_empty() {
        return Ok(hone_spec::message(read));
    }
    let as_told = violations.into_iter().map(|one| FieldViolation { field: one.field, description: one.description });
    Err(Error::Spec { violations: as_told.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builders_make_the_message_that_one_would_write() {
        let data = Data::new(["ds-1"]).eval(["ds-2"]).mix(Mix::new().weights([1.0]).until(MixUntil::AllExhausted));
        let dpo = Dpo::new(data)
            .adapter(Lora::new().rank(8).rank_pattern([RankPattern::new().pattern("q_proj").rank(4)]))
            .losses([PreferenceLoss::new().r#type(PreferenceLossType::Ipo).weight(0.5)])
            .reference(BasePolicy::new())
            .schedule(Schedule::new().r#type(ScheduleType::Linear).warmup_ratio(0.1))
            .evaluation(Evaluation::new().early_stopping(EarlyStopping::new().patience(2)))
            .max_steps(9);
        let built = Job::new("model-1", dpo).devices(1).max_retries(0).label("a", "b").build().expect("a spec");
        let lora = v1::LoraSpec {
            rank: Some(8),
            rank_pattern: vec![v1::RankPattern { pattern: "q_proj".into(), rank: 4 }],
            ..Default::default()
        };
        let written = v1::DpoTask {
            data: Some(v1::DataSpec {
                train: vec!["ds-1".into()],
                eval: vec!["ds-2".into()],
                mix: Some(v1::MixSpec { weights: vec![1.0], until: v1::MixUntil::AllExhausted.into() }),
                ..Default::default()
            }),
            adapter: Some(v1::AdapterSpec { kind: Some(v1::adapter_spec::Kind::Lora(lora)) }),
            losses: vec![v1::PreferenceLoss { r#type: v1::PreferenceLossType::Ipo.into(), weight: Some(0.5) }],
            reference: Some(v1::ReferencePolicy {
                policy: Some(v1::reference_policy::Policy::Base(v1::BasePolicy {})),
            }),
            schedule: Some(v1::ScheduleSpec {
                r#type: v1::ScheduleType::Linear.into(),
                warmup: Some(v1::schedule_spec::Warmup::WarmupRatio(0.1)),
                ..Default::default()
            }),
            evaluation: Some(v1::EvaluationSpec {
                early_stopping: Some(v1::EarlyStoppingSpec { patience: Some(2), ..Default::default() }),
                ..Default::default()
            }),
            length: Some(v1::dpo_task::Length::MaxSteps(9)),
            ..Default::default()
        };
        let expected = v1::JobSpec {
            labels: [("a".to_owned(), "b".to_owned())].into(),
            base_model: Some(v1::BaseModel { uri: "model-1".into() }),
            task: Some(v1::job_spec::Task::Dpo(written)),
            resources: Some(v1::Resources { devices: Some(1) }),
            max_retries: Some(0),
            ..Default::default()
        };
        assert_eq!(built, expected);
    }

    #[test]
    fn each_task_has_a_builder_that_says_what_it_cannot_do_without() {
        let rows = || ScoredRows::new(["ds-1"]);
        let candidates = || [Candidate::new("base"), Candidate::new("sft").checkpoint("s3://b/sft")];
        for job in [
            Job::new("model-1", Sft::new(Data::new(["ds-1"])).adapter(Full::new())),
            Job::new("model-1", Dpo::new(Data::new(["ds-1"])).reference(ReferencePolicy::new().checkpoint("s3://b/a"))),
            Job::new("model-1", Evaluate::new(rows().max_examples(9))),
            Job::new("model-1", Compare::new(candidates(), rows())),
            Job::new("model-1", Generate::new(PromptRows::new(["ds-1"])).sampling(Sampling::new().stop(["\n"]))),
            Job::new("model-1", Export::new().format(ExportFormat::Gguf)),
        ] {
            job.build().expect("a spec");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_and_a_spec_can_be_gone_on_from() {
        let wrong = Job::new("", Sft::new(Data::new(Vec::<String>::new())).optimizer(Optimizer::new().beta1(1.5)));
        let error = wrong.clone().build().expect_err("no spec");
        let fields: Vec<_> = error.violations().iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["spec.base_model.uri", "spec.sft.data.train", "spec.sft.optimizer.beta1"]);
        assert!(error.to_string().starts_with("the spec cannot run; spec.base_model.uri: is required"), "{error}");
        let Some(v1::job_spec::Task::Sft(task)) = wrong.0.task else { panic!("an sft task") };
        let mended = Sft::from(task).data(Data::new(["ds-1"])).optimizer(Optimizer::new());
        let spec = Job::new("model-1", mended).build().expect("a spec");
        let spec = Job::from(effective(&spec).expect("a spec")).display_name("again").build().expect("the same");
        let Some(v1::job_spec::Task::Sft(task)) = spec.task else { panic!("an sft task") };
        assert_eq!(task.seed, Some(42), "defaults are filled in");
    }
}

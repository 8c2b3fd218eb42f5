//! Rows to train and evaluate on, and what becomes of those that do not fit.

use serde::{Deserialize, Serialize};

use super::{Check, limits};

/// Rows to train and evaluate on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Training rows: `ds-…` ids, `file://` or `s3://` URIs. At least one.
    pub train: Vec<String>,
    /// Evaluation rows, if given apart.
    pub eval: Vec<String>,
    /// Share of the training rows held out for evaluation when `eval` is empty, chosen by row hash. Default 0.
    pub eval_fraction: f64,
    /// Longest row in tokens. Default 1024, or the model's own limit when that is shorter.
    pub max_length: u32,
    /// What happens to longer training rows. Evaluation rows are never filtered by length.
    pub over_length: OverLength,
    /// A chat template instead of the tokenizer's own.
    pub chat_template: Option<String>,
    /// At most this many training rows, a uniform sample. Default: all.
    pub max_train_examples: Option<u64>,
    /// At most this many evaluation rows, a uniform sample. Default: all.
    pub max_eval_examples: Option<u64>,
    /// How the sources of `train` are mixed. Default: an epoch is every row of every source once.
    #[serde(default)]
    pub mix: Option<Mix>,
    /// Whether a training row that says the same as an earlier one is left out. Default: counted, not left out.
    #[serde(default)]
    pub drop_duplicates: bool,
    /// Share of common pieces from which on a held-out row is nearly the same as a training row; 0 looks for none. Default 0.8.
    #[serde(default = "leakage_similarity")]
    pub leakage_similarity: f64,
}

const fn leakage_similarity() -> f64 {
    0.8
}

/// How sources of training rows are mixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mix {
    /// One weight a source, in the order of `train`: its share of the examples, relative to the others. 1e-6 to 1e6.
    pub weights: Vec<f64>,
    /// When an epoch ends.
    pub until: MixUntil,
}

/// When an epoch over mixed sources ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixUntil {
    /// When a source has no example left: none comes twice in an epoch. The default.
    #[default]
    FirstExhausted,
    /// When every source has come whole: the small ones start over.
    AllExhausted,
}

/// What happens to a training row longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// Left out, counted and listed by row number. The default.
    #[default]
    Drop,
    /// Cut at `max_length`, the end token kept.
    Truncate,
    /// Text rows only: cut into several rows that together keep every token.
    Split,
    /// The job fails and names the rows.
    Fail,
}

impl Data {
    /// Rows of `train`, with every default.
    pub fn of(train: Vec<String>) -> Self {
        Self {
            train,
            eval: Vec::new(),
            eval_fraction: 0.0,
            max_length: 1024,
            over_length: OverLength::default(),
            chat_template: None,
            max_train_examples: None,
            max_eval_examples: None,
            mix: None,
            drop_duplicates: false,
            leakage_similarity: leakage_similarity(),
        }
    }

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.that(!self.train.is_empty(), "data.train", "is required: at least one dataset id or URI");
        for (field, sources) in [("data.train", &self.train), ("data.eval", &self.eval)] {
            check.that(sources.len() <= limits::MAX_SOURCES, field, "at most 256 sources");
            for source in sources {
                check.that(!source.is_empty(), field, "a source is empty: give a dataset id, file:// or s3:// URI");
            }
        }
        check.that((0.0..1.0).contains(&self.eval_fraction), "data.eval_fraction", "must be from 0 to below 1");
        let apart = self.eval.is_empty() || self.eval_fraction == 0.0;
        check.that(apart, "data.eval_fraction", "eval and eval_fraction exclude each other");
        check.within(f64::from(self.max_length), 2.0..=1_048_576.0, "data.max_length");
        if let Some(template) = &self.chat_template {
            check.that(template.len() <= limits::MAX_TEMPLATE_BYTES, "data.chat_template", "must be at most 256 KiB");
        }
        check.that(self.max_train_examples != Some(0), "data.max_train_examples", "must be at least 1");
        check.that(self.max_eval_examples != Some(0), "data.max_eval_examples", "must be at least 1");
        check.within(self.leakage_similarity, 0.0..=1.0, "data.leakage_similarity");
        if let Some(mix) = &self.mix {
            let (weights, sources) = (mix.weights.len(), self.train.len());
            check.that(
                weights == sources,
                "data.mix.weights",
                format!("has {weights} weights for {sources} sources; give one for each entry of train"),
            );
            for weight in &mix.weights {
                check.within(*weight, 1e-6..=1e6, "data.mix.weights");
            }
        }
    }
}

//! Whole sources in, the examples of a run out: rows go through read, understand, tokenise and admit.
//!
//! One thread reads, several tokenise; the result is in reading order whatever their number. What is in memory of a row that
//! was read is where it lies and what it says, as a hash.

use std::sync::Arc;
use std::thread;

use hone_job::event::{DatasetReport, ReasonCount, SourceShare};
use hone_job::insight::Leakage;
use hone_job::spec::{Data, Mix, Order, OverLength, Task};
use tokio::runtime::Handle;

use crate::admit::{LengthPolicy, Tally, reason};
use crate::ends::Ends;
use crate::examples::Examples;
use crate::leakage;
use crate::mix::{self, Mixture};
use crate::order::{Cursor, Sequence};
use crate::source;
use crate::storage::Location;
use crate::tokenize::{Form, RowTokenizer};
use crate::tokenizer::Tokenizer;

mod division;
mod error;
mod held_out;
mod reading;

use division::Division;
pub use error::Error;
pub use held_out::{HeldOut, Prompts};
use reading::Reading;

/// Where the rows are; dataset ids are resolved already.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Training rows: objects, or folders of them.
    pub train: Vec<Location>,
    /// Evaluation rows, if given apart.
    pub eval: Vec<Location>,
}

/// How rows become examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Longest training example in tokens.
    pub max_length: usize,
    /// What happens to longer training rows.
    pub over_length: OverLength,
    /// What rows are made into, and which of their tokens are trained on.
    pub form: Form,
    /// A chat template instead of the tokenizer's own.
    pub chat_template: Option<String>,
    /// Share of the training rows held out for evaluation, by row hash.
    pub eval_fraction: f64,
    /// At most this many training rows, a uniform sample.
    pub max_train_examples: Option<u64>,
    /// At most this many evaluation rows, a uniform sample.
    pub max_eval_examples: Option<u64>,
    /// How the training sources are mixed; one weight a source.
    pub mix: Option<Mix>,
    /// Whether a training row that says the same as an earlier one is left out.
    pub drop_duplicates: bool,
    /// Share of common pieces from which on a held-out row is nearly the same as a training row; 0 looks for none.
    pub leakage_similarity: f64,
    /// Threads that tokenise.
    pub threads: usize,
}

impl Options {
    /// The options that a task asks for.
    pub fn of(task: &Task) -> Option<Self> {
        match task {
            Task::Sft(sft) => Some(Self::new(&sft.training.data, sft.loss_on)),
            Task::Dpo(dpo) => Some(Self::new(&dpo.training.data, Form::Preference)),
            Task::Benchmark(benchmark) => Self::of(&benchmark.training),
            Task::Evaluate(_) | Task::Compare(_) | Task::Generate(_) | Task::Export(_) => None,
        }
    }

    /// The options for such rows.
    pub fn new(data: &Data, form: impl Into<Form>) -> Self {
        Self {
            max_length: data.max_length as usize,
            over_length: data.over_length,
            form: form.into(),
            chat_template: data.chat_template.clone(),
            eval_fraction: data.eval_fraction,
            max_train_examples: data.max_train_examples,
            max_eval_examples: data.max_eval_examples,
            mix: data.mix.clone(),
            drop_duplicates: data.drop_duplicates,
            leakage_similarity: data.leakage_similarity,
            threads: thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Told how many rows were read so far.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// The examples of a run, and what became of every row.
#[derive(Debug, Default)]
pub struct Dataset {
    /// Training examples, in reading order.
    pub train: Examples,
    /// Evaluation examples, in reading order; may be empty.
    pub eval: Examples,
    /// What became of the training rows.
    pub train_report: DatasetReport,
    /// What became of the evaluation rows; absent when none were asked for.
    pub eval_report: Option<DatasetReport>,
    /// How the sources of the training examples are mixed; absent when an epoch is every example once.
    pub mixture: Option<Mixture>,
    /// Which kinds of training rows teach where an answer ends.
    pub ends: Ends,
    /// Evaluation rows that say the same as training rows, or nearly; absent when there is none.
    pub leakage: Option<Leakage>,
}

impl Dataset {
    /// Examples of an epoch.
    pub fn epoch_len(&self) -> usize {
        self.mixture.as_ref().map_or(self.train.len(), Mixture::num_examples)
    }

    /// The training examples in the order of a run, from a cursor on.
    ///
    /// # Panics
    /// When there are no training examples.
    pub fn sequence(&self, order: Order, seed: u64, cursor: Cursor) -> Sequence {
        match &self.mixture {
            Some(mixture) => Sequence::mixed(order, seed, mixture.clone(), cursor),
            None => Sequence::new(order, seed, self.train.len(), cursor),
        }
    }

    /// Reads everything. A malformed row fails the whole, after all rows were read, so that the error lists them all.
    pub async fn load(
        sources: Sources,
        tokenizer: Arc<Tokenizer>,
        options: Options,
        progress: Progress,
    ) -> Result<Self, Error> {
        let has_eval = !sources.eval.is_empty();
        let (mix, uris) = (options.mix.clone(), sources.train.iter().map(|source| source.uri.clone()).collect());
        let found = examine(sources, tokenizer, options, progress).await?;
        for tally in [Some(&found.train.tally), found.eval.as_ref().map(|split| &split.tally)].into_iter().flatten() {
            refuse_malformed(tally)?;
            if let Some(ReasonCount { count, rows, .. }) = tally.reason(reason::OVER_LENGTH) {
                return Err(Error::OverLength { count: *count, notes: rows.clone() });
            }
        }
        let mut train_report = found.train.report("train");
        let eval_report = found.eval.as_ref().map(|split| split.report("eval"));
        let must_have = [Some(("train", &train_report)), eval_report.as_ref().map(|report| ("eval", report))];
        for (split, report) in must_have.into_iter().flatten() {
            // A small share of few rows may well be none; the trainer then runs without evaluation.
            if report.examples == 0 && (split == "train" || has_eval) {
                let reasons = report.reasons.clone();
                return Err(Error::NoUsableRows { split, rows_read: report.rows_read, reasons });
            }
        }
        let mixture = mix.map(|mix| found.train.mixture(&mix, uris, &mut train_report)).transpose()?;
        let eval = found.eval.map(|split| split.examples).unwrap_or_default();
        let Split { examples, ends, .. } = found.train;
        Ok(Self { train: examples, eval, train_report, eval_report, mixture, ends, leakage: found.leakage })
    }
}

fn refuse_malformed(tally: &Tally) -> Result<(), Error> {
    match tally.reason(reason::MALFORMED) {
        Some(ReasonCount { count, rows, .. }) => Err(Error::Malformed { count: *count, notes: rows.clone() }),
        None => Ok(()),
    }
}

/// Examples of a split with what became of its rows.
#[derive(Debug, Default)]
pub(crate) struct Split {
    pub(crate) examples: Examples,
    pub(crate) tally: Tally,
    /// Examples of each source; those of the first come first.
    sizes: Vec<usize>,
    ends: Ends,
}

impl Split {
    pub(crate) fn report(&self, split: &str) -> DatasetReport {
        self.tally.report(split, &self.examples)
    }

    /// Mixes the sources, and says in the report what an epoch takes of each.
    pub(crate) fn mixture(
        &self,
        mix: &Mix,
        uris: Vec<String>,
        report: &mut DatasetReport,
    ) -> Result<Mixture, mix::Error> {
        let mixture = Mixture::new(&self.sizes, mix)?;
        let taken = mixture.taken();
        report.sources = uris
            .into_iter()
            .enumerate()
            .map(|(index, uri)| SourceShare {
                uri,
                weight: mix.weights[index],
                examples: self.sizes[index] as u64,
                examples_per_epoch: taken[index] as u64,
            })
            .collect();
        Ok(mixture)
    }
}

/// Both splits, malformed rows only counted.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) train: Split,
    pub(crate) eval: Option<Split>,
    pub(crate) leakage: Option<Leakage>,
}

/// Runs the rows through every step.
pub(crate) async fn examine(
    sources: Sources,
    tokenizer: Arc<Tokenizer>,
    options: Options,
    progress: Progress,
) -> Result<Examined, Error> {
    let mut objects = [Vec::new(), Vec::new()];
    for (objects, sources) in objects.iter_mut().zip([&sources.train, &sources.eval]) {
        for source in sources {
            objects.push(source::objects(source).await?);
        }
    }
    let runtime = Handle::current();
    let work = move || {
        let [train, eval] = objects;
        let policy = LengthPolicy {
            max_length: options.max_length,
            over_length: options.over_length,
            end_ids: tokenizer.stop_ids().to_vec(),
        };
        let end_ids = policy.end_ids.clone();
        let rows = RowTokenizer::new(tokenizer.clone(), options.chat_template.as_deref(), options.form)?;
        let mut reading = Reading {
            rows: &rows,
            end_ids: &end_ids,
            runtime: &runtime,
            threads: options.threads,
            progress,
            rows_read: 0,
        };
        let mut division = Division::new(&policy, &options);
        for objects in &train {
            reading.each(objects, &mut |outcome| division.train(outcome))?;
            division.end_training_source();
        }
        let mut held_out = division.held_out(!eval.is_empty());
        for objects in &eval {
            reading.each(objects, &mut |outcome| held_out.add(outcome))?;
        }
        let mut found = held_out.end()?;
        if let Some(eval) = found.eval.as_mut().filter(|_| options.leakage_similarity > 0.0) {
            let (train, held_out) = (&found.train.examples, eval.examples.all()?);
            let similarity = options.leakage_similarity;
            let tally = &mut eval.tally;
            found.leakage = leakage::find(train, &held_out, tally, similarity, options.threads, &tokenizer)?;
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Interrupted(error.to_string()))?
}

#[cfg(test)]
pub(crate) mod tests;

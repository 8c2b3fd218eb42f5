//! Whole sources in, the examples of a run out: rows go through read, understand, tokenise and admit.
//!
//! One thread reads, several tokenise; the result is in reading order whatever their number.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use hone_job::event::{DatasetReport, ReasonCount, RowNote, SourceShare};
use hone_job::spec::{Data, Mix, Order, OverLength, Task};
use tokio::runtime::Handle;

use crate::admit::{LengthPolicy, Tally, keep, keep_if_trainable, reason};
use crate::ends::{Ends, is_endless};
use crate::example::understand_for;
use crate::mix::{self, Mixture};
use crate::order::{Cursor, RowHash, Sequence, sample};
use crate::source::{self, Row, RowResult};
use crate::storage::Location;
use crate::template;
use crate::tokenize::{Example, Form, RowTokenizer};
use crate::tokenizer::Tokenizer;

mod error;
mod held_out;

pub use error::Error;
pub use held_out::{HeldOut, Prompts};

/// Rows that go to a tokenising thread at once.
const CHUNK_ROWS: usize = 64;
/// Rows between two calls of the progress callback.
const PROGRESS_ROWS: u64 = 1024;

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
            threads: thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Told how many rows were read so far.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// The examples of a run, and what became of every row.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// Training examples, in reading order.
    pub train: Vec<Example>,
    /// Evaluation examples, in reading order; may be empty.
    pub eval: Vec<Example>,
    /// What became of the training rows.
    pub train_report: DatasetReport,
    /// What became of the evaluation rows; absent when none were asked for.
    pub eval_report: Option<DatasetReport>,
    /// How the sources of the training examples are mixed; absent when an epoch is every example once.
    pub mixture: Option<Mixture>,
    /// Which kinds of training rows teach where an answer ends.
    pub ends: Ends,
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
        Ok(Self { train: examples, eval, train_report, eval_report, mixture, ends })
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
    pub(crate) examples: Vec<Example>,
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
        let rows = RowTokenizer::new(tokenizer, options.chat_template.as_deref(), options.form)?;
        let mut reading = Reading {
            rows: &rows,
            end_ids: &end_ids,
            runtime: &runtime,
            threads: options.threads,
            progress,
            rows_read: 0,
        };
        let mut sources = |sources: &[Vec<Location>]| -> Result<Vec<_>, Error> {
            sources.iter().map(|objects| reading.outcomes(objects)).collect()
        };
        let train = sources(&train)?;
        let eval = if eval.is_empty() { None } else { Some(sources(&eval)?) };
        Ok(divide(train, eval, &policy, &options))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Interrupted(error.to_string()))?
}

/// What became of a row before the length policy.
type Outcome = Result<Understood, RowNote>;

/// A row with what must be known of it beside its tokens.
struct Understood {
    example: Example,
    hash: RowHash,
    /// Name of its kind.
    kind: &'static str,
    /// Whether a trained stretch of it ends without an end token.
    is_endless: bool,
}

struct Reading<'a> {
    rows: &'a RowTokenizer,
    end_ids: &'a [u32],
    runtime: &'a Handle,
    threads: usize,
    progress: Progress,
    rows_read: u64,
}

impl Reading<'_> {
    /// Reads and tokenises the rows of some objects.
    fn outcomes(&mut self, objects: &[Location]) -> Result<Vec<Outcome>, Error> {
        let done: Mutex<BTreeMap<usize, Vec<Outcome>>> = Mutex::default();
        let threads = self.threads.max(1);
        let (send, receive) = mpsc::sync_channel::<(usize, Vec<RowResult>)>(2 * threads);
        let receive = Mutex::new(receive);
        let (rows, end_ids) = (self.rows, self.end_ids);
        let read = thread::scope(|scope| {
            for _ in 0..threads {
                let worker = thread::Builder::new().stack_size(template::STACK_BYTES);
                let spawned = worker.spawn_scoped(scope, || {
                    loop {
                        // In a statement of its own, so that the lock is open while rows are tokenised.
                        let chunk = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok((number, chunk)) = chunk else { break };
                        let outcomes = chunk.into_iter().map(|row| outcome(rows, end_ids, row?)).collect();
                        done.lock().unwrap_or_else(PoisonError::into_inner).insert(number, outcomes);
                    }
                });
                spawned.expect("the system has room for a thread");
            }
            self.send_chunks(objects, send)
        });
        read?;
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().flatten().collect())
    }

    fn send_chunks(
        &mut self,
        objects: &[Location],
        send: mpsc::SyncSender<(usize, Vec<RowResult>)>,
    ) -> Result<(), Error> {
        let mut chunk = Vec::with_capacity(CHUNK_ROWS);
        let mut number = 0;
        for object in objects {
            for row in source::read(object, self.runtime)? {
                chunk.push(row?);
                self.rows_read += 1;
                if self.rows_read.is_multiple_of(PROGRESS_ROWS) {
                    (self.progress)(self.rows_read);
                }
                if chunk.len() == CHUNK_ROWS {
                    // No receiver is left only when all workers panicked, which the scope reports.
                    let _ = send.send((number, std::mem::take(&mut chunk)));
                    number += 1;
                }
            }
        }
        let _ = send.send((number, chunk));
        (self.progress)(self.rows_read);
        Ok(())
    }
}

fn outcome(rows: &RowTokenizer, end_ids: &[u32], row: Row) -> Outcome {
    let content = understand_for(&row.value, rows.wanted()).map_err(|what| row.note(what))?;
    let example = rows.example(&content, row.object.clone(), row.number);
    let hash = RowHash::of(&row.value);
    let example = example.map_err(|error| row.note(error.to_string()))?;
    let is_endless = example.documents.iter().any(|document| is_endless(&document.labels, end_ids));
    Ok(Understood { is_endless, example, hash, kind: content.kind() })
}

/// Divides rows into splits, applies the policy to the training rows, and samples. Rows come by source.
fn divide(
    train: Vec<Vec<Outcome>>,
    eval: Option<Vec<Vec<Outcome>>>,
    policy: &LengthPolicy,
    options: &Options,
) -> Examined {
    let mut held_out = Vec::new();
    let mut split = Gathered::default();
    for outcomes in train {
        for outcome in outcomes {
            match outcome {
                Ok(row) if row.hash.is_held_out(options.eval_fraction) => {
                    split.tally.rows_read += 1;
                    split.tally.count(reason::HELD_OUT, &row.example, "");
                    held_out.push(Ok(row));
                }
                Ok(row) if options.drop_duplicates && split.is_repeated(&row) => split.leave_out(&row),
                outcome => split.take(outcome, |example, tally, admitted| policy.admit(example, tally, admitted)),
            }
        }
        split.end_source();
    }
    let seen = split.take_seen();
    let admit = if options.form == Form::Prompt { keep } else { keep_if_trainable };
    let train = split.sampled(options.max_train_examples);
    let eval = eval.or((options.eval_fraction > 0.0).then(|| vec![held_out])).map(|sources| {
        let mut split = Gathered::default();
        for outcome in sources.into_iter().flatten() {
            if let Ok(row) = &outcome
                && let Some(place) = seen.get(&row.hash)
            {
                split.tally.count(reason::IN_TRAINING_ROWS, &row.example, place.said());
            }
            split.take(outcome, admit);
        }
        split.end_source();
        split.sampled(options.max_eval_examples)
    });
    Examined { train, eval }
}

/// Where a row stands that a later one repeats.
struct Place {
    object: Arc<str>,
    row: u64,
}

impl Place {
    fn said(&self) -> String {
        format!("the same as {} row {}", self.object, self.row)
    }
}

/// A split on its way, with the rank of each example in a sample.
#[derive(Default)]
struct Gathered {
    examples: Vec<Example>,
    ranks: Vec<u64>,
    tally: Tally,
    /// The first row that says what it says, by hash.
    seen: HashMap<RowHash, Place>,
    /// Examples gathered when a source ended.
    ends_of_sources: Vec<usize>,
    ends: Ends,
}

impl Gathered {
    fn take(&mut self, outcome: Outcome, admit: impl Fn(Example, &mut Tally, &mut Vec<Example>)) {
        self.tally.rows_read += 1;
        let Understood { example, hash, kind, is_endless } = match outcome {
            Ok(row) => row,
            Err(note) => return self.tally.note(reason::MALFORMED, note),
        };
        let place = Place { object: example.object.clone(), row: example.row };
        if let Some(first) = self.seen.get(&hash) {
            self.tally.count(reason::DUPLICATE, &example, first.said());
        }
        self.tally.measure(&example);
        let before = self.examples.len();
        admit(example, &mut self.tally, &mut self.examples);
        if self.examples.len() > before {
            self.ends.count(kind, is_endless);
            if is_endless {
                let note = format!("{kind}: what is trained on does not end with a token that ends an answer");
                let note = RowNote { object: place.object.to_string(), row: place.row, note };
                self.tally.note(reason::END_NOT_TRAINED, note);
            }
        }
        self.seen.entry(hash).or_insert(place);
        // The parts of a split row have its rank in common.
        self.ranks.resize(self.examples.len(), hash.sample_rank());
    }

    fn is_repeated(&self, row: &Understood) -> bool {
        self.seen.contains_key(&row.hash)
    }

    /// Counts a row that says what an earlier one said, and forgets it.
    fn leave_out(&mut self, row: &Understood) {
        self.tally.rows_read += 1;
        let said = self.seen.get(&row.hash).map(Place::said).unwrap_or_default();
        self.tally.count(reason::DUPLICATE_DROPPED, &row.example, said);
    }

    fn end_source(&mut self) {
        self.ends_of_sources.push(self.examples.len());
    }

    fn take_seen(&mut self) -> HashMap<RowHash, Place> {
        std::mem::take(&mut self.seen)
    }

    fn sampled(mut self, most: Option<u64>) -> Split {
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let taken = sample(&self.ranks, most);
        let mut start = 0;
        let mut size =
            |end: &usize| taken[std::mem::replace(&mut start, *end)..*end].iter().filter(|kept| **kept).count();
        let sizes = self.ends_of_sources.iter().map(&mut size).collect();
        if self.examples.len() > most {
            let (kept, left): (Vec<_>, Vec<_>) = self.examples.into_iter().zip(taken).partition(|(_, taken)| *taken);
            for (example, _) in left {
                self.tally.count(reason::NOT_SAMPLED, &example, "");
            }
            self.examples = kept.into_iter().map(|(example, _)| example).collect();
        }
        Split { examples: self.examples, tally: self.tally, sizes, ends: self.ends }
    }
}

#[cfg(test)]
pub(crate) mod tests;

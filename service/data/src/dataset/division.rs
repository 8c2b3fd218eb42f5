//! Training rows and evaluation rows: which row goes where, what is left out and why.

use std::collections::HashMap;
use std::sync::Arc;

use hone_job::event::RowNote;

use super::reading::{Outcome, Understood};
use super::{Error, Examined, Options, Split};
use crate::admit::{LengthPolicy, Tally, keep, keep_if_trainable, reason};
use crate::ends::Ends;
use crate::examples::Examples;
use crate::order::{RowHash, sample};
use crate::tokenize::{Example, Form};

/// Divides training rows, which come by source: some are held out, the policy is applied to the others.
pub(super) struct Division<'a> {
    policy: &'a LengthPolicy,
    options: &'a Options,
    train: Gathered,
    held_out: Vec<Understood>,
}

impl<'a> Division<'a> {
    pub(super) fn new(policy: &'a LengthPolicy, options: &'a Options) -> Self {
        Division { policy, options, train: Gathered::default(), held_out: Vec::new() }
    }

    pub(super) fn train(&mut self, outcome: Outcome) -> Result<(), Error> {
        let split = &mut self.train;
        match outcome {
            Ok(row) if row.hash.is_held_out(self.options.eval_fraction) => {
                split.tally.rows_read += 1;
                split.tally.count(reason::HELD_OUT, &row.example, "");
                self.held_out.push(row);
                Ok(())
            }
            Ok(row) if self.options.drop_duplicates && split.is_repeated(&row) => {
                split.leave_out(&row);
                Ok(())
            }
            outcome => split.take(outcome, |example, tally, admitted| self.policy.admit(example, tally, admitted)),
        }
    }

    pub(super) fn end_training_source(&mut self) {
        self.train.end_source();
    }

    /// Goes on with the evaluation rows: those that are given apart, or else those held out.
    pub(super) fn held_out(mut self, are_given: bool) -> HeldOutRows<'a> {
        let seen = self.train.take_seen();
        let waiting = if are_given { Vec::new() } else { self.held_out };
        let is_wanted = are_given || self.options.eval_fraction > 0.0;
        let eval = is_wanted.then(Gathered::default);
        HeldOutRows { options: self.options, train: self.train, seen, eval, waiting }
    }
}

/// Evaluation rows, beside what was trained on.
pub(super) struct HeldOutRows<'a> {
    options: &'a Options,
    train: Gathered,
    /// The first training row that says what it says, by hash.
    seen: HashMap<RowHash, Place>,
    eval: Option<Gathered>,
    /// Training rows that were held out.
    waiting: Vec<Understood>,
}

impl HeldOutRows<'_> {
    pub(super) fn add(&mut self, outcome: Outcome) -> Result<(), Error> {
        let Some(split) = &mut self.eval else { return Ok(()) };
        if let Ok(row) = &outcome
            && let Some(place) = self.seen.get(&row.hash)
        {
            split.tally.count(reason::IN_TRAINING_ROWS, &row.example, place.said());
        }
        split.take(outcome, if self.options.form == Form::Prompt { keep } else { keep_if_trainable })
    }

    /// Samples both splits.
    pub(super) fn end(mut self) -> Result<Examined, Error> {
        for row in std::mem::take(&mut self.waiting) {
            self.add(Ok(row))?;
        }
        let eval = self.eval.map(|mut split| {
            split.end_source();
            split.sampled(self.options.max_eval_examples)
        });
        Ok(Examined { train: self.train.sampled(self.options.max_train_examples), eval, leakage: None })
    }
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
    examples: Examples,
    ranks: Vec<u64>,
    tally: Tally,
    /// The first row that says what it says, by hash.
    seen: HashMap<RowHash, Place>,
    /// Examples gathered when a source ended.
    ends_of_sources: Vec<usize>,
    ends: Ends,
}

impl Gathered {
    fn take(&mut self, outcome: Outcome, admit: impl Fn(Example, &mut Tally, &mut Vec<Example>)) -> Result<(), Error> {
        self.tally.rows_read += 1;
        let Understood { example, hash, kind, is_endless } = match outcome {
            Ok(row) => row,
            Err(note) => {
                self.tally.note(reason::MALFORMED, note);
                return Ok(());
            }
        };
        let place = Place { object: example.object.clone(), row: example.row };
        if let Some(first) = self.seen.get(&hash) {
            self.tally.count(reason::DUPLICATE, &example, first.said());
        }
        self.tally.measure(&example);
        let mut admitted = Vec::new();
        admit(example, &mut self.tally, &mut admitted);
        admitted.iter().try_for_each(|example| self.examples.push(example))?;
        if !admitted.is_empty() {
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
        Ok(())
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
            for index in (0..taken.len()).filter(|&index| !taken[index]) {
                let (object, row) = self.examples.place(index);
                let note = RowNote { object: object.to_string(), row, note: String::new() };
                self.tally.note(reason::NOT_SAMPLED, note);
            }
            self.examples.keep(&taken);
        }
        Split { examples: self.examples, tally: self.tally, sizes, ends: self.ends }
    }
}

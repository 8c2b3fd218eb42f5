//! The length policy: examples in, examples that take part out, and a count of everything that was left out or changed.
//!
//! The policy is for training rows alone. Evaluation rows are never judged by their length, since leaving the long ones
//! out would flatter the result. Nothing vanishes: a row is an example, several, or a counted reason.

use std::collections::BTreeMap;

use hone_job::event::{DatasetReport, LengthBucket, ReasonCount, RowNote};
use hone_job::spec::OverLength;

use crate::examples::Examples;
use crate::tokenize::{Document, Example};

/// Most rows listed for a reason; all are counted.
pub const MAX_LISTED: usize = 20;

/// Names of the reasons, as reports say them.
pub mod reason {
    /// The row is no JSON object, or of no known kind, or cannot be tokenised.
    pub const MALFORMED: &str = "malformed";
    /// Both answers of a pair are the same.
    pub const IDENTICAL_ANSWERS: &str = "identical_answers";
    /// No token of the row is a target.
    pub const NO_TRAINABLE_TOKEN: &str = "no_trainable_token";
    /// Longer than max_length and left out.
    pub const OVER_LENGTH_DROPPED: &str = "over_length_dropped";
    /// Longer than max_length and cut.
    pub const OVER_LENGTH_TRUNCATED: &str = "over_length_truncated";
    /// Longer than max_length and made into several examples.
    pub const OVER_LENGTH_SPLIT: &str = "over_length_split";
    /// Longer than max_length, which fails the job.
    pub const OVER_LENGTH: &str = "over_length";
    /// Held out for evaluation by eval_fraction.
    pub const HELD_OUT: &str = "held_out_for_evaluation";
    /// Not in the sample that max_train_examples or max_eval_examples asks for.
    pub const NOT_SAMPLED: &str = "not_sampled";
    /// Says the same as an earlier row of its split, and was left out since that was asked for.
    pub const DUPLICATE_DROPPED: &str = "duplicate_dropped";
    /// Says the same as an earlier row of its split; takes part.
    pub const DUPLICATE: &str = "duplicate";
    /// An evaluation row that says the same as a training row; takes part.
    pub const IN_TRAINING_ROWS: &str = "in_training_rows";
    /// An evaluation row that says nearly the same as a training row; takes part.
    pub const LIKE_TRAINING_ROW: &str = "like_training_row";
    /// Trained on, but no token that ends an answer is; takes part.
    pub const END_NOT_TRAINED: &str = "end_token_not_trained";

    /// Whether rows of this fate take no part. The others are examples all the same, whole or changed: each row that was
    /// read either takes part or is counted under exactly one reason that removes it.
    pub fn removes(reason: &str) -> bool {
        let stays =
            [OVER_LENGTH_TRUNCATED, OVER_LENGTH_SPLIT, DUPLICATE, IN_TRAINING_ROWS, LIKE_TRAINING_ROW, END_NOT_TRAINED];
        !stays.contains(&reason)
    }
}

/// What happens to long training rows.
#[derive(Debug, Clone)]
pub struct LengthPolicy {
    /// Longest example in tokens.
    pub max_length: usize,
    /// What happens to a longer one.
    pub over_length: OverLength,
    /// Tokens that end a text; a cut row keeps the one it ends with.
    pub end_ids: Vec<u32>,
}

/// How far from its end a row's end token may stand and still be its end: templates write a line break behind it.
pub(crate) const END_WITHIN: usize = 4;

impl LengthPolicy {
    /// Applies the policy to a training row and puts what remains into `admitted`.
    pub fn admit(&self, example: Example, tally: &mut Tally, admitted: &mut Vec<Example>) {
        if example.len() <= self.max_length {
            return keep_if_trainable(example, tally, admitted);
        }
        let note = format!("{} tokens; max_length is {}", example.len(), self.max_length);
        match self.over_length {
            OverLength::Drop => tally.count(reason::OVER_LENGTH_DROPPED, &example, note),
            OverLength::Fail => tally.count(reason::OVER_LENGTH, &example, note),
            OverLength::Split if !example.is_text => {
                tally.count(reason::OVER_LENGTH_DROPPED, &example, note + "; only text rows are split");
            }
            OverLength::Split => {
                tally.count(reason::OVER_LENGTH_SPLIT, &example, note);
                for part in self.split(&example) {
                    keep_if_trainable(part, tally, admitted);
                }
            }
            OverLength::Truncate => {
                tally.count(reason::OVER_LENGTH_TRUNCATED, &example, note);
                let documents = example.documents.iter().map(|document| self.truncate(document)).collect();
                keep_if_trainable(Example { documents, ..example }, tally, admitted);
            }
        }
    }

    /// Cuts, but keeps the end token with what follows it: a model trained on rows without ends never stops.
    fn truncate(&self, document: &Document) -> Document {
        let len = document.len();
        if len <= self.max_length {
            return document.clone();
        }
        let last_few = len.saturating_sub(END_WITHIN)..len;
        let end = last_few.rev().find(|&index| self.end_ids.contains(&document.input_ids[index])).unwrap_or(len);
        let tail = (len - end).min(self.max_length - 1);
        let head = self.max_length - tail;
        let mut input_ids = document.input_ids[..head].to_vec();
        let mut labels = document.labels[..head].to_vec();
        // The last token of the head now precedes the tail, or nothing.
        labels[head - 1] = if tail > 0 { document.labels[len - tail - 1] } else { crate::tokenize::IGNORE_INDEX };
        input_ids.extend_from_slice(&document.input_ids[len - tail..]);
        labels.extend_from_slice(&document.labels[len - tail..]);
        Document { input_ids, labels }
    }

    /// Parts that together keep every token and every target: labels are shifted already, so the last position of a part
    /// still has the first token of the next as its target.
    fn split(&self, example: &Example) -> Vec<Example> {
        let documents = example.documents.iter().flat_map(|document| {
            document.input_ids.chunks(self.max_length).zip(document.labels.chunks(self.max_length))
        });
        documents
            .map(|(input_ids, labels)| Document { input_ids: input_ids.to_vec(), labels: labels.to_vec() })
            // A single token at the end was the last target of the part before; alone it teaches nothing.
            .filter(|part| part.len() > 1 || part.num_targets() > 0)
            .map(|part| Example {
                documents: vec![part],
                object: example.object.clone(),
                row: example.row,
                is_text: example.is_text,
            })
            .collect()
    }
}

/// Admits an example of any length if a token of each document is a target, and if the answers of a pair differ.
pub fn keep_if_trainable(example: Example, tally: &mut Tally, admitted: &mut Vec<Example>) {
    if let [chosen, rejected] = &example.documents[..]
        && chosen == rejected
    {
        return tally.count(reason::IDENTICAL_ANSWERS, &example, "chosen and rejected are the same");
    }
    if example.documents.iter().all(|document| document.num_targets() > 0) {
        admitted.push(example);
        return;
    }
    let note = match example.len() {
        0 => "the row is empty".to_string(),
        len => format!("none of its {len} tokens is trained on"),
    };
    tally.count(reason::NO_TRAINABLE_TOKEN, &example, note);
}

/// Admits an example of any length, though nothing of it is trained on.
pub fn keep(example: Example, _: &mut Tally, admitted: &mut Vec<Example>) {
    admitted.push(example);
}

/// Counts what happened to the rows of a split.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    reasons: BTreeMap<&'static str, ReasonCount>,
    buckets: BTreeMap<u64, u64>,
    /// Rows read.
    pub rows_read: u64,
    /// Length of the longest row, before the policy.
    pub longest_tokens: u64,
}

impl Tally {
    /// Counts the length of a row, before the policy.
    pub fn measure(&mut self, example: &Example) {
        let len = example.len() as u64;
        self.longest_tokens = self.longest_tokens.max(len);
        *self.buckets.entry(bucket(len)).or_default() += 1;
    }

    /// Counts a row under a reason.
    pub fn count(&mut self, reason: &'static str, example: &Example, note: impl Into<String>) {
        self.note(reason, RowNote { object: example.object.to_string(), row: example.row, note: note.into() });
    }

    /// Counts a remark under a reason.
    pub fn note(&mut self, reason: &'static str, note: RowNote) {
        let entry = self
            .reasons
            .entry(reason)
            .or_insert_with(|| ReasonCount { reason: reason.to_string(), ..ReasonCount::default() });
        entry.count += 1;
        if entry.rows.len() < MAX_LISTED {
            entry.rows.push(note);
        }
    }

    /// What was counted under a reason.
    pub fn reason(&self, reason: &str) -> Option<&ReasonCount> {
        self.reasons.get(reason)
    }

    /// The report on a split whose examples are these.
    pub fn report(&self, split: &str, examples: &Examples) -> DatasetReport {
        DatasetReport {
            split: split.to_string(),
            rows_read: self.rows_read,
            examples: examples.len() as u64,
            tokens: examples.num_tokens(),
            trained_tokens: examples.num_targets(),
            reasons: self.reasons.values().cloned().collect(),
            length_histogram: self
                .buckets
                .iter()
                .map(|(&up_to_tokens, &rows)| LengthBucket { up_to_tokens, rows })
                .collect(),
            longest_tokens: self.longest_tokens,
            sources: Vec::new(),
        }
    }
}

/// Upper end of a length's bucket: 16, 32, 48, 64, 96, 128, 192, 256, … so that two buckets halve each doubling.
pub fn bucket(len: u64) -> u64 {
    let power = len.max(16).next_power_of_two();
    if len > 16 && len <= power / 4 * 3 { power / 4 * 3 } else { power }
}

#[cfg(test)]
mod tests;

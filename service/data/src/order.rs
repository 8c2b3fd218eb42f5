//! Which row comes when: seed and epoch in, an order of the examples out; and which rows are held out or sampled.
//!
//! An order is a function of seed and epoch alone, on every machine: Fisher and Yates' shuffle over ChaCha12 with
//! unbiased draws, written here because a library may change how it draws. What is held out or sampled depends on the
//! content of each row alone, so that adding rows never moves another.

use hone_job::spec::Order;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::example::columns;
use crate::mix::Mixture;

/// Where a run stands in its data: the next example is number `position` of the order of `epoch`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Pass over the data, from 0.
    pub epoch: u64,
    /// Examples of this pass that were taken.
    pub position: u64,
}

/// Hands out the examples of one optimizer step after the other, without end.
#[derive(Debug, Clone)]
pub struct Sequence {
    order: Order,
    seed: u64,
    examples: Examples,
    cursor: Cursor,
    permutation: Vec<u32>,
}

/// What an epoch is made of.
#[derive(Debug, Clone)]
enum Examples {
    /// Every example once, by their number.
    All(usize),
    /// What a mixture takes of each source.
    Mixed(Mixture),
}

impl Examples {
    fn order(&self, order: Order, seed: u64, epoch: u64) -> Vec<u32> {
        match self {
            Examples::All(num_examples) => permutation(order, seed, epoch, *num_examples),
            Examples::Mixed(mixture) => mixture.order(order, seed, epoch),
        }
    }
}

impl Sequence {
    /// Starts, or resumes, at a cursor.
    ///
    /// # Panics
    /// When there are no examples, or more than `u32::MAX`.
    pub fn new(order: Order, seed: u64, num_examples: usize, cursor: Cursor) -> Self {
        Self::over(order, seed, Examples::All(num_examples), cursor)
    }

    /// The same over sources that are mixed by weight.
    pub fn mixed(order: Order, seed: u64, mixture: Mixture, cursor: Cursor) -> Self {
        Self::over(order, seed, Examples::Mixed(mixture), cursor)
    }

    fn over(order: Order, seed: u64, examples: Examples, cursor: Cursor) -> Self {
        let permutation = examples.order(order, seed, cursor.epoch);
        assert!(!permutation.is_empty(), "there must be examples");
        Self { order, seed, examples, cursor, permutation }
    }

    /// Where the next step begins; save it with a checkpoint.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Examples of an epoch; every epoch has as many.
    pub fn epoch_len(&self) -> usize {
        self.permutation.len()
    }

    /// Indices of the examples of the next step. The last step of an epoch may be short: a step never mixes epochs, so
    /// that every epoch sees what it is made of once.
    pub fn next_step(&mut self, examples_per_step: usize) -> Vec<usize> {
        if self.cursor.position >= self.epoch_len() as u64 {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, position: 0 };
            self.permutation = self.examples.order(self.order, self.seed, self.cursor.epoch);
        }
        let start = self.cursor.position as usize;
        let end = (start + examples_per_step.max(1)).min(self.epoch_len());
        self.cursor.position = end as u64;
        self.permutation[start..end].iter().map(|&index| index as usize).collect()
    }
}

/// The order of an epoch.
///
/// # Panics
/// When there are more than `u32::MAX` examples.
pub fn permutation(order: Order, seed: u64, epoch: u64, num_examples: usize) -> Vec<u32> {
    source_permutation(order, seed, 0, epoch, num_examples)
}

/// The order of a pass over one source of several; the sources are numbered from 1, so that none has the order that all
/// examples would have.
pub(crate) fn source_permutation(order: Order, seed: u64, source: u64, pass: u64, num_examples: usize) -> Vec<u32> {
    let count = u32::try_from(num_examples).expect("examples of a run are counted in 32 bits");
    let mut indices: Vec<u32> = (0..count).collect();
    if order == Order::Shuffled {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&pass.to_le_bytes());
        key[16..24].copy_from_slice(&source.to_le_bytes());
        let mut rng = ChaCha12Rng::from_seed(key);
        for last in (1..count).rev() {
            indices.swap(last as usize, below(&mut rng, last + 1) as usize);
        }
    }
    indices
}

/// A uniform number below `bound`: draws that would favour small numbers are thrown away (Lemire, arXiv 1805.10941).
fn below(rng: &mut impl RngCore, bound: u32) -> u32 {
    let threshold = bound.wrapping_neg() % bound;
    loop {
        let product = u64::from(rng.next_u32()) * u64::from(bound);
        if product as u32 >= threshold {
            return (product >> 32) as u32;
        }
    }
}

/// SHA-256 of what a row says: its known columns as JSON with sorted keys. Rows that say the same hash alike, so that a
/// copy of a training row is never held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowHash([u8; 32]);

impl RowHash {
    /// Hashes a row.
    pub fn of(row: &Value) -> Self {
        let mut hash = Sha256::new();
        for column in columns(row) {
            if let Some(value) = row.get(column).filter(|value| !value.is_null()) {
                hash.update(column.as_bytes());
                hash.update(b"=");
                canonical(value, &mut hash);
                hash.update(b"\n");
            }
        }
        Self(hash.finalize().into())
    }

    /// Whether the row is held out when this share of the rows is.
    pub fn is_held_out(&self, fraction: f64) -> bool {
        (self.word(0) as f64) < fraction * (u64::MAX as f64)
    }

    /// Rank in a uniform sample: the smallest are taken. Apart from what [`Self::is_held_out`] looks at, since rows that
    /// are held out have small numbers there.
    pub fn sample_rank(&self) -> u64 {
        self.word(1)
    }

    fn word(&self, index: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[index * 8..index * 8 + 8]);
        u64::from_be_bytes(bytes)
    }
}

fn canonical(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(key, _)| *key);
            hash.update(b"{");
            for (key, value) in fields {
                canonical(&Value::String(key.clone()), hash);
                hash.update(b":");
                canonical(value, hash);
                hash.update(b",");
            }
            hash.update(b"}");
        }
        Value::Array(items) => {
            hash.update(b"[");
            for item in items {
                canonical(item, hash);
                hash.update(b",");
            }
            hash.update(b"]");
        }
        leaf => hash.update(leaf.to_string().as_bytes()),
    }
}

/// Which of the items are in a uniform sample of at most `count`: those of the smallest rank, equal ones by position.
/// The answer is in the items' own order.
pub fn sample(ranks: &[u64], count: usize) -> Vec<bool> {
    let mut indices: Vec<usize> = (0..ranks.len()).collect();
    indices.sort_by_key(|&index| (ranks[index], index));
    let mut taken = vec![false; ranks.len()];
    for &index in indices.iter().take(count) {
        taken[index] = true;
    }
    taken
}

#[cfg(test)]
mod tests;

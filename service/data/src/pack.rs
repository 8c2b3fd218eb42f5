//! Packing: the examples of one optimizer step in, flat micro-batches without padding out.
//!
//! How examples are cut into micro-batches never changes the result, since the loss of a step is a sum over its targets
//! divided by their number; it decides speed and memory alone. Documents in a micro-batch do not see each other:
//! `seq_lens` says where each ends and `position_ids` start again at 0.

use crate::tokenize::{Example, IGNORE_INDEX};

/// Documents that go through the model at once, end to end in flat vectors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Tokens of all documents. `[T]`
    pub input_ids: Vec<i64>,
    /// Position of each token in its document, from 0. `[T]`
    pub position_ids: Vec<i64>,
    /// Tokens of each document, in order; they add up to T.
    pub seq_lens: Vec<i64>,
    /// Token to predict at each position, or [`IGNORE_INDEX`]. `[T]`
    pub targets: Vec<i64>,
    /// Positions with a target.
    pub num_targets: u64,
    /// Which of the packed examples the documents are, in order.
    pub examples: Vec<usize>,
}

impl MicroBatch {
    /// Tokens in all.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    fn push(&mut self, index: usize, example: &Example) {
        self.input_ids.extend(example.input_ids.iter().map(|&id| i64::from(id)));
        self.position_ids.extend(0..example.len() as i64);
        self.seq_lens.push(example.len() as i64);
        self.targets.extend_from_slice(&example.labels);
        self.num_targets += example.labels.iter().filter(|label| **label != IGNORE_INDEX).count() as u64;
        self.examples.push(index);
    }
}

/// Packs examples into micro-batches of at most `max_tokens` tokens; a longer example goes alone. Empty examples are
/// left out.
///
/// First fit over falling lengths: each example goes into the first micro-batch that has room. Within one, documents
/// fall in length, so equal ones are neighbours, which attention can take together.
pub fn pack(examples: &[&Example], max_tokens: usize) -> Vec<MicroBatch> {
    let mut by_length: Vec<usize> = (0..examples.len()).filter(|&index| !examples[index].is_empty()).collect();
    by_length.sort_by_key(|&index| (std::cmp::Reverse(examples[index].len()), index));
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for index in by_length {
        let len = examples[index].len();
        match bins.iter_mut().find(|(used, _)| used + len <= max_tokens) {
            Some((used, bin)) => {
                *used += len;
                bin.push(index);
            }
            None => bins.push((len, vec![index])),
        }
    }
    bins.into_iter()
        .map(|(_, bin)| {
            let mut batch = MicroBatch::default();
            for index in bin {
                batch.push(index, examples[index]);
            }
            batch
        })
        .collect()
}

#[cfg(test)]
mod tests;

//! Packing: the examples of one optimizer step in, flat micro-batches without padding out.
//!
//! How examples are cut into micro-batches never changes the result, since the loss of a step is a sum over its targets
//! divided by their number; it decides speed and memory alone. Documents in a micro-batch do not see each other:
//! `segments` say where each begins and `position_ids` start again at 0.
//!
//! The two documents of a pair begin with the same prompt. It goes through the model once: a segment of its own, which the
//! answers' segments name as their prefix. Its last token is left to the answers, since it predicts the first token of both.

use crate::tokenize::{Document, Example, IGNORE_INDEX};

/// Shortest beginning that is worth a segment of its own, in tokens.
const MIN_PREFIX: usize = 8;

/// Documents that go through the model at once, end to end in flat vectors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Tokens of all documents. `[T]`
    pub input_ids: Vec<i64>,
    /// Position of each token in its document, from 0. `[T]`
    pub position_ids: Vec<i64>,
    /// Stretches of tokens, in order; their lengths add up to T.
    pub segments: Vec<Segment>,
    /// Token to predict at each position, or [`IGNORE_INDEX`]. `[T]`
    pub targets: Vec<i64>,
    /// Positions with a target.
    pub num_targets: u64,
    /// For each document, in order, the packed example that it belongs to. The documents of an example are neighbours.
    pub examples: Vec<usize>,
}

/// Tokens that see each other, the later ones the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Tokens.
    pub len: i64,
    /// Place of an earlier segment whose tokens come before these in the document.
    pub prefix: Option<usize>,
    /// Document that its targets belong to.
    pub document: usize,
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

    fn push(&mut self, index: usize, laid_out: &LaidOut<'_>) {
        let prefix = (laid_out.shared > 0).then(|| {
            let document = laid_out.documents[0].slice(0..laid_out.shared);
            self.push_segment(document, 0, None, self.examples.len())
        });
        for document in laid_out.documents {
            self.push_segment(
                document.slice(laid_out.shared..document.len()),
                laid_out.shared,
                prefix,
                self.examples.len(),
            );
            self.num_targets += document.num_targets();
            self.examples.push(index);
        }
    }

    fn push_segment(
        &mut self,
        (input_ids, labels): (&[u32], &[i64]),
        first_position: usize,
        prefix: Option<usize>,
        document: usize,
    ) -> usize {
        let len = input_ids.len() as i64;
        self.input_ids.extend(input_ids.iter().map(|&id| i64::from(id)));
        self.position_ids.extend(first_position as i64..first_position as i64 + len);
        self.targets.extend_from_slice(labels);
        self.segments.push(Segment { len, prefix, document });
        self.segments.len() - 1
    }
}

impl Document {
    fn slice(&self, range: std::ops::Range<usize>) -> (&[u32], &[i64]) {
        (&self.input_ids[range.clone()], &self.labels[range])
    }
}

/// Whether the prompt of a pair goes through the model once or with each of its answers. The result is the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Prefixes {
    /// Once. The default.
    #[default]
    Shared,
    /// With each answer.
    Repeated,
}

/// An example and how many of its first tokens its documents share.
struct LaidOut<'a> {
    documents: &'a [Document],
    shared: usize,
}

impl<'a> LaidOut<'a> {
    fn of(example: &'a Example, prefixes: Prefixes) -> Self {
        let documents = &example.documents[..];
        let shared = match documents {
            [first, second] if prefixes == Prefixes::Shared => shared_prefix(first, second),
            _ => 0,
        };
        Self { documents, shared: if shared < MIN_PREFIX { 0 } else { shared } }
    }

    fn num_tokens(&self) -> usize {
        let all: usize = self.documents.iter().map(Document::len).sum();
        all - self.shared * self.documents.len().saturating_sub(1)
    }
}

/// Tokens that two documents begin with and that have no target in either.
fn shared_prefix(first: &Document, second: &Document) -> usize {
    let ids = first.input_ids.iter().zip(&second.input_ids);
    let labels = first.labels.iter().zip(&second.labels);
    let is_shared = |(ids, labels): &((&u32, &u32), (&i64, &i64))| {
        ids.0 == ids.1 && [labels.0, labels.1] == [&IGNORE_INDEX, &IGNORE_INDEX]
    };
    ids.zip(labels).take_while(is_shared).count()
}

/// Packs examples into micro-batches of at most `max_tokens` tokens; a longer example goes alone, and the documents of an
/// example stay together. Empty examples are left out.
///
/// First fit over falling lengths: each example goes into the first micro-batch that has room. Within one, documents
/// fall in length, so equal ones are neighbours, which attention can take together.
pub fn pack(examples: &[&Example], max_tokens: usize, prefixes: Prefixes) -> Vec<MicroBatch> {
    let laid_out: Vec<LaidOut<'_>> = examples.iter().map(|example| LaidOut::of(example, prefixes)).collect();
    let mut by_length: Vec<usize> = (0..examples.len()).filter(|&index| !examples[index].is_empty()).collect();
    by_length.sort_by_key(|&index| (std::cmp::Reverse(laid_out[index].num_tokens()), index));
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for index in by_length {
        let len = laid_out[index].num_tokens();
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
                batch.push(index, &laid_out[index]);
            }
            batch
        })
        .collect()
}

#[cfg(test)]
mod tests;

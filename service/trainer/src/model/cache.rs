//! Keys and values of the tokens that a generated text has so far.

use std::borrow::Cow;
use std::ops::Range;

use tch::{Kind, Tensor};

use super::decoder::Decoder;

/// Keys and values of one text, in every layer, for up to a fixed number of tokens.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<LayerCache>,
    /// The tokens held.
    pub(super) input_ids: Vec<i64>,
    pub(super) max_tokens: i64,
}

/// `[max_tokens, K, D]` each.
#[derive(Debug)]
pub(super) struct LayerCache {
    k: Tensor,
    v: Tensor,
}

/// A text that goes on: what goes through the model, and what is kept of what stands before it.
pub(super) struct Continuation<'a> {
    pub(super) input_ids: Cow<'a, [i64]>,
    pub(super) cache: &'a mut Cache,
}

impl Continuation<'_> {
    /// Where in the text the tokens stand.
    pub(super) fn places(&self) -> Range<i64> {
        let past = self.cache.len();
        past..past + self.input_ids.len() as i64
    }
}

impl Cache {
    /// An empty cache for texts of up to `max_tokens` tokens.
    pub fn new(model: &Decoder, max_tokens: i64) -> Cache {
        let config = model.config();
        let size = [max_tokens, config.num_key_value_heads, config.head_dim];
        let zeros = |kind: Kind| Tensor::zeros(size, (kind, model.device()));
        let layer = |_| LayerCache { k: zeros(model.kind()), v: zeros(model.kind()) };
        Cache { layers: (0..config.num_hidden_layers).map(layer).collect(), input_ids: Vec::new(), max_tokens }
    }

    /// Tokens held.
    pub fn len(&self) -> i64 {
        self.input_ids.len() as i64
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Forgets all tokens but the first `len`, so that another text with the same beginning can follow.
    pub fn truncate(&mut self, len: i64) {
        self.input_ids.truncate(len as usize);
    }
}

impl LayerCache {
    /// Writes keys and values of new tokens after `past` others; gives those of all. `[past + T, K, D]`
    pub(super) fn extend(&mut self, k: &Tensor, v: &Tensor, past: i64) -> (Tensor, Tensor) {
        let tokens = k.size()[0];
        self.k.narrow(0, past, tokens).copy_(k);
        self.v.narrow(0, past, tokens).copy_(v);
        (self.k.narrow(0, 0, past + tokens), self.v.narrow(0, 0, past + tokens))
    }
}

//! Texts that a model writes: prompts in, tokens out, several texts in one pass.
//!
//! A text comes and goes when it will; at each step all that are under way get their next token. Those with the same adapter
//! go through the model together.

use std::borrow::Borrow;

use hone_data::tokenizer::Tokenizer;
use hone_job::spec::Sampling;
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::error::Error;
use crate::model::{Adapter, Cache, Decoder};

mod answers;
mod prompt;
mod sampler;
mod serve;
mod writer;
mod written;

pub use answers::{Answer, AnswerFile, answer_all, greedy_answers};
pub use hone_job::ask::Prompt;
pub use prompt::{Prompter, read_prompts};
use sampler::Sampler;
pub use serve::serve;
pub use writer::{Writer, WrittenAnswer};
use written::Written;

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The model ended it, or it came to a text that ends it.
    Stop,
    /// It is as long as it may be, or as the model's texts can be.
    Length,
}

/// What a text begins with, and how it goes on.
#[derive(Debug)]
pub struct Beginning<'a, A> {
    /// Tokens of the prompt.
    pub prompt: &'a [u32],
    /// The adapter that takes part.
    pub adapter: Option<A>,
    /// How it goes on.
    pub sampling: &'a Sampling,
    /// Its number among those with the same seed.
    pub number: u64,
}

/// What a step added to a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The text's key.
    pub key: u64,
    /// What is new of it, without special tokens; empty while a character or a text that may end it is not whole.
    pub text: String,
    /// Of a text that ended, why, and all of its tokens, without the one that ends it.
    pub end: Option<(End, Vec<u32>)>,
}

/// Writes texts with one model. `A` is a reference to an adapter, of whichever kind.
#[derive(Debug)]
pub struct Generator<'m, A> {
    model: &'m Decoder,
    tokenizer: &'m Tokenizer,
    stop_ids: Vec<u32>,
    texts: Vec<Text<A>>,
}

#[derive(Debug)]
struct Text<A> {
    key: u64,
    adapter: Option<A>,
    cache: Cache,
    /// Tokens that the model has not seen.
    next: Vec<i64>,
    sampler: Sampler,
    written: Written,
    max_new_tokens: usize,
}

impl<'m, A: Borrow<Adapter>> Generator<'m, A> {
    /// A model that writes nothing yet.
    pub fn new(model: &'m Decoder, tokenizer: &'m Tokenizer) -> Self {
        Self { model, tokenizer, stop_ids: stop_ids(tokenizer, model), texts: Vec::new() }
    }

    /// Texts under way.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether no text is under way.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Begins a text, which its pieces call `key`.
    pub fn begin(&mut self, key: u64, beginning: Beginning<'_, A>) -> Result<(), Error> {
        let Beginning { prompt, adapter, sampling, number } = beginning;
        let longest = usize::try_from(self.model.config().max_position_embeddings).unwrap_or(usize::MAX);
        let room = longest.saturating_sub(prompt.len());
        let unusable = |what: String| Error::Input { place: "prompt".into(), what };
        match prompt.len() {
            0 => return Err(unusable("it has no tokens".into())),
            tokens if room == 0 => {
                return Err(unusable(format!(
                    "it has {tokens} tokens; the model was made for texts of up to {longest}"
                )));
            }
            _ => {}
        }
        let max_new_tokens = room.min(sampling.max_new_tokens as usize);
        self.texts.push(Text {
            key,
            adapter,
            cache: Cache::new(self.model, (prompt.len() + max_new_tokens) as i64),
            next: prompt.iter().map(|id| i64::from(*id)).collect(),
            sampler: Sampler::new(sampling, number, prompt),
            written: Written::new(&sampling.stop),
            max_new_tokens,
        });
        Ok(())
    }

    /// Forgets a text that nobody wants any more.
    pub fn abandon(&mut self, key: u64) {
        self.texts.retain(|text| text.key != key);
    }

    /// Adds a token to each text under way; those that end are gone then. The pieces are in the order of their keys.
    pub fn step(&mut self) -> Result<Vec<Piece>, Error> {
        crate::pulse::beat();
        let mut pieces = Vec::with_capacity(self.texts.len());
        for mut together in by_adapter(&mut self.texts) {
            let logits = next_logits(self.model, &mut together);
            for (text, mut logits) in together.into_iter().zip(logits) {
                pieces.push(text.go_on(&mut logits, &self.stop_ids, self.tokenizer)?);
            }
        }
        self.texts.retain(|text| pieces.iter().all(|piece| piece.key != text.key || piece.end.is_none()));
        pieces.sort_by_key(|piece| piece.key);
        Ok(pieces)
    }
}

/// The texts that go through the model together.
fn by_adapter<A: Borrow<Adapter>>(texts: &mut [Text<A>]) -> Vec<Vec<&mut Text<A>>> {
    let mut groups: Vec<Vec<&mut Text<A>>> = Vec::new();
    for text in texts {
        match groups.iter_mut().find(|group| group[0].has_adapter_of(text)) {
            Some(group) => group.push(text),
            None => groups.push(vec![text]),
        }
    }
    groups
}

impl<A: Borrow<Adapter>> Text<A> {
    fn has_adapter_of(&self, other: &Text<A>) -> bool {
        match (&self.adapter, &other.adapter) {
            (None, None) => true,
            (Some(one), Some(other)) => std::ptr::eq::<Adapter>(one.borrow(), other.borrow()),
            _ => false,
        }
    }

    /// Takes the next token.
    fn go_on(&mut self, logits: &mut [f32], stop_ids: &[u32], tokenizer: &Tokenizer) -> Result<Piece, Error> {
        let token = self.sampler.choose(logits);
        self.next = vec![i64::from(token)];
        let (mut text, mut end) = (String::new(), None);
        if stop_ids.contains(&token) {
            end = Some(End::Stop);
        } else {
            let (certain, is_over) = self.written.add(token, tokenizer)?;
            text = certain;
            end = match is_over {
                true => return Ok(self.piece(text, Some(End::Stop))),
                false if self.written.tokens().len() >= self.max_new_tokens => Some(End::Length),
                false => end,
            };
        }
        if end.is_some() {
            text.push_str(&self.written.end(tokenizer)?);
        }
        Ok(self.piece(text, end))
    }

    fn piece(&self, text: String, end: Option<End>) -> Piece {
        Piece { key: self.key, text, end: end.map(|end| (end, self.written.tokens().to_vec())) }
    }
}

/// Likelihoods of the token after each text, as logits in float32.
fn next_logits<A: Borrow<Adapter>>(model: &Decoder, texts: &mut [&mut Text<A>]) -> Vec<Vec<f32>> {
    let ends: Vec<i64> = texts
        .iter()
        .scan(0, |end, text| {
            *end += text.next.len() as i64;
            Some(*end - 1)
        })
        .collect();
    // The adapter is lent while the caches are changed.
    let (mut lent, mut together) = (None, Vec::with_capacity(texts.len()));
    for text in texts {
        let Text { adapter, next, cache, .. } = &mut **text;
        lent = lent.or(adapter.as_ref().map(Borrow::borrow));
        together.push((&**next, cache));
    }
    let hidden = model.forward_cached(&mut together, lent);
    let last = hidden.index_select(0, &tch::Tensor::from_slice(&ends).to_device(hidden.device()));
    let logits = tch::no_grad(|| model.logits(&last, lent).to_kind(Kind::Float).to_device(tch::Device::Cpu));
    let row = |row: i64| Vec::<f32>::try_from(logits.get(row)).expect("float32 on the host");
    (0..ends.len() as i64).map(row).collect()
}

/// Tokens that end a text: what the tokenizer and the model's configuration say.
fn stop_ids(tokenizer: &Tokenizer, model: &Decoder) -> Vec<u32> {
    let of_model = model.config().eos_token_ids.iter().filter_map(|id| u32::try_from(*id).ok());
    tokenizer.stop_ids().iter().copied().chain(of_model).collect()
}

#[cfg(test)]
mod tests;

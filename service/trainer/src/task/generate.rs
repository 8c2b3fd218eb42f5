//! Greedy answers: prompts in, the likeliest token after another out, until a stop token or a given number of tokens.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use hone_data::template::{ChatContext, ChatTemplate};
use hone_data::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device::Compute;
use crate::error::Error;
use crate::model::{Adapter, Cache, Decoder};
use crate::peft;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// A conversation whose next turn is the assistant's; the model's chat template turns it into text.
    Conversation {
        /// Messages with `role` and `content`.
        messages: Vec<Value>,
    },
    /// A text to go on with, as it is.
    Text {
        /// The text.
        prompt: String,
    },
}

impl Prompt {
    /// The question as a person reads it: the text, or the content of the last message.
    pub fn question(&self) -> String {
        match self {
            Prompt::Text { prompt } => prompt.clone(),
            Prompt::Conversation { messages } => match messages.last().and_then(|message| message.get("content")) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            },
        }
    }
}

/// A prompt and what the model says to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The question as a person reads it.
    pub prompt: String,
    /// The answer, without special tokens.
    pub answer: String,
    /// The answer's token ids, without the stop token.
    pub tokens: Vec<u32>,
}

/// Reads a JSON list of prompts.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>, Error> {
    let text = std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    let expected = "expected a JSON list of {\"messages\": [...]} or {\"prompt\": \"...\"}";
    let wrong = |place: String, what: String| Error::Input { place, what };
    let place = path.display().to_string();
    let entries: Vec<Value> =
        serde_json::from_slice(&text).map_err(|error| wrong(place.clone(), format!("{expected}: {error}")))?;
    let parse = |(number, entry): (usize, Value)| {
        serde_json::from_value(entry).map_err(|_| wrong(format!("{place}, entry {number}"), expected.to_string()))
    };
    entries.into_iter().enumerate().map(parse).collect()
}

/// A model that answers.
#[derive(Debug)]
pub struct Writer {
    model: Decoder,
    adapter: Option<Adapter>,
    tokenizer: Tokenizer,
    /// Of models that have one.
    template: Option<ChatTemplate>,
    stop_ids: Vec<u32>,
}

impl Writer {
    /// Loads a model with its tokenizer, and an adapter where one is given.
    pub fn load(path: &Path, adapter: Option<&Path>, compute: Compute) -> Result<Writer, Error> {
        let tokenizer = Tokenizer::open(path)?;
        let model = Decoder::load(path, compute.kind, compute.device, &mut |_, _| {})?;
        tokenizer.check_fits(model.config().vocab_size as u64)?;
        let adapter = adapter.map(|folder| peft::load_frozen(folder, &model)).transpose()?;
        let template = tokenizer.chat_template().map(|source| ChatTemplate::new(source, tokenizer.special_tokens()));
        let stop_ids = stop_ids(&tokenizer, &model);
        Ok(Writer { template: template.transpose()?, model, adapter, tokenizer, stop_ids })
    }

    /// Answers every prompt, each as a line of JSON in `out` once it is there.
    pub fn answer_all(&self, prompts: &[Prompt], max_new_tokens: usize, out: &Path) -> Result<(), Error> {
        let failed = |source| Error::Io { path: out.to_path_buf(), source };
        let mut lines = BufWriter::new(File::create(out).map_err(failed)?);
        for (number, prompt) in prompts.iter().enumerate() {
            let answer = self.answer(prompt, max_new_tokens).map_err(|error| error.of_prompt(number))?;
            serde_json::to_writer(&mut lines, &answer).map_err(|error| failed(error.into()))?;
            lines.write_all(b"\n").and_then(|()| lines.flush()).map_err(failed)?;
        }
        Ok(())
    }

    /// Answers one prompt with at most `max_new_tokens` tokens.
    pub fn answer(&self, prompt: &Prompt, max_new_tokens: usize) -> Result<Answer, Error> {
        let ids = self.encode(prompt)?;
        let tokens = greedy(&self.model, self.adapter.as_ref(), &ids, max_new_tokens, &self.stop_ids)?;
        Ok(Answer { prompt: prompt.question(), answer: self.tokenizer.decode(&tokens, true)?, tokens })
    }

    fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        match prompt {
            Prompt::Text { prompt } => Ok(self.tokenizer.encode(prompt, true)?),
            Prompt::Conversation { messages } => {
                let template = self.template.as_ref().ok_or_else(|| Error::Input {
                    place: "messages".into(),
                    what: "the model brings no chat template; give {\"prompt\": \"...\"}".into(),
                })?;
                let text = template.render(messages, &ChatContext::default(), true)?.text;
                // The template writes the special tokens itself.
                Ok(self.tokenizer.encode(&text, false)?)
            }
        }
    }
}

impl Error {
    /// Says which prompt an error is about.
    fn of_prompt(self, number: usize) -> Error {
        Error::Input { place: format!("prompt {number}"), what: self.to_string() }
    }
}

/// Tokens that end an answer: what the tokenizer and the model's configuration say.
pub(super) fn stop_ids(tokenizer: &Tokenizer, model: &Decoder) -> Vec<u32> {
    let of_model = model.config().eos_token_ids.iter().filter_map(|id| u32::try_from(*id).ok());
    tokenizer.stop_ids().iter().copied().chain(of_model).collect()
}

/// The likeliest token after `prompt_ids`, then the likeliest after that, until one of `stop_ids` (which is left out), or
/// `max_new_tokens`, or the longest text that the model was made for.
///
/// Each token goes through the model once; its keys and values stay in a cache.
pub fn greedy(
    model: &Decoder,
    adapter: Option<&Adapter>,
    prompt_ids: &[u32],
    max_new_tokens: usize,
    stop_ids: &[u32],
) -> Result<Vec<u32>, Error> {
    let prompt: Vec<i64> = prompt_ids.iter().map(|id| i64::from(*id)).collect();
    let longest = usize::try_from(model.config().max_position_embeddings).unwrap_or(usize::MAX);
    let room = longest.saturating_sub(prompt.len());
    let unusable = |what: String| Error::Input { place: "prompt".into(), what };
    match prompt.len() {
        0 => return Err(unusable("it has no tokens".into())),
        tokens if room == 0 => {
            return Err(unusable(format!("it has {tokens} tokens; the model was made for texts of up to {longest}")));
        }
        _ => {}
    }
    let most = max_new_tokens.min(room);
    let mut cache = Cache::new(model, (prompt.len() + most) as i64);
    let mut tokens = Vec::new();
    let mut next = prompt;
    while tokens.len() < most {
        let hidden = model.forward_cached(&next, &mut cache, adapter);
        let last = hidden.narrow(0, next.len() as i64 - 1, 1);
        let token = tch::no_grad(|| model.logits(&last, adapter).argmax(-1, false)).int64_value(&[0]);
        let id = u32::try_from(token).expect("a place in the vocabulary");
        if stop_ids.contains(&id) {
            break;
        }
        tokens.push(id);
        next = vec![token];
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;

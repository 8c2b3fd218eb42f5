//! Where each assistant turn lies in the text of a template without generation tags: a conversation and its text go in, a
//! range of bytes a turn comes out.
//!
//! A turn is what the assistant writes: from behind the text that asks for it (the generation prompt, with its role
//! header) to the end of its end-of-turn token. Most templates render turn by turn: the text that asks for a turn, and the
//! text that ends with it, are beginnings of the whole. Some do not: Qwen3 leaves the thinking of earlier turns out, Mistral
//! moves the system text to the last question, Phi-3 ends every text with another token. There a mark is put into a message,
//! and the turn begins or ends where what follows the mark in the shorter text ends in the whole.

use std::ops::Range;

use serde_json::{Value, json};

use super::{Error, is_assistant};
use crate::template::{ChatContext, ChatTemplate};

/// Put into a message to find it in the text: a noncharacter, which no sound text holds and no template trims.
const MARK: char = '\u{FDD2}';

/// A conversation with its text.
pub(super) struct Turns<'a> {
    pub(super) template: &'a ChatTemplate,
    pub(super) messages: &'a [Value],
    pub(super) context: &'a ChatContext,
    /// All messages rendered.
    pub(super) whole: &'a str,
    /// The token that ends a text; a template may put it behind the last message whatever that is.
    pub(super) eos: &'a str,
}

impl Turns<'_> {
    /// Where every assistant turn lies.
    pub(super) fn spans(&self) -> Result<Vec<Range<usize>>, Error> {
        let turns = (0..self.messages.len()).filter(|&turn| is_assistant(&self.messages[turn]));
        let mut reached = 0;
        let mut span = |turn| {
            let span = self.start(turn)?..self.end(turn)?;
            if span.start < reached || span.end < span.start {
                return Err(not_incremental("start", turn));
            }
            reached = span.end;
            Ok(span)
        };
        turns.map(&mut span).collect()
    }

    /// Where a turn begins, which is where the text that asks for it ends.
    pub(super) fn start(&self, turn: usize) -> Result<usize, Error> {
        let asked = match self.render(&self.messages[..turn], true) {
            Ok(text) => Some(text),
            // Many templates cannot render nothing at all.
            Err(_) if turn == 0 => None,
            Err(error) => return Err(error),
        };
        if let Some(asked) = asked.as_deref().filter(|asked| self.whole.starts_with(*asked)) {
            return Ok(asked.len());
        }
        let found = match turn {
            0 => self.behind_header(),
            _ => self.behind(turn - 1, true).or_else(|| self.before_content(turn, asked.as_deref()?)),
        };
        found.ok_or_else(|| not_incremental("start", turn))
    }

    /// Where a turn ends, its end-of-turn token included.
    pub(super) fn end(&self, turn: usize) -> Result<usize, Error> {
        let answered = self.render(&self.messages[..=turn], false)?;
        if self.whole.starts_with(&answered) {
            return Ok(answered.len());
        }
        if let Some(answered) = self.without_eos(&answered).filter(|answered| self.whole.starts_with(*answered)) {
            return Ok(answered.len());
        }
        self.behind(turn, false).ok_or_else(|| not_incremental("end", turn))
    }

    fn render(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String, Error> {
        Ok(self.template.render(messages, self.context, add_generation_prompt)?.text)
    }

    fn without_eos<'t>(&self, text: &'t str) -> Option<&'t str> {
        text.strip_suffix(self.eos).filter(|_| !self.eos.is_empty())
    }

    /// The text with a message changed, on both sides of the mark. None if the mark is not in it exactly once.
    fn around_mark(&self, turn: usize, message: &Value, len: usize, prompt: bool) -> Option<(String, String)> {
        let mut messages = self.messages[..len].to_vec();
        messages[turn] = message.clone();
        let text = self.render(&messages, prompt).ok()?;
        let (before, after) = text.split_once(MARK)?;
        (!after.contains(MARK)).then(|| (before.to_string(), after.to_string()))
    }

    /// Where a message ends in the whole, with `prompt` the generation prompt behind it too: as far behind the mark as the
    /// text that ends there reaches.
    fn behind(&self, turn: usize, prompt: bool) -> Option<usize> {
        marked_at_end(&self.messages[turn]).into_iter().find_map(|message| {
            let (_, rest) = self.around_mark(turn, &message, self.messages.len(), false)?;
            let (_, ending) = self.around_mark(turn, &message, turn + 1, prompt)?;
            let same = [Some(ending.as_str()), self.without_eos(&ending).filter(|_| !prompt)];
            let ending = same.into_iter().flatten().find(|ending| rest.starts_with(*ending))?;
            // The mark must not have changed what follows it.
            let mark = self.whole.strip_suffix(rest.as_str())?.len();
            Some(mark + ending.len())
        })
    }

    /// Where a turn begins when the generation prompt of the text that asks for it is not in the whole: before its content,
    /// and before what the assistant writes ahead of any content.
    fn before_content(&self, turn: usize, asked: &str) -> Option<usize> {
        let message = marked_alone(&self.messages[turn])?;
        let (before, _) = self.around_mark(turn, &message, self.messages.len(), false)?;
        let (alone, _) = self.around_mark(turn, &message, turn + 1, false)?;
        let lead = alone.strip_prefix(asked)?;
        self.whole.starts_with(&before).then(|| before.strip_suffix(lead).map(str::len))?
    }

    /// Where the first message begins behind its role header, when that message is the assistant's: the header is what the
    /// generation prompt adds to the whole.
    fn behind_header(&self) -> Option<usize> {
        let asking = self.render(self.messages, true).ok()?;
        let header = asking.strip_prefix(self.whole).filter(|header| !header.is_empty())?;
        Some(self.whole.find(header)? + header.len())
    }
}

/// A message with the mark at its end: behind its text or, where the template does not write that, in the name of its last
/// tool call.
fn marked_at_end(message: &Value) -> Vec<Value> {
    let mut marked = Vec::new();
    match &message["content"] {
        Value::String(text) => marked.push(with(message, "/content", json!(format!("{text}{MARK}")))),
        Value::Array(parts) => {
            if let Some((index, text)) =
                parts.iter().enumerate().rev().find_map(|(n, part)| Some((n, part["text"].as_str()?)))
            {
                marked.push(with(message, &format!("/content/{index}/text"), json!(format!("{text}{MARK}"))));
            }
        }
        _ => {}
    }
    if let Some(last) = message["tool_calls"].as_array().and_then(|calls| calls.len().checked_sub(1)) {
        for path in [format!("/tool_calls/{last}/function/name"), format!("/tool_calls/{last}/name")] {
            if let Some(name) = message.pointer(&path).and_then(Value::as_str) {
                marked.push(with(message, &path, json!(format!("{name}{MARK}"))));
            }
        }
    }
    marked
}

/// A message that says the mark and nothing else.
fn marked_alone(message: &Value) -> Option<Value> {
    (message["tool_calls"].is_null()).then(|| json!({"role": message["role"], "content": MARK.to_string()}))
}

fn with(message: &Value, path: &str, value: Value) -> Value {
    let mut message = message.clone();
    if let Some(place) = message.pointer_mut(path) {
        *place = value;
    }
    message
}

fn not_incremental(part: &str, turn: usize) -> Error {
    Error::NotIncremental { turn: format!("the {part} of turn {}", turn + 1) }
}

#[cfg(test)]
mod tests;

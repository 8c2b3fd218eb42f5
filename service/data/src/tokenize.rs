//! Tokens and labels: a row understood goes in, an [`Example`] comes out.
//!
//! The rules are TRL's (SFTTrainer), so that runs compare:
//! - texts and completions get the end token if they do not end with it, and the tokenizer's own special tokens (BOS);
//! - conversations are what the template writes, nothing added;
//! - a prompt ends where the tokens of prompt and whole stop being the same (longest common prefix), since the last
//!   characters of a prompt may share a token with the first of the completion.
//!
//! Labels are shifted here, once: `labels[i]` is the token that follows `input_ids[i]`, so no later step has to know
//! about document borders. The first token of a document is therefore never a target.

use std::ops::Range;
use std::sync::Arc;

use hone_job::spec::LossOn;
use serde_json::Value;

use crate::example::{Content, Wanted};
use crate::template::{self, ChatContext, ChatTemplate};
use crate::tokenizer::{self, Encoded, Tokenizer};

mod choices;
mod preference;
mod prompt;
mod turns;

use turns::Turns;

/// Label of a position that is not trained on.
pub const IGNORE_INDEX: i64 = -100;

/// A text that the model sees on its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Tokens.
    pub input_ids: Vec<u32>,
    /// For each token the one to predict after it, or [`IGNORE_INDEX`]; as long as `input_ids`.
    pub labels: Vec<i64>,
}

impl Document {
    /// Tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Tokens trained on.
    pub fn num_targets(&self) -> u64 {
        self.labels.iter().filter(|label| **label != IGNORE_INDEX).count() as u64
    }
}

/// What a row gives to train or evaluate on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// One text; of a pair two: the prompt with the chosen answer, then with the rejected one.
    pub documents: Vec<Document>,
    /// URI of the object the row is in.
    pub object: Arc<str>,
    /// Number of the row in it, from 1.
    pub row: u64,
    /// Whether the row is plain text, which may be split.
    pub is_text: bool,
}

impl Example {
    /// Tokens trained on.
    pub fn num_targets(&self) -> u64 {
        self.documents.iter().map(Document::num_targets).sum()
    }

    /// Tokens of all documents.
    pub fn num_tokens(&self) -> u64 {
        self.documents.iter().map(|document| document.len() as u64).sum()
    }

    /// Tokens of the longest document: what the length policy looks at.
    pub fn len(&self) -> usize {
        self.documents.iter().map(Document::len).max().unwrap_or(0)
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What rows are made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A document, with the tokens that are trained on.
    Sft(LossOn),
    /// A pair of documents, whose answers are trained on.
    Preference,
    /// What is asked, and a second document with what is expected, if anything is; nothing is trained on.
    Prompt,
    /// A document for each of several answers, the right one first.
    Choices,
}

impl From<LossOn> for Form {
    fn from(loss_on: LossOn) -> Form {
        Form::Sft(loss_on)
    }
}

/// Why a row has no tokens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no template to render it.
    #[error("it is a conversation, and the model brings no chat template; set data.chat_template")]
    NoTemplate,
    /// `loss_on` asks for turns that the row does not have.
    #[error(
        "it is {kind}, which has no assistant turns; loss_on assistant needs messages, or tokens with assistant_masks"
    )]
    NoTurns {
        /// Kind of the row.
        kind: &'static str,
    },
    /// The template has no generation tags and does not render turn by turn.
    #[error(
        "the chat template does not mark what the assistant wrote ({{% generation %}}), and {turn} cannot be found in its \
         text, since the template writes it differently when more follows; use a template with generation tags, or loss_on \
         completion on rows that end with the answer"
    )]
    NotIncremental {
        /// Which part.
        turn: String,
    },
    /// The row is of a kind that the task has no use for.
    #[error("it is {kind}; {task} needs {expected}")]
    WrongKind {
        /// Kind of the row.
        kind: &'static str,
        /// The task.
        task: &'static str,
        /// What it needs.
        expected: &'static str,
    },
    /// The prompt is rendered differently when more follows, and what follows is not the assistant's.
    #[error(
        "the chat template renders the prompt differently when more follows, so the completion cannot be told apart; begin \
         the completion with an assistant message"
    )]
    PromptChanges,
    /// An id of a row of tokens is not in the vocabulary.
    #[error("input_ids[{index}] is {id}; the tokenizer's ids go up to {largest_id}")]
    UnknownId {
        /// Where in the row.
        index: usize,
        /// The id.
        id: u32,
        /// The largest id there is.
        largest_id: u64,
    },
    /// Rendering failed.
    #[error(transparent)]
    Template(#[from] template::Error),
    /// Tokenising failed.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
}

/// Tokens of a document, and which of them are trained on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens.
    pub ids: Vec<u32>,
    /// For each token whether it is to be learned; not shifted.
    pub trained: Vec<bool>,
}

impl Tokens {
    fn all(ids: Vec<u32>) -> Self {
        Self { trained: vec![true; ids.len()], ids }
    }

    fn within(ids: Vec<u32>, range: Range<usize>) -> Self {
        Self { trained: (0..ids.len()).map(|index| range.contains(&index)).collect(), ids }
    }

    /// An example of this document alone.
    pub fn into_example(self, object: Arc<str>, row: u64, is_text: bool) -> Example {
        Example { documents: vec![self.into_document()], object, row, is_text }
    }

    /// Shifts the labels: the target of a position is the token after it.
    pub fn into_document(self) -> Document {
        let next = self.ids.iter().zip(&self.trained).skip(1);
        let mut labels: Vec<i64> =
            next.map(|(&id, &trained)| if trained { i64::from(id) } else { IGNORE_INDEX }).collect();
        if !self.ids.is_empty() {
            labels.push(IGNORE_INDEX);
        }
        Document { input_ids: self.ids, labels }
    }
}

/// Tokenises rows for one model and one choice of what is trained on.
#[derive(Debug)]
pub struct RowTokenizer {
    tokenizer: Arc<Tokenizer>,
    vocab_size: u64,
    template: Option<ChatTemplate>,
    form: Form,
    loss_on: LossOn,
}

impl RowTokenizer {
    /// `chat_template` goes before the tokenizer's own.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        chat_template: Option<&str>,
        form: impl Into<Form>,
    ) -> Result<Self, template::Error> {
        let form = form.into();
        let loss_on = if let Form::Sft(loss_on) = form { loss_on } else { LossOn::Completion };
        let source = chat_template.or(tokenizer.chat_template());
        let template = source.map(|source| ChatTemplate::new(source, tokenizer.special_tokens())).transpose()?;
        Ok(Self { vocab_size: tokenizer.vocab_size(), tokenizer, template, form, loss_on })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What rows are to be.
    pub fn wanted(&self) -> Wanted {
        match self.form {
            Form::Sft(_) => Wanted::Text,
            Form::Preference => Wanted::Pair,
            Form::Prompt => Wanted::Prompt,
            Form::Choices => Wanted::Choices,
        }
    }

    /// The example that a row gives.
    pub fn example(&self, content: &Content, object: Arc<str>, row: u64) -> Result<Example, Error> {
        let is_text = content.is_text();
        match self.form {
            Form::Sft(_) => Ok(self.tokenize(content)?.into_example(object, row, is_text)),
            Form::Preference => {
                let documents = self.pair(content)?.map(Tokens::into_document).into();
                Ok(Example { documents, object, row, is_text })
            }
            Form::Prompt => Ok(Example { documents: self.asked(content)?, object, row, is_text: false }),
            Form::Choices => Ok(Example { documents: self.choices(content)?, object, row, is_text: false }),
        }
    }

    /// Tokens of a row for supervised fine-tuning.
    pub fn tokenize(&self, content: &Content) -> Result<Tokens, Error> {
        match content {
            Content::Preference { .. } | Content::ChatPreference { .. } | Content::Choices { .. } => {
                Err(Error::WrongKind { kind: content.kind(), task: "sft", expected: "texts, completions or messages" })
            }
            Content::Text(text) => {
                self.needs_no_turns(content)?;
                Ok(Tokens::all(self.tokenizer.encode(&self.with_eos(text), true)?))
            }
            Content::Completion { prompt, completion } => {
                self.needs_no_turns(content)?;
                self.prompt_completion(prompt, completion)
            }
            Content::ChatCompletion { prompt, completion, context } => {
                let messages: Vec<Value> = prompt.iter().chain(completion).cloned().collect();
                match self.loss_on {
                    LossOn::Completion => self.last_part(&messages, prompt.len(), messages.len(), context),
                    LossOn::Assistant => self.assistant_turns(&messages, context),
                    LossOn::All => self.whole(&messages, context),
                }
            }
            Content::Chat { messages, context } => match self.loss_on {
                LossOn::Completion => match messages.iter().rposition(is_assistant) {
                    Some(last) => self.last_part(messages, last, last + 1, context),
                    None => Ok(Tokens::within(self.whole(messages, context)?.ids, 0..0)),
                },
                LossOn::Assistant => self.assistant_turns(messages, context),
                LossOn::All => self.whole(messages, context),
            },
            Content::Tokens(tokens) => {
                self.check_ids(&tokens.input_ids)?;
                let trained = tokens.trained(self.loss_on).ok_or(Error::NoTurns { kind: content.kind() })?;
                Ok(Tokens { ids: tokens.input_ids.clone(), trained })
            }
        }
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), Error> {
        let largest_id = self.vocab_size.saturating_sub(1);
        match ids.iter().enumerate().find(|(_, id)| u64::from(**id) > largest_id) {
            Some((index, &id)) => Err(Error::UnknownId { index, id, largest_id }),
            None => Ok(()),
        }
    }

    fn needs_no_turns(&self, content: &Content) -> Result<(), Error> {
        match self.loss_on {
            LossOn::Assistant => Err(Error::NoTurns { kind: content.kind() }),
            LossOn::Completion | LossOn::All => Ok(()),
        }
    }

    fn with_eos(&self, text: &str) -> String {
        let eos = self.tokenizer.special_token("eos_token").unwrap_or_default();
        if text.ends_with(eos) { text.to_string() } else { format!("{text}{eos}") }
    }

    fn prompt_completion(&self, prompt: &str, completion: &str) -> Result<Tokens, Error> {
        let ids = self.tokenizer.encode(&format!("{prompt}{}", self.with_eos(completion)), true)?;
        if self.loss_on == LossOn::All {
            return Ok(Tokens::all(ids));
        }
        let start = common_prefix(&self.tokenizer.encode(prompt, true)?, &ids);
        let end = ids.len();
        Ok(Tokens::within(ids, start..end))
    }

    fn template(&self) -> Result<&ChatTemplate, Error> {
        self.template.as_ref().ok_or(Error::NoTemplate)
    }

    /// Ids of messages; the template has written the special tokens already.
    fn ids(&self, messages: &[Value], context: &ChatContext, add_generation_prompt: bool) -> Result<Vec<u32>, Error> {
        let rendered = self.template()?.render(messages, context, add_generation_prompt)?;
        Ok(self.tokenizer.encode(&rendered.text, false)?)
    }

    fn whole(&self, messages: &[Value], context: &ChatContext) -> Result<Tokens, Error> {
        Ok(Tokens::all(self.ids(messages, context, false)?))
    }

    /// Trains on `messages[start..end]`: what follows the tokens of the prompt, which ends where the assistant is to
    /// speak. Where the template renders the prompt differently when more follows, the turn is looked for in the whole.
    fn last_part(&self, messages: &[Value], start: usize, end: usize, context: &ChatContext) -> Result<Tokens, Error> {
        let template = self.template()?;
        let whole = template.render(messages, context, false)?.text;
        let prompt = match template.render(&messages[..start], context, true) {
            Ok(rendered) => rendered.text,
            // Many templates cannot render nothing at all.
            Err(_) if start == 0 => String::new(),
            Err(error) => return Err(error.into()),
        };
        if !whole.starts_with(&prompt) || end < messages.len() {
            if !is_assistant(&messages[start]) {
                return Err(Error::PromptChanges);
            }
            let turns = self.turns(template, messages, context, &whole);
            let end = if end < messages.len() { turns.end(end - 1)? } else { whole.len() };
            let span = turns.start(start)?..end;
            return self.within_text(&whole, &[span]);
        }
        let ids = self.tokenizer.encode(&whole, false)?;
        let first = common_prefix(&self.tokenizer.encode(&prompt, false)?, &ids);
        let last = ids.len();
        Ok(Tokens::within(ids, first..last))
    }

    /// Trains on stretches of a rendered text, in bytes.
    fn within_text(&self, text: &str, spans: &[Range<usize>]) -> Result<Tokens, Error> {
        let encoded = self.tokenizer.encode_with_offsets(text, false)?;
        let trained = touched(&encoded, spans);
        Ok(Tokens { ids: encoded.ids, trained })
    }

    fn turns<'a>(
        &'a self,
        template: &'a ChatTemplate,
        messages: &'a [Value],
        context: &'a ChatContext,
        whole: &'a str,
    ) -> Turns<'a> {
        let eos = self.tokenizer.special_token("eos_token").unwrap_or_default();
        Turns { template, messages, context, whole, eos }
    }

    fn assistant_turns(&self, messages: &[Value], context: &ChatContext) -> Result<Tokens, Error> {
        let template = self.template()?;
        let rendered = template.render(messages, context, false)?;
        let spans = match template.has_generation() {
            true => rendered.generation,
            false => self.turns(template, messages, context, &rendered.text).spans()?,
        };
        self.within_text(&rendered.text, &spans)
    }
}

fn is_assistant(message: &Value) -> bool {
    message["role"] == "assistant"
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Which tokens share a byte with a span. Byte-level tokenizers may leave the spaces that a token begins with out of its
/// range; they are counted to it here.
fn touched(encoded: &Encoded, spans: &[Range<usize>]) -> Vec<bool> {
    let mut reached = 0;
    let mut next = 0;
    let covers = encoded.offsets.iter().map(|range| {
        let start = range.start.min(reached);
        reached = reached.max(range.end);
        start..range.end
    });
    covers
        .map(|cover| {
            while spans.get(next).is_some_and(|span| span.end <= cover.start) {
                next += 1;
            }
            spans.get(next).is_some_and(|span| cover.start < span.end && cover.end > span.start)
        })
        .collect()
}

#[cfg(test)]
mod tests;

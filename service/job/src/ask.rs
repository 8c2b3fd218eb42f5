//! What a server says to the process of a model that answers, and what that says: lines of JSON on its standard input and
//! output. The process ends with its input.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;
use crate::spec::Sampling;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// From the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// An answer is wanted.
    Ask(Ask),
    /// It is not wanted any more.
    Abandon {
        /// Its id.
        id: u64,
    },
}

/// An answer that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// What its pieces are known by.
    pub id: u64,
    /// URI of the adapter that takes part.
    pub checkpoint: Option<String>,
    /// What is asked.
    pub prompt: Prompt,
    /// How the answer goes on.
    pub sampling: Sampling,
}

/// From the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// What everybody waits for.
    Waiting {
        /// For people.
        detail: String,
    },
    /// More of an answer.
    Piece {
        /// Whose.
        id: u64,
        /// What is new.
        text: String,
        /// Of the last piece.
        end: Option<Ended>,
    },
    /// There is no answer, or no more of it.
    Failed {
        /// To what; to everything where it is absent, and then the process ends.
        id: Option<u64>,
        /// Why.
        failure: Failure,
    },
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Whether it is as long as it may be; else the model ended it, or a text that does.
    pub reached_length: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u32,
}

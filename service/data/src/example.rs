//! What a row is: text, prompt and completion, a conversation, tokens, or a pair of answers. Each row is looked at on its own,
//! and one of a wrong shape is told apart by name, never guessed.

use serde_json::{Map, Value};

use crate::template::ChatContext;

mod alpaca;
mod choices;
mod preference;
mod prompt;
mod share_gpt;
mod tokenised;

pub use tokenised::Tokenised;

/// A row, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// `{"text"}`: trained on whole.
    Text(String),
    /// `{"prompt", "completion"}`, both texts.
    Completion {
        /// Given to the model.
        prompt: String,
        /// What it is to write.
        completion: String,
    },
    /// `{"prompt", "completion"}`, both lists of messages.
    ChatCompletion {
        /// Given to the model.
        prompt: Vec<Value>,
        /// What it is to write.
        completion: Vec<Value>,
        /// What comes with the messages.
        context: ChatContext,
    },
    /// `{"messages"}` or `{"conversations"}`.
    Chat {
        /// The turns, each an object with at least a role.
        messages: Vec<Value>,
        /// What comes with the messages.
        context: ChatContext,
    },
    /// `{"chosen", "rejected"}`, with or without `"prompt"`, all texts.
    Preference {
        /// What both answer; where it is absent, what the two begin with in common is.
        prompt: Option<String>,
        /// The better answer.
        chosen: String,
        /// The worse one.
        rejected: String,
    },
    /// `{"chosen", "rejected"}`, lists of messages, with or without `"prompt"`.
    ChatPreference {
        /// Given to the model.
        prompt: Vec<Value>,
        /// The better answer. At least one message.
        chosen: Vec<Value>,
        /// The worse one. At least one message.
        rejected: Vec<Value>,
        /// What comes with the messages.
        context: ChatContext,
    },
    /// `{"prompt", "choices", "answer"}`: several answers, one of them right.
    Choices {
        /// A text, or a list of messages.
        prompt: Value,
        /// At least two.
        choices: Vec<String>,
        /// Place of the right one.
        right: usize,
        /// What comes with the messages.
        context: ChatContext,
    },
    /// `{"input_ids"}`: tokens already.
    Tokens(Tokenised),
}

impl Content {
    /// Whether the row is plain text, of which every part is as good as the whole, so that it may be split.
    pub fn is_text(&self) -> bool {
        match self {
            Content::Text(_) => true,
            Content::Tokens(tokens) => tokens.is_text(),
            _ => false,
        }
    }

    /// Name of the kind, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Content::Text(_) => "text",
            Content::Completion { .. } => "prompt and completion",
            Content::ChatCompletion { .. } => "prompt and completion messages",
            Content::Chat { .. } => "messages",
            Content::Preference { .. } => "a pair of answers",
            Content::ChatPreference { .. } => "a pair of answers in messages",
            Content::Choices { .. } => "a question with choices",
            Content::Tokens(_) => "tokens",
        }
    }
}

/// The columns that make a row what it is, unless [`columns`] knows better. Others are ignored, and do not count in its
/// hash.
const COLUMNS: [&str; 11] = [
    "messages",
    "conversations",
    "prompt",
    "completion",
    "text",
    "question",
    "choices",
    "answer",
    "answerKey",
    "tools",
    "chat_template_kwargs",
];

/// The columns that make this row what it is: those of the kind that [`understand`] finds.
pub fn columns(row: &Value) -> &'static [&'static str] {
    let Value::Object(row) = row else { return &[] };
    match Kind::of(row) {
        Kind::Preference => &preference::COLUMNS,
        Kind::Tokenised => &tokenised::COLUMNS,
        Kind::ShareGpt => &share_gpt::COLUMNS,
        Kind::Alpaca => &alpaca::COLUMNS,
        Kind::Other => &COLUMNS,
    }
}

/// Whether a row has answers to choose from.
pub fn is_pair(row: &Value) -> bool {
    matches!(row, Value::Object(row) if matches!(Kind::of(row), Kind::Preference))
}

/// Kinds of rows that are understood in files of their own.
enum Kind {
    Preference,
    Tokenised,
    ShareGpt,
    Alpaca,
    Other,
}

impl Kind {
    fn of(row: &Map<String, Value>) -> Self {
        let has = |name: &str| row.get(name).is_some_and(|value| !value.is_null());
        if has("chosen") || has("rejected") {
            Self::Preference
        } else if has("input_ids") {
            Self::Tokenised
        } else if has("messages") {
            Self::Other
        } else if has("conversations") {
            Self::ShareGpt
        } else if !(has("prompt") && has("completion")) && alpaca::is_alpaca(row) {
            Self::Alpaca
        } else {
            Self::Other
        }
    }
}

const EXPECTED: &str = "expected {\"messages\": [..]}, {\"prompt\", \"completion\"}, {\"text\"}, {\"instruction\", \"output\"}, \
                        {\"conversations\": [..]}, {\"input_ids\": [..]} or {\"chosen\", \"rejected\"}";

/// What a task makes of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Texts.
    Text,
    /// Pairs of answers.
    Pair,
    /// Something to answer.
    Prompt,
    /// Several answers, one of them right.
    Choices,
}

/// Understands a row for a task: published datasets often carry a conversation beside the pair it was made from, and a task
/// that has no use for pairs takes that.
pub fn understand_for(row: &Value, wanted: Wanted) -> Result<Content, String> {
    if let Value::Object(columns) = row {
        match wanted {
            Wanted::Prompt => return prompt::understand_prompt(columns),
            Wanted::Choices => return choices::understand_choices(columns),
            Wanted::Text | Wanted::Pair => {}
        }
    }
    if let Value::Object(columns) = row
        && wanted == Wanted::Text
        && matches!(Kind::of(columns), Kind::Preference)
    {
        let mut rest = columns.clone();
        rest.retain(|name, _| name != "chosen" && name != "rejected");
        if let Ok(content) = understand(&Value::Object(rest)) {
            return Ok(content);
        }
    }
    understand(row)
}

/// Understands a row; the error says what was found and what was expected. A row with several kinds of columns is the
/// first of: chosen and rejected, input_ids, messages, conversations, prompt and completion, instruction and output, text. A null column counts
/// as absent, since Parquet has every column in every row.
pub fn understand(row: &Value) -> Result<Content, String> {
    let Value::Object(row) = row else { return Err(format!("the row is {}; {EXPECTED}", kind(row))) };
    let column = |name: &str| row.get(name).filter(|value| !value.is_null());
    match Kind::of(row) {
        Kind::Preference => {
            return match (column("chosen"), column("rejected")) {
                (Some(chosen), Some(rejected)) => preference::understand(column("prompt"), chosen, rejected, row),
                (Some(_), None) => Err("chosen stands without rejected; expected both".into()),
                _ => Err("rejected stands without chosen; expected both".into()),
            };
        }
        Kind::Tokenised => return tokenised::understand(&row["input_ids"], row),
        Kind::ShareGpt => {
            let messages = share_gpt::understand(&row["conversations"], row)?;
            return Ok(Content::Chat { messages, context: context(row)? });
        }
        Kind::Alpaca => return alpaca::understand(row),
        Kind::Other => {}
    }
    if let Some(turns) = column("messages") {
        return Ok(Content::Chat { messages: messages("messages", turns)?, context: context(row)? });
    }
    match (column("prompt"), column("completion"), column("text")) {
        (Some(prompt), Some(completion), _) => prompt_completion(prompt, completion, row),
        (_, _, Some(Value::String(text))) => Ok(Content::Text(text.clone())),
        (_, _, Some(other)) => Err(format!("text is {}; expected a text", kind(other))),
        (Some(_), None, None) => Err("prompt stands without completion; expected both".into()),
        (None, Some(_), None) => Err("completion stands without prompt; expected both".into()),
        (None, None, None) => {
            let names: Vec<&str> = row.keys().map(String::as_str).take(10).collect();
            let found = if names.is_empty() { "nothing".to_string() } else { format!("columns {}", names.join(", ")) };
            Err(format!("{found}; {EXPECTED}"))
        }
    }
}

fn prompt_completion(prompt: &Value, completion: &Value, row: &Map<String, Value>) -> Result<Content, String> {
    match (prompt, completion) {
        (Value::String(prompt), Value::String(completion)) => {
            Ok(Content::Completion { prompt: prompt.clone(), completion: completion.clone() })
        }
        (Value::Array(_), Value::Array(_)) => Ok(Content::ChatCompletion {
            prompt: messages("prompt", prompt)?,
            completion: messages("completion", completion)?,
            context: context(row)?,
        }),
        _ => Err(format!(
            "prompt is {} and completion is {}; expected two texts or two lists of messages",
            kind(prompt),
            kind(completion)
        )),
    }
}

fn messages(column: &str, value: &Value) -> Result<Vec<Value>, String> {
    let Value::Array(turns) = value else {
        return Err(format!("{column} is {}; expected a list of messages", kind(value)));
    };
    if turns.is_empty() {
        return Err(format!("{column} is an empty list; expected at least one message"));
    }
    for (index, turn) in turns.iter().enumerate() {
        check_message(turn).map_err(|what| format!("{column}[{index}]{what}"))?;
    }
    Ok(turns.clone())
}

fn check_message(turn: &Value) -> Result<(), String> {
    let Value::Object(turn) = turn else {
        return Err(format!(" is {}; expected {{\"role\", \"content\"}}", kind(turn)));
    };
    match turn.get("role") {
        Some(Value::String(role)) if !role.is_empty() => {}
        Some(other) => return Err(format!(".role is {}; expected a text such as user or assistant", kind(other))),
        None => return Err(" has no role; expected {\"role\", \"content\"}".into()),
    }
    let calls = turn.get("tool_calls").is_some_and(|calls| !calls.is_null());
    match turn.get("content") {
        Some(Value::String(_)) => Ok(()),
        // Parts such as {"type": "text", "text": ..}, which many templates walk.
        Some(Value::Array(parts)) if parts.iter().all(Value::is_object) => Ok(()),
        None | Some(Value::Null) if calls => Ok(()),
        None => Err(" has no content; expected {\"role\", \"content\"}".into()),
        Some(other) => Err(format!(".content is {}; expected a text", kind(other))),
    }
}

fn context(row: &Map<String, Value>) -> Result<ChatContext, String> {
    let tools = match row.get("tools") {
        None | Some(Value::Null) => None,
        Some(Value::Array(tools)) => Some(Value::Array(tools.clone())),
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Array(tools)) => Some(Value::Array(tools)),
            _ => return Err("tools is a text, but not the JSON of a list".into()),
        },
        Some(other) => return Err(format!("tools is {}; expected a list", kind(other))),
    };
    // An empty list is no tools: some templates would announce tools and then name none.
    let tools = tools.filter(|tools| *tools != Value::Array(Vec::new()));
    let variables = match row.get("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(variables)) => variables.clone(),
        Some(other) => return Err(format!("chat_template_kwargs is {}; expected an object", kind(other))),
    };
    Ok(ChatContext { tools, variables })
}

/// What a JSON value is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;

//! Tokens of a row that is answered: the prompt up to where the answer begins, then those of what is expected, if anything is.

use serde_json::Value;

use super::{Document, Error, IGNORE_INDEX, RowTokenizer, is_assistant};
use crate::example::Content;
use hone_job::spec::LossOn;

impl RowTokenizer {
    /// One document, or a second one with what is expected. Nothing of either is trained on.
    pub(super) fn asked(&self, content: &Content) -> Result<Vec<Document>, Error> {
        let (prompt, expected) = match content {
            Content::Text(text) => (self.tokenizer.encode(text, true)?, String::new()),
            Content::Completion { prompt, completion } => (self.tokenizer.encode(prompt, true)?, completion.clone()),
            Content::ChatCompletion { prompt, completion, context } => {
                (self.ids(prompt, context, true)?, completion.iter().map(text_of).collect())
            }
            Content::Chat { messages, context } => match messages.split_last() {
                Some((last, before)) if is_assistant(last) => (self.ids(before, context, true)?, text_of(last)),
                _ => (self.ids(messages, context, true)?, String::new()),
            },
            Content::Tokens(tokens) => {
                self.check_ids(&tokens.input_ids)?;
                let trained = tokens.trained(LossOn::Completion).unwrap_or_default();
                let is_whole = tokens.is_text();
                let start = trained.iter().position(|trained| *trained).filter(|_| !is_whole);
                let (prompt, expected) = tokens.input_ids.split_at(start.unwrap_or(tokens.input_ids.len()));
                (prompt.to_vec(), self.tokenizer.decode(expected, true)?)
            }
            Content::Preference { .. } | Content::ChatPreference { .. } | Content::Choices { .. } => {
                return Err(Error::WrongKind { kind: content.kind(), task: "generate", expected: "a prompt" });
            }
        };
        let expected = (!expected.is_empty()).then(|| self.tokenizer.encode(&expected, false)).transpose()?;
        let document = |input_ids: Vec<u32>| Document { labels: vec![IGNORE_INDEX; input_ids.len()], input_ids };
        Ok([Some(prompt), expected].into_iter().flatten().map(document).collect())
    }
}

/// The text of a message; of parts the texts, one after the other.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Form;
    use super::super::tests::with;
    use crate::example::{Wanted, understand_for};

    /// Prompt and expected answer of a row, special tokens written out.
    fn asked(row: Value) -> (String, String) {
        let tokenizer = with(None, Form::Prompt);
        let content = understand_for(&row, Wanted::Prompt).unwrap();
        let example = tokenizer.example(&content, "o".into(), 1).unwrap();
        assert_eq!(example.num_targets(), 0);
        let texts = example.documents.iter().map(|document| tokenizer.tokenizer().decode(&document.input_ids, false));
        let mut texts = texts.map(Result::unwrap);
        (texts.next().unwrap(), texts.next().unwrap_or_default())
    }

    #[test]
    fn a_prompt_ends_where_the_answer_begins_whatever_the_row_is() {
        let user = json!({"role": "user", "content": "What?"});
        let assistant = json!({"role": "assistant", "content": "That."});
        let (bare, none) = asked(json!({"messages": [user]}));
        assert_eq!(none, "");
        for row in [
            json!({"messages": [user, assistant]}),
            json!({"prompt": [user], "completion": [assistant]}),
            json!({"prompt": [user], "chosen": [assistant], "rejected": [user]}),
        ] {
            assert_eq!(asked(row), (bare.clone(), "That.".into()));
        }
        assert_eq!(asked(json!({"prompt": [user]})), (bare, String::new()));
        assert_eq!(asked(json!({"prompt": "What", "completion": " is"})).1, " is");
        assert_eq!(asked(json!({"prompt": "What"})), asked(json!({"text": "What"})));
        let tokens = json!({"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1]});
        let (prompt, expected) = asked(tokens);
        assert_eq!(asked(json!({"input_ids": [5, 6]})), (prompt, String::new()));
        assert!(!expected.is_empty());
    }
}

//! What a model is asked, and the tokens of it.

use std::path::Path;

use hone_data::template::{ChatContext, ChatTemplate};
use hone_data::tokenizer::Tokenizer;
use hone_job::ask::Prompt;
use serde_json::Value;

use crate::error::Error;

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

/// Makes tokens of prompts.
#[derive(Debug)]
pub struct Prompter<'t> {
    tokenizer: &'t Tokenizer,
    /// Of models that have one.
    template: Option<ChatTemplate>,
}

impl<'t> Prompter<'t> {
    /// With the tokenizer's own chat template, if it has one.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self, Error> {
        let template = tokenizer.chat_template().map(|source| ChatTemplate::new(source, tokenizer.special_tokens()));
        Ok(Self { tokenizer, template: template.transpose()? })
    }

    /// The tokens: of a conversation up to where the assistant is to speak.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokenizer(name: &str) -> Tokenizer {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        Tokenizer::open(&fixtures.join("models").join(name)).unwrap()
    }

    #[test]
    fn prompts_that_make_no_sense_are_told_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.json");
        let check = |text: &str, place: &str| {
            std::fs::write(&path, text).unwrap();
            let error = read_prompts(&path).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains("expected a JSON list"), "{error}");
        };
        check("{}", "prompts.json");
        check("not json", "prompts.json");
        check("[{\"prompt\": \"a\"}, {\"text\": \"b\"}]", "prompts.json, entry 1");

        std::fs::write(&path, r#"[{"messages": [{"role": "user", "content": "a"}]}, {"prompt": "b"}]"#).unwrap();
        assert_eq!(read_prompts(&path).unwrap().iter().map(Prompt::question).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_a_conversation_becomes_ends_where_the_assistant_is_to_speak() {
        let tokenizer = tokenizer("llama");
        let prompter = Prompter::new(&tokenizer).unwrap();
        let messages = vec![json!({"role": "user", "content": "What is 2 + 2?"})];
        let rendered = prompter.template.as_ref().unwrap().render(&messages, &ChatContext::default(), true).unwrap();
        let ids = prompter.encode(&Prompt::Conversation { messages }).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), rendered.text);

        // The template of this model refuses two turns of one role.
        let tokenizer = self::tokenizer("mistral");
        let turn = json!({"role": "user", "content": "a"});
        let refused = Prompt::Conversation { messages: vec![turn.clone(), turn] };
        let error = Prompter::new(&tokenizer).unwrap().encode(&refused).unwrap_err().to_string();
        assert!(error.starts_with("the chat template refuses"), "{error}");
    }
}

//! Tokens of a row of several answers: the prompt with each of them, the right one first.

use serde_json::{Value, json};

use super::{Document, Error, RowTokenizer, Tokens};
use crate::example::Content;

impl RowTokenizer {
    /// A document for each answer, which is scored as a completion is trained on.
    pub(super) fn choices(&self, content: &Content) -> Result<Vec<Document>, Error> {
        let Content::Choices { prompt, choices, right, context } = content else {
            let expected = "{\"prompt\", \"choices\", \"answer\"}";
            return Err(Error::WrongKind { kind: content.kind(), task: "choices", expected });
        };
        let others = choices.iter().enumerate().filter(|(place, _)| place != right).map(|(_, choice)| choice);
        let document = |choice: &String| {
            let tokens: Tokens = match prompt {
                Value::Array(turns) => {
                    let answer = json!({"role": "assistant", "content": choice});
                    let messages: Vec<Value> = turns.iter().cloned().chain([answer]).collect();
                    self.last_part(&messages, turns.len(), messages.len(), context)?
                }
                prompt => self.prompt_completion(prompt.as_str().unwrap_or_default(), choice)?,
            };
            Ok(tokens.into_document())
        };
        [&choices[*right]].into_iter().chain(others).map(document).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::with;
    use super::super::{Form, IGNORE_INDEX};
    use crate::example::{Wanted, understand_for};

    #[test]
    fn the_right_answer_comes_first_and_only_answers_are_scored() {
        let tokenizer = with(None, Form::Choices);
        let turns = json!([{"role": "user", "content": "What?"}]);
        for prompt in [json!("What?"), turns] {
            let row: Value = json!({"prompt": prompt, "choices": [" one", " two", " three"], "answer": 1});
            let content = understand_for(&row, Wanted::Choices).unwrap();
            let example = tokenizer.example(&content, "o".into(), 1).unwrap();
            let answers = example.documents.iter().map(|document| {
                let start = document.labels.iter().position(|label| *label != IGNORE_INDEX).unwrap() + 1;
                tokenizer.tokenizer().decode(&document.input_ids[start..], true).unwrap().trim().to_string()
            });
            assert_eq!(answers.collect::<Vec<_>>(), ["two", "one", "three"]);
        }
    }
}

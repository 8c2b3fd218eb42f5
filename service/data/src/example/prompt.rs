//! Rows that are answered: a prompt with or without what is expected, or any row that a model could be trained on.

use serde_json::{Map, Value};

use super::{Content, context, messages, understand};

/// Understands a row as a prompt. Of a pair the chosen answer is what is expected.
pub(super) fn understand_prompt(row: &Map<String, Value>) -> Result<Content, String> {
    let mut row = row.clone();
    row.retain(|_, value| !value.is_null());
    row.remove("rejected");
    match (row.remove("chosen"), row.contains_key("prompt")) {
        (Some(chosen), true) => drop(row.entry("completion").or_insert(chosen)),
        (Some(chosen), false) if chosen.is_array() => drop(row.entry("messages").or_insert(chosen)),
        _ => {}
    }
    if !row.contains_key("completion") && !row.contains_key("messages") {
        match row.get("prompt") {
            Some(Value::String(prompt)) => {
                return Ok(Content::Completion { prompt: prompt.clone(), completion: String::new() });
            }
            Some(turns @ Value::Array(_)) => {
                let (prompt, completion) = (messages("prompt", turns)?, Vec::new());
                return Ok(Content::ChatCompletion { prompt, completion, context: context(&row)? });
            }
            _ => {}
        }
    }
    understand(&Value::Object(row))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Wanted, understand_for};
    use super::*;

    fn understood(row: Value) -> Result<Content, String> {
        understand_for(&row, Wanted::Prompt)
    }

    #[test]
    fn a_prompt_needs_no_answer_and_a_pair_gives_its_better_one() {
        let text = |completion: &str| Content::Completion { prompt: "p".into(), completion: completion.into() };
        assert_eq!(understood(json!({"prompt": "p"})), Ok(text("")));
        assert_eq!(understood(json!({"prompt": "p", "completion": null})), Ok(text("")));
        assert_eq!(understood(json!({"prompt": "p", "completion": "c"})), Ok(text("c")));
        assert_eq!(understood(json!({"prompt": "p", "chosen": "c", "rejected": "r"})), Ok(text("c")));
        let turns = json!([{"role": "user", "content": "a"}]);
        let Ok(Content::ChatCompletion { prompt, completion, .. }) = understood(json!({"prompt": turns})) else {
            panic!("a prompt of messages")
        };
        assert_eq!((json!(prompt), completion.len()), (turns.clone(), 0));
        for row in [json!({"messages": turns}), json!({"chosen": turns, "rejected": turns})] {
            let Ok(Content::Chat { messages, .. }) = understood(row) else { panic!("a conversation") };
            assert_eq!(json!(messages), turns);
        }
        assert_eq!(understood(json!({"prompt": []})).unwrap_err().split(';').next(), Some("prompt is an empty list"));
        assert!(understood(json!({"chosen": "c", "rejected": "r"})).unwrap_err().starts_with("nothing; expected"));
    }
}

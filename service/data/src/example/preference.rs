//! Pairs of answers: texts or messages, the prompt given or found as what the two have in common.

use serde_json::{Map, Value};

use super::{Content, context, kind, messages};

/// The columns that make such a row what it is.
pub(super) const COLUMNS: [&str; 5] = ["prompt", "chosen", "rejected", "tools", "chat_template_kwargs"];

/// Understands `chosen` and `rejected` with the prompt that may stand beside them.
pub(super) fn understand(
    prompt: Option<&Value>,
    chosen: &Value,
    rejected: &Value,
    row: &Map<String, Value>,
) -> Result<Content, String> {
    match (chosen, rejected) {
        (Value::String(chosen), Value::String(rejected)) => {
            let prompt = match prompt {
                None => None,
                Some(Value::String(prompt)) => Some(prompt.clone()),
                Some(other) => {
                    return Err(format!("prompt is {}; expected a text, as chosen and rejected are", kind(other)));
                }
            };
            Ok(Content::Preference { prompt, chosen: chosen.clone(), rejected: rejected.clone() })
        }
        (Value::Array(_), Value::Array(_)) => {
            let (chosen, rejected) = (messages("chosen", chosen)?, messages("rejected", rejected)?);
            let Turns { prompt, chosen, rejected } = turns(prompt, chosen, rejected)?;
            Ok(Content::ChatPreference { prompt, chosen, rejected, context: context(row)? })
        }
        _ => Err(format!(
            "chosen is {} and rejected is {}; expected two texts or two lists of messages",
            kind(chosen),
            kind(rejected)
        )),
    }
}

/// The messages of a pair.
struct Turns {
    prompt: Vec<Value>,
    chosen: Vec<Value>,
    rejected: Vec<Value>,
}

/// Takes the prompt off both lists. Without a prompt it is the turns that both begin with, save the last of either, which
/// is always an answer. A prompt that is a text is accepted when both lists begin with a message that says it: some
/// published datasets carry it twice.
fn turns(prompt: Option<&Value>, chosen: Vec<Value>, rejected: Vec<Value>) -> Result<Turns, String> {
    match prompt {
        Some(Value::Array(_)) => {
            let prompt = messages("prompt", prompt.unwrap_or(&Value::Null))?;
            return Ok(Turns { prompt, chosen, rejected });
        }
        Some(Value::String(text)) => {
            let says = |turns: &[Value]| turns[0]["role"] == "user" && turns[0]["content"] == *text;
            if !says(&chosen) || !says(&rejected) {
                return Err(
                    "prompt is a text while chosen and rejected are lists of messages; expected a list too".into()
                );
            }
        }
        Some(other) => return Err(format!("prompt is {}; expected a list of messages", kind(other))),
        None => {}
    }
    let most = chosen.len().min(rejected.len()) - 1;
    let common = chosen.iter().zip(&rejected).take(most).take_while(|(a, b)| a == b).count();
    let prompt = chosen[..common].to_vec();
    if prompt.is_empty() {
        return Err(
            "chosen and rejected begin with different messages and there is no prompt; expected a prompt, or lists \
                    that begin with it"
                .into(),
        );
    }
    Ok(Turns { prompt, chosen: chosen[common..].to_vec(), rejected: rejected[common..].to_vec() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Wanted, understand, understand_for};
    use super::*;

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    fn assistant(text: &str) -> Value {
        json!({"role": "assistant", "content": text})
    }

    fn split(row: Value) -> (usize, usize, usize) {
        match understand(&row).unwrap() {
            Content::ChatPreference { prompt, chosen, rejected, .. } => (prompt.len(), chosen.len(), rejected.len()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn texts_keep_their_prompt_or_have_none() {
        let given = understand(&json!({"prompt": "p", "chosen": "a", "rejected": "b"})).unwrap();
        let pair = |prompt: Option<&str>| Content::Preference {
            prompt: prompt.map(str::to_string),
            chosen: "a".into(),
            rejected: "b".into(),
        };
        assert_eq!(given, pair(Some("p")));
        assert_eq!(understand(&json!({"chosen": "a", "rejected": "b", "prompt": null})).unwrap(), pair(None));
    }

    #[test]
    fn the_prompt_is_what_both_lists_begin_with() {
        let (q, a, b) = (user("q"), assistant("a"), assistant("b"));
        assert_eq!(split(json!({"prompt": [q], "chosen": [a], "rejected": [b]})), (1, 1, 1));
        assert_eq!(split(json!({"chosen": [q, a], "rejected": [q, b]})), (1, 1, 1));
        assert_eq!(split(json!({"prompt": "q", "chosen": [q, a], "rejected": [q, b]})), (1, 1, 1));
        // One the beginning of the other: its last message is still an answer.
        assert_eq!(split(json!({"chosen": [q, a], "rejected": [q, a, user("r"), b]})), (1, 1, 3));
        assert_eq!(split(json!({"chosen": [q, a], "rejected": [q, a]})), (1, 1, 1));
    }

    #[test]
    fn a_conversation_beside_a_pair_is_for_tasks_without_pairs() {
        let (q, a, b) = (user("q"), assistant("a"), assistant("b"));
        let row = json!({"prompt": "q", "messages": [q, a], "chosen": [q, a], "rejected": [q, b], "score": 1});
        assert_eq!(understand_for(&row, Wanted::Text).unwrap().kind(), "messages");
        assert_eq!(understand_for(&row, Wanted::Pair).unwrap().kind(), "a pair of answers in messages");
        let only_pair = json!({"prompt": "q", "chosen": "a", "rejected": "b"});
        assert_eq!(understand_for(&only_pair, Wanted::Text).unwrap().kind(), "a pair of answers");
    }

    #[test]
    fn wrong_shapes_are_named() {
        let (q, a, b) = (user("q"), assistant("a"), assistant("b"));
        let check = |row: Value, expected: &str| {
            let error = understand(&row).unwrap_err();
            assert!(error.contains(expected), "{row}: {error:?} should say {expected:?}");
        };
        check(json!({"chosen": "a"}), "chosen stands without rejected");
        check(json!({"rejected": "a"}), "rejected stands without chosen");
        check(json!({"chosen": "a", "rejected": [a]}), "chosen is a text and rejected is a list");
        check(json!({"prompt": 1, "chosen": "a", "rejected": "b"}), "prompt is a number");
        check(json!({"prompt": "x", "chosen": [q, a], "rejected": [q, b]}), "prompt is a text while");
        check(json!({"chosen": [a], "rejected": [b]}), "begin with different messages");
        check(json!({"chosen": [], "rejected": [b]}), "chosen is an empty list");
        check(json!({"chosen": [{"role": "user"}], "rejected": [b]}), "chosen[0] has no content");
    }
}

//! Rows of several answers, one of them right: `{"prompt", "choices", "answer"}`, as multiple-choice benchmarks are published.

use serde_json::{Map, Value};

use super::{Content, context, kind, messages};

/// Most answers of a row.
const MAX_CHOICES: usize = 64;

/// Understands such a row. The question may be called `question` and the answer `answerKey`; choices are a list of texts, or
/// `{"text": [..], "label": [..]}`; the answer is the place of the right one, from 0, its label, or its text.
pub(super) fn understand_choices(row: &Map<String, Value>) -> Result<Content, String> {
    let column = |names: [&str; 2]| names.iter().find_map(|name| row.get(*name).filter(|value| !value.is_null()));
    let missing = |name: &str| format!("{name} is missing; expected {{\"prompt\", \"choices\", \"answer\"}}");
    let prompt = column(["prompt", "question"]).ok_or_else(|| missing("prompt"))?;
    let (choices, labels) = choices(row.get("choices").ok_or_else(|| missing("choices"))?)?;
    let right = right(column(["answer", "answerKey"]).ok_or_else(|| missing("answer"))?, &choices, &labels)?;
    let prompt = match prompt {
        Value::String(text) => Value::String(text.clone()),
        Value::Array(_) => Value::Array(messages("prompt", prompt)?),
        other => return Err(format!("prompt is {}; expected a text or a list of messages", kind(other))),
    };
    Ok(Content::Choices { prompt, choices, right, context: context(row)? })
}

fn texts(column: &str, value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("{column} is {}; expected a list of texts", kind(value)))?;
    let text = |(index, value): (usize, &Value)| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{column}[{index}] is {}; expected a text", kind(other))),
    };
    list.iter().enumerate().map(text).collect()
}

fn choices(value: &Value) -> Result<(Vec<String>, Vec<String>), String> {
    let (choices, labels) = match value {
        Value::Object(columns) => {
            let text = columns.get("text").ok_or("choices has no text; expected {\"text\", \"label\"}")?;
            let labels = columns.get("label").map(|labels| texts("choices.label", labels)).transpose()?;
            (texts("choices.text", text)?, labels.unwrap_or_default())
        }
        value => (texts("choices", value)?, Vec::new()),
    };
    match choices.len() {
        0 | 1 => Err(format!("choices has {} entries; expected at least two", choices.len())),
        count if count > MAX_CHOICES => Err(format!("choices has {count} entries; at most {MAX_CHOICES}")),
        _ => Ok((choices, labels)),
    }
}

fn right(answer: &Value, choices: &[String], labels: &[String]) -> Result<usize, String> {
    let place = match answer {
        Value::Number(number) => number.as_u64().and_then(|place| usize::try_from(place).ok()),
        Value::String(text) => {
            let among = |texts: &[String]| texts.iter().position(|other| other == text);
            among(labels).or_else(|| among(choices))
        }
        other => return Err(format!("answer is {}; expected a place, a label or a text of the choices", kind(other))),
    };
    let place = place.filter(|place| *place < choices.len());
    place.ok_or_else(|| format!("answer {answer} is none of the {} choices", choices.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Wanted, understand_for};
    use super::*;

    fn right_of(row: Value) -> Result<(usize, usize), String> {
        let Content::Choices { choices, right, .. } = understand_for(&row, Wanted::Choices)? else {
            panic!("another kind")
        };
        Ok((right, choices.len()))
    }

    #[test]
    fn the_right_one_is_named_by_place_label_or_text() {
        let row = |answer: Value| json!({"question": "q", "choices": ["a", "b", "c"], "answer": answer});
        assert_eq!(right_of(row(json!(2))), Ok((2, 3)));
        assert_eq!(right_of(row(json!("b"))), Ok((1, 3)));
        let labelled = json!({"text": ["x", "y"], "label": ["A", "B"]});
        assert_eq!(right_of(json!({"prompt": "q", "choices": labelled, "answerKey": "B"})), Ok((1, 2)));
        let turns = json!([{"role": "user", "content": "q"}]);
        assert_eq!(right_of(json!({"prompt": turns, "choices": ["a", "b"], "answer": 0})), Ok((0, 2)));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let told = |row: Value| right_of(row).unwrap_err();
        assert!(told(json!({"choices": ["a", "b"], "answer": 0})).starts_with("prompt is missing"));
        assert!(told(json!({"prompt": "q", "choices": ["a"], "answer": 0})).starts_with("choices has 1 entries"));
        assert!(told(json!({"prompt": "q", "choices": ["a", 3], "answer": 0})).starts_with("choices[1] is a number"));
        assert!(told(json!({"prompt": "q", "choices": ["a", "b"], "answer": 2})).contains("none of the 2 choices"));
        assert!(told(json!({"prompt": "q", "choices": ["a", "b"], "answer": "d"})).contains("none of the 2 choices"));
        assert!(told(json!({"prompt": "q", "choices": ["a", "b"]})).starts_with("answer is missing"));
        assert!(told(json!("q")).starts_with("the row is a text"));
    }
}

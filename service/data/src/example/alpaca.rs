//! Alpaca rows: `instruction`, `input` and `output`, with `system` and `history` as LLaMA-Factory has them.

use serde_json::{Map, Value, json};

use super::{Content, context, kind};

/// The columns that make an Alpaca row what it is.
pub(super) const COLUMNS: [&str; 7] =
    ["instruction", "input", "output", "system", "history", "tools", "chat_template_kwargs"];

/// Whether the row has the columns of an Alpaca row.
pub(super) fn is_alpaca(row: &Map<String, Value>) -> bool {
    ["instruction", "output"].iter().all(|name| row.get(*name).is_some_and(|value| !value.is_null()))
}

/// Understands an Alpaca row. With a system text, earlier turns or tools it is a conversation, which the model's chat
/// template renders; otherwise it is the published prompt and its completion.
pub(super) fn understand(row: &Map<String, Value>) -> Result<Content, String> {
    let instruction = text(row, "instruction")?;
    let input = text(row, "input")?;
    let output = text(row, "output")?;
    let system = text(row, "system")?;
    let history = history(row)?;
    let context = context(row)?;
    if system.is_empty() && history.is_empty() && context.tools.is_none() {
        return Ok(Content::Completion { prompt: prompt(instruction, input), completion: output.to_string() });
    }
    let question = [instruction, input].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n");
    let mut messages = Vec::new();
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    for (asked, answered) in history {
        messages.push(json!({"role": "user", "content": asked}));
        messages.push(json!({"role": "assistant", "content": answered}));
    }
    messages.push(json!({"role": "user", "content": question}));
    messages.push(json!({"role": "assistant", "content": output}));
    Ok(Content::Chat { messages, context })
}

/// The prompts that the Stanford Alpaca project published. They end with a line break, as programs that serve such models
/// write them; without it the answer would begin in the middle of a line.
fn prompt(instruction: &str, input: &str) -> String {
    match input {
        "" => format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:\n"
        ),
        input => format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
             response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n\
             ### Response:\n"
        ),
    }
}

fn text<'a>(row: &'a Map<String, Value>, column: &str) -> Result<&'a str, String> {
    match row.get(column) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("{column} is {}; expected a text", kind(other))),
    }
}

/// Earlier turns: `[[asked, answered], ..]`.
fn history<'a>(row: &'a Map<String, Value>) -> Result<Vec<(&'a str, &'a str)>, String> {
    let turns = match row.get("history") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(turns)) => turns,
        Some(other) => return Err(format!("history is {}; expected a list of [asked, answered]", kind(other))),
    };
    let pair = |(index, turn): (usize, &'a Value)| match turn.as_array().map(Vec::as_slice) {
        Some([Value::String(asked), Value::String(answered)]) => Ok((asked.as_str(), answered.as_str())),
        _ => Err(format!("history[{index}] is not two texts, what was asked and what was answered")),
    };
    turns.iter().enumerate().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::super::understand;
    use super::*;

    fn completion(row: Value) -> (String, String) {
        match understand(&row).unwrap() {
            Content::Completion { prompt, completion } => (prompt, completion),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_published_prompts_are_used_with_and_without_an_input() {
        let (prompt, answer) = completion(json!({"instruction": "Add {input}.", "input": "1 and 2", "output": "3"}));
        assert_eq!(
            prompt,
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
             response that appropriately completes the request.\n\n### Instruction:\nAdd {input}.\n\n### Input:\n1 and 2\n\n\
             ### Response:\n"
        );
        assert_eq!(answer, "3");
        for input in [json!(""), Value::Null] {
            let (prompt, _) = completion(json!({"instruction": "Greet.", "input": input, "output": "Hi"}));
            assert_eq!(
                prompt,
                "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\nGreet.\n\n### Response:\n"
            );
        }
    }

    #[test]
    fn system_text_and_history_make_a_conversation() {
        let row = json!({"instruction": "And", "input": "3?", "output": "9", "system": "Square.",
                         "history": [["2?", "4"]], "text": "ignored"});
        let Content::Chat { messages, .. } = understand(&row).unwrap() else { panic!("no conversation") };
        let said: Vec<(&str, &str)> =
            messages.iter().map(|turn| (turn["role"].as_str().unwrap(), turn["content"].as_str().unwrap())).collect();
        let expected =
            [("system", "Square."), ("user", "2?"), ("assistant", "4"), ("user", "And\n3?"), ("assistant", "9")];
        assert_eq!(said, expected);
    }

    #[test]
    fn wrong_shapes_are_named() {
        let check = |extra: Value, expected: &str| {
            let mut row = json!({"instruction": "a", "output": "b"});
            row.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let error = understand(&row).unwrap_err();
            assert!(error.contains(expected), "{row}: {error:?} should say {expected:?}");
        };
        check(json!({"instruction": 1}), "instruction is a number");
        check(json!({"output": []}), "output is a list");
        check(json!({"input": {}}), "input is an object");
        check(json!({"system": 1}), "system is a number");
        check(json!({"history": "a"}), "history is a text; expected a list of [asked, answered]");
        check(json!({"history": [["a", "b"], ["c"]]}), "history[1] is not two texts");
        check(json!({"tools": 1}), "tools is a number");
    }
}

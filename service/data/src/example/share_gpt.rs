//! ShareGPT rows: `conversations` of `from` and `value` in place of `role` and `content`, with names of their own for the
//! roles; a `system` text may stand beside them.

use serde_json::{Map, Value, json};

use super::{kind, messages};

/// The columns that make a ShareGPT row what it is.
pub(super) const COLUMNS: [&str; 4] = ["conversations", "system", "tools", "chat_template_kwargs"];

/// The messages of a conversation.
pub(super) fn understand(turns: &Value, row: &Map<String, Value>) -> Result<Vec<Value>, String> {
    let Value::Array(turns) = turns else {
        return Err(format!("conversations is {}; expected a list of {{\"from\", \"value\"}}", kind(turns)));
    };
    let renamed = turns.iter().enumerate();
    let renamed = renamed.map(|(index, turn)| message(turn).map_err(|what| format!("conversations[{index}]{what}")));
    let mut turns = renamed.collect::<Result<Vec<_>, _>>()?;
    match row.get("system") {
        None | Some(Value::Null) => {}
        // A system turn of the conversation itself goes before.
        Some(Value::String(text)) if text.is_empty() || turns.first().is_some_and(|turn| turn["role"] == "system") => {}
        Some(Value::String(text)) => turns.insert(0, json!({"role": "system", "content": text})),
        Some(other) => return Err(format!("system is {}; expected a text", kind(other))),
    }
    messages("conversations", &Value::Array(turns))
}

/// One turn, renamed. A turn that has a role already is left as it is.
fn message(turn: &Value) -> Result<Value, String> {
    let (from, value) = match (turn.get("from"), turn.get("value")) {
        (Some(Value::String(from)), Some(Value::String(value))) => (from.as_str(), value),
        _ if turn.get("role").is_some() => return Ok(turn.clone()),
        _ => return Err(" is not {\"from\": text, \"value\": text}".into()),
    };
    let role = match from {
        "human" | "user" => "user",
        "gpt" | "chatgpt" | "model" | "assistant" => "assistant",
        "system" => "system",
        "tool" | "observation" => "tool",
        "function_call" => return Ok(json!({"role": "assistant", "content": "", "tool_calls": calls(value)?})),
        other => {
            return Err(format!(
                ".from is {other:?}; expected human, gpt, user, assistant, system, tool, function_call or observation"
            ));
        }
    };
    Ok(json!({"role": role, "content": value}))
}

/// The calls that a `function_call` turn makes: one, or a list.
fn calls(value: &str) -> Result<Vec<Value>, String> {
    let calls = match serde_json::from_str(value) {
        Ok(Value::Array(calls)) => calls,
        Ok(call) => vec![call],
        Err(_) => Vec::new(),
    };
    let is_call = |call: &Value| call["name"].is_string() && call.get("arguments").is_some();
    if calls.is_empty() || !calls.iter().all(is_call) {
        return Err(
            " is a function_call whose value is not the JSON of {\"name\", \"arguments\"}, or of a list of them".into(),
        );
    }
    Ok(calls.into_iter().map(|call| json!({"type": "function", "function": call})).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{Content, understand};
    use super::*;

    fn turns(row: Value) -> Vec<Value> {
        match understand(&row).unwrap() {
            Content::Chat { messages, .. } => messages,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_name_of_a_role_is_known() {
        let names = ["system", "human", "gpt", "user", "assistant", "chatgpt", "model", "tool", "observation"];
        let row: Vec<Value> = names.iter().map(|from| json!({"from": from, "value": "v"})).collect();
        let roles: Vec<String> = turns(json!({"conversations": row}))
            .iter()
            .map(|turn| turn["role"].as_str().unwrap().to_string())
            .collect();
        let expected = ["system", "user", "assistant", "user", "assistant", "assistant", "assistant", "tool", "tool"];
        assert_eq!(roles, expected);
    }

    #[test]
    fn a_function_call_becomes_the_tool_calls_of_the_assistant() {
        let one = r#"{"name": "add", "arguments": {"a": 1}}"#;
        for value in [one.to_string(), format!("[{one}]")] {
            let row = json!({"conversations": [{"from": "function_call", "value": value}]});
            let call = json!({"type": "function", "function": {"name": "add", "arguments": {"a": 1}}});
            assert_eq!(turns(row), [json!({"role": "assistant", "content": "", "tool_calls": [call]})]);
        }
    }

    #[test]
    fn a_system_text_beside_the_conversation_comes_first_unless_there_is_one() {
        let asked = json!({"from": "human", "value": "a"});
        let system = |turns: &[Value]| turns[0]["content"].as_str().unwrap().to_string();
        assert_eq!(system(&turns(json!({"conversations": [asked], "system": "s"}))), "s");
        assert_eq!(system(&turns(json!({"conversations": [asked], "system": ""}))), "a");
        let own = json!({"from": "system", "value": "own"});
        assert_eq!(system(&turns(json!({"conversations": [own, asked], "system": "s"}))), "own");
    }

    #[test]
    fn wrong_shapes_are_named() {
        let check = |row: Value, expected: &str| {
            let error = understand(&row).unwrap_err();
            assert!(error.contains(expected), "{row}: {error:?} should say {expected:?}");
        };
        let asked = json!({"from": "human", "value": "a"});
        check(json!({"conversations": "a"}), "conversations is a text");
        check(json!({"conversations": []}), "conversations is an empty list");
        check(json!({"conversations": [asked, {"from": "gpt"}]}), "conversations[1] is not {\"from\"");
        check(json!({"conversations": [{"from": "narrator", "value": "a"}]}), ".from is \"narrator\"; expected human");
        check(
            json!({"conversations": [{"from": "function_call", "value": "add(1)"}]}),
            "conversations[0] is a function_call",
        );
        check(json!({"conversations": [asked], "system": 1}), "system is a number");
    }
}

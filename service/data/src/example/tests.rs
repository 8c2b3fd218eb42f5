//! Every kind of row, and every way to get one wrong.

use serde_json::json;

use super::*;

#[test]
fn each_kind_is_recognised() {
    let check = |row: Value, kind: &str| assert_eq!(understand(&row).unwrap().kind(), kind, "{row}");
    let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    check(json!({"text": "a"}), "text");
    check(json!({"text": "a", "prompt": null, "completion": null}), "text");
    check(json!({"prompt": "a", "completion": ""}), "prompt and completion");
    check(json!({"prompt": turns, "completion": turns}), "prompt and completion messages");
    check(json!({"messages": turns, "id": 7}), "messages");
    check(json!({"prompt": "a", "messages": turns}), "messages");
    check(json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [{}]}]}), "messages");
    check(json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}), "messages");
    check(json!({"conversations": [{"from": "human", "value": "a"}], "text": "a"}), "messages");
    check(json!({"instruction": "a", "input": "", "output": "b", "text": "all of it"}), "prompt and completion");
    check(
        json!({"instruction": "a", "output": "b", "prompt": turns, "completion": turns}),
        "prompt and completion messages",
    );
    check(json!({"input_ids": [1, 2], "text": "a", "messages": turns}), "tokens");
}

#[test]
fn tools_come_as_a_list_or_as_its_json() {
    let turns = json!([{"role": "user", "content": "a"}]);
    for tools in [json!([{"name": "f"}]), json!("[{\"name\": \"f\"}]")] {
        let row = json!({"messages": turns, "tools": tools, "chat_template_kwargs": {"enable_thinking": false}});
        let Content::Chat { context, .. } = understand(&row).unwrap() else { panic!("no conversation") };
        assert_eq!(context.tools, Some(json!([{"name": "f"}])));
        assert_eq!(context.variables["enable_thinking"], json!(false));
    }
    for none in [json!([]), json!("[]"), json!(" "), json!(null)] {
        let row = json!({"messages": turns, "tools": none});
        let Content::Chat { context, .. } = understand(&row).unwrap() else { panic!("no conversation") };
        assert_eq!(context.tools, None, "{row}");
    }
}

#[test]
fn only_the_columns_of_its_kind_make_a_row() {
    let check = |row: Value, expected: &[&str]| {
        let found: Vec<&str> = columns(&row).iter().copied().filter(|name| row.get(*name).is_some()).collect();
        assert_eq!(found, expected, "{row}");
    };
    check(json!({"text": "a", "input": "b", "labels": 1}), &["text"]);
    check(json!({"input_ids": [1], "labels": [1], "text": "a"}), &["input_ids", "labels"]);
    check(json!({"instruction": "a", "output": "b", "text": "c"}), &["instruction", "output"]);
    check(json!({"conversations": [], "system": "s", "text": "c"}), &["conversations", "system"]);
    check(json!({"messages": [], "system": "s", "id": 1}), &["messages"]);
    check(json!("text"), &[]);
}

#[test]
fn wrong_shapes_are_named() {
    let check = |row: Value, expected: &str| {
        let error = understand(&row).unwrap_err();
        assert!(error.contains(expected), "{row}: {error:?} should say {expected:?}");
    };
    check(json!([]), "the row is a list");
    check(json!({}), "nothing; expected");
    check(json!({"instruction": "a", "response": "b"}), "columns instruction, response; expected {\"messages\"");
    check(json!({"text": 7}), "text is a number");
    check(json!({"text": {"bytes": 3}}), "text is an object");
    check(json!({"prompt": "a"}), "prompt stands without completion");
    check(json!({"completion": "a"}), "completion stands without prompt");
    check(json!({"prompt": "a", "completion": []}), "prompt is a text and completion is a list");
    check(json!({"messages": "a"}), "messages is a text");
    check(json!({"messages": []}), "empty list");
    check(json!({"messages": ["a"]}), "messages[0] is a text");
    check(json!({"messages": [{"content": "a"}]}), "messages[0] has no role");
    check(json!({"messages": [{"role": 1, "content": "a"}]}), "messages[0].role is a number");
    check(json!({"messages": [{"role": "user", "content": "a"}, {"role": "user"}]}), "messages[1] has no content");
    check(json!({"messages": [{"role": "user", "content": 1}]}), "messages[0].content is a number");
    check(json!({"messages": [{"role": "user", "content": "a"}], "tools": "x"}), "tools is a text");
}

//! What is trained on, by hand on a byte tokenizer and against TRL and transformers on the fixtures.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::example::understand;
use crate::tokenizer::tests::byte_tokenizer;

fn tokenize(tokenizer: &RowTokenizer, row: Value) -> Result<Tokens, Error> {
    tokenizer.tokenize(&understand(&row).unwrap())
}

/// The text with what is trained on in brackets.
fn marked(tokenizer: &RowTokenizer, row: Value) -> String {
    let tokens = tokenize(tokenizer, row).unwrap();
    let mut out = String::new();
    for group in tokens.ids.iter().zip(&tokens.trained).collect::<Vec<_>>().chunk_by(|a, b| a.1 == b.1) {
        let ids: Vec<u32> = group.iter().map(|(id, _)| **id).collect();
        let text = tokenizer.tokenizer().decode(&ids, false).unwrap();
        out += &if *group[0].1 { format!("[{text}]") } else { text };
    }
    out
}

pub(super) fn with(template: Option<&str>, form: impl Into<Form>) -> RowTokenizer {
    RowTokenizer::new(Arc::new(byte_tokenizer(true)), template, form).unwrap()
}

fn turns(roles: &[&str]) -> Value {
    roles.iter().enumerate().map(|(n, role)| json!({"role": role, "content": format!("m{n}")})).collect()
}

#[test]
fn texts_get_bos_and_the_end_token_once() {
    let tokenizer = with(None, LossOn::Completion);
    assert_eq!(marked(&tokenizer, json!({"text": "ab"})), "[<|im_start|>ab<|im_end|>]");
    assert_eq!(marked(&tokenizer, json!({"text": "ab<|im_end|>"})), "[<|im_start|>ab<|im_end|>]");
    let row = json!({"prompt": "ab", "completion": "cd"});
    assert_eq!(marked(&tokenizer, row.clone()), "<|im_start|>ab[cd<|im_end|>]");
    assert_eq!(marked(&with(None, LossOn::All), row), "[<|im_start|>abcd<|im_end|>]");
}

#[test]
fn completion_is_the_last_assistant_turn_with_what_ends_it() {
    let tokenizer = with(None, LossOn::Completion);
    let chat = |roles: &[&str]| marked(&tokenizer, json!({"messages": turns(roles)}));
    assert_eq!(
        chat(&["user", "assistant", "user", "assistant"]),
        "<|im_start|>user\nm0<|im_end|>\n<|im_start|>assistant\nm1<|im_end|>\n<|im_start|>user\nm2<|im_end|>\n\
         <|im_start|>assistant\n[m3<|im_end|>\n]"
    );
    assert_eq!(
        chat(&["user", "assistant", "user"]),
        "<|im_start|>user\nm0<|im_end|>\n<|im_start|>assistant\n[m1<|im_end|>\n]<|im_start|>user\nm2<|im_end|>\n"
    );
    assert_eq!(chat(&["assistant"]), "<|im_start|>assistant\n[m0<|im_end|>\n]");
    assert_eq!(chat(&["user"]), "<|im_start|>user\nm0<|im_end|>\n");
    let split = json!({"prompt": turns(&["user"]), "completion": turns(&["assistant", "user"])});
    assert_eq!(
        marked(&tokenizer, split),
        "<|im_start|>user\nm0<|im_end|>\n<|im_start|>assistant\n[m0<|im_end|>\n<|im_start|>user\nm1<|im_end|>\n]"
    );
}

#[test]
fn assistant_turns_are_found_with_and_without_generation_tags() {
    let marks = "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}.{% endgeneration %}{% else %}{{ m.content }};{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let plain = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ '.' if m.role == 'assistant' else ';' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    for template in [marks, plain] {
        let tokenizer = with(Some(template), LossOn::Assistant);
        let row = json!({"messages": turns(&["user", "assistant", "user", "assistant", "user"])});
        assert_eq!(marked(&tokenizer, row), "user:m0;assistant:[m1.]user:m2;assistant:[m3.]user:m4;");
    }
}

#[test]
fn a_template_that_looks_ahead_is_taken_apart_all_the_same() {
    let strips = "{% for m in messages %}{{ m.role }}:{% if loop.last %}!{% endif %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    let row = json!({"messages": turns(&["user", "assistant", "user", "assistant"])});
    let found = marked(&with(Some(strips), LossOn::Assistant), row);
    assert_eq!(found, "user:m0;assistant:[m1;]user:m2;assistant:[!m3;]");
}

#[test]
fn a_template_that_hides_its_turns_is_refused_by_name() {
    let check = |template: &str, expected: &str| {
        let row = json!({"messages": turns(&["user", "assistant", "user", "assistant"])});
        let error = tokenize(&with(Some(template), LossOn::Assistant), row).unwrap_err().to_string();
        assert!(error.contains("{% generation %}") && error.contains(expected), "{error}");
    };
    let asked_otherwise =
        "{% for m in messages %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    check(asked_otherwise, "the start of turn 2");
    let ends_otherwise = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% if loop.last and m.role == 'assistant' %}END{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    check(ends_otherwise, "the end of turn 2");
}

#[test]
fn rows_that_cannot_be_trained_on_as_asked_say_why() {
    let check = |tokenizer: RowTokenizer, row: Value, expected: &str| {
        let error = tokenize(&tokenizer, row).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    };
    check(with(None, LossOn::Assistant), json!({"text": "a"}), "it is text, which has no assistant turns");
    check(with(None, LossOn::Assistant), json!({"input_ids": [1]}), "it is tokens, which has no assistant turns");
    let ids = json!({"input_ids": [1, 258, 259]});
    check(with(None, LossOn::All), ids, "input_ids[2] is 259; the tokenizer's ids go up to 258");
    let refuses = "{{ raise_exception('no') }}";
    check(with(Some(refuses), LossOn::All), json!({"messages": turns(&["user"])}), "refuses this conversation: no");
}

#[test]
fn rows_of_tokens_are_taken_as_they_are() {
    let tokens =
        tokenize(&with(None, LossOn::Completion), json!({"input_ids": [7, 8, 9], "completion_mask": [0, 1, 1]}));
    assert_eq!(tokens.unwrap(), Tokens { ids: vec![7, 8, 9], trained: vec![false, true, true] });
}

#[test]
fn labels_are_the_next_token_where_it_is_trained() {
    let tokens = Tokens { ids: vec![10, 11, 12, 13], trained: vec![true, false, true, true] };
    let example = tokens.into_example("o".into(), 3, false);
    assert_eq!(example.documents[0].labels, [IGNORE_INDEX, 12, 13, IGNORE_INDEX]);
    assert_eq!(example.num_targets(), 2);
    assert!(Tokens::default().into_example("o".into(), 1, true).is_empty());
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn fixture(path: &str) -> Value {
    let path = fixtures().join(path);
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

fn folder_tokenizer(name: &str, loss_on: LossOn) -> RowTokenizer {
    let tokenizer = Tokenizer::from_folder(&fixtures().join("tokenizers").join(name)).unwrap();
    RowTokenizer::new(Arc::new(tokenizer), None, loss_on).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_of_texts_equal_transformers() {
    for name in ["chatml", "inst"] {
        let tokenizer = folder_tokenizer(name, LossOn::All);
        for case in fixture(&format!("chat/{name}.json"))["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.tokenizer().encode(text, true).unwrap(), ids(&case["input_ids"]), "{name}: {text:?}");
        }
    }
}

#[test]
fn renderings_and_assistant_masks_equal_transformers() {
    for name in ["chatml", "inst"] {
        let tokenizer = folder_tokenizer(name, LossOn::Assistant);
        let none = ChatContext::default();
        for case in fixture(&format!("chat/{name}.json"))["conversations"].as_array().unwrap() {
            let messages = case["messages"].as_array().unwrap();
            let render = |prompt| tokenizer.template().unwrap().render(messages, &none, prompt);
            if let Some(error) = case["error"].as_str() {
                let found = render(false).unwrap_err();
                assert!(
                    matches!(&found, template::Error::Refused(what) if error.contains(what)),
                    "{name}: {case}: {found}"
                );
                continue;
            }
            assert_eq!(render(false).unwrap().text, case["rendered"].as_str().unwrap(), "{name}: {}", case["name"]);
            let with_prompt = case["rendered_with_generation_prompt"].as_str().unwrap();
            assert_eq!(render(true).unwrap().text, with_prompt, "{name}: {}", case["name"]);
            assert_eq!(tokenizer.ids(messages, &none, false).unwrap(), ids(&case["input_ids"]));
            if !case["assistant_mask"].is_null() {
                let tokens = tokenize(&tokenizer, json!({"messages": messages})).unwrap();
                let mask: Vec<u32> = tokens.trained.iter().map(|trained| u32::from(*trained)).collect();
                assert_eq!(mask, ids(&case["assistant_mask"]), "{name}: {}", case["name"]);
            }
        }
    }
}

#[test]
fn prompt_completion_rows_equal_trl() {
    for name in ["chatml", "inst"] {
        let tokenizer = folder_tokenizer(name, LossOn::Completion);
        let golden = fixture(&format!("chat/{name}.json"));
        for kind in ["prompt_completion", "conversational_prompt_completion"] {
            let cases = golden[kind].as_array().unwrap();
            assert!(!cases.is_empty());
            for case in cases {
                check_trl(&tokenizer, json!({"prompt": case["prompt"], "completion": case["completion"]}), case);
                if let (Some(prompt), Some(completion)) = (case["prompt"].as_array(), case["completion"].as_array()) {
                    let messages: Vec<&Value> = prompt.iter().chain(completion).collect();
                    check_trl(&tokenizer, json!({"messages": messages}), case);
                }
            }
        }
    }
}

#[test]
fn rows_of_tokens_equal_trl() {
    for name in ["chatml", "inst"] {
        let cases = fixture(&format!("chat/{name}.json"))["tokens"].as_array().unwrap().clone();
        assert_eq!(cases.len(), 12);
        for case in cases {
            // Without completion_only_loss TRL still looks at assistant_masks.
            let loss_on = match (&case["completion_only"], &case["row"]["assistant_masks"]) {
                (Value::Bool(true), _) => LossOn::Completion,
                (_, Value::Null) => LossOn::All,
                _ => LossOn::Assistant,
            };
            check_trl(&folder_tokenizer(name, loss_on), case["row"].clone(), &case);
        }
    }
}

#[test]
fn training_rows_equal_trl() {
    let tokenizer = folder_tokenizer("chatml", LossOn::Completion);
    let rows = std::fs::read_to_string(fixtures().join("sft/rows.jsonl")).unwrap();
    let golden = fixture("sft/rows_tokenized.json");
    assert_eq!(rows.lines().count(), golden.as_array().unwrap().len());
    for (row, case) in rows.lines().zip(golden.as_array().unwrap()) {
        check_trl(&tokenizer, serde_json::from_str(row).unwrap(), case);
    }
}

/// TRL's labels are not shifted, and the first token of a document is masked when it is trained.
fn check_trl(tokenizer: &RowTokenizer, row: Value, case: &Value) {
    let example = tokenize(tokenizer, row).unwrap().into_document();
    assert_eq!(example.input_ids, ids(&case["input_ids"]), "{case}");
    let labels: Vec<i64> = serde_json::from_value(case["labels"].clone()).unwrap();
    assert_eq!(example.labels[..example.len() - 1], labels[1..], "{case}");
}

#[test]
fn a_gguf_file_gives_the_tokenizer_of_the_folder_it_was_made_from() {
    let original = folder_tokenizer("chatml", LossOn::All);
    for name in ["llama", "qwen2"] {
        let gguf = crate::gguf::Gguf::open(&fixtures().join(format!("gguf/{name}.gguf"))).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        assert_eq!(tokenizer.chat_template(), original.tokenizer().chat_template(), "{name}");
        assert_eq!(tokenizer.eos_id(), original.tokenizer().eos_id(), "{name}");
        for case in fixture("chat/chatml.json")["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["input_ids"]), "{name}: {text:?}");
        }
    }
}

fn stock(name: &str) -> String {
    std::fs::read_to_string(fixtures().join(format!("templates/{name}.jinja"))).unwrap()
}

#[test]
fn the_completion_is_found_where_the_template_writes_the_prompt_differently_when_more_follows() {
    let check = |name: &str, roles: &[&str], expected: &str| {
        let text = marked(&with(Some(&stock(name)), LossOn::Completion), json!({"messages": turns(roles)}));
        assert!(text.ends_with(expected), "{name}: {text:?} should end with {expected:?}");
        assert_eq!(text.matches('[').count() - text.matches("[INST]").count() - text.matches("[/INST]").count(), 1);
    };
    // The system text goes to the last question, which is the last message of the prompt alone.
    check("mistral_nemo", &["system", "user", "assistant", "user", "assistant"], "[INST]m3[/INST][m4<|im_end|>]");
    // Turns that are not the last lose their thought.
    let asked_again = "<|im_start|>assistant\n[m1<|im_end|>\n]<|im_start|>user\nm2<|im_end|>\n";
    check("qwen3", &["user", "assistant", "user"], asked_again);
    check("phi3", &["user", "assistant", "user"], "<|assistant|>\n[m1<|end|>\n]<|user|>\nm2<|end|>\n<|im_end|>");
}

#[test]
fn a_completion_that_cannot_be_told_apart_is_refused() {
    let row = json!({"prompt": turns(&["system", "user"]), "completion": [{"role": "tool", "content": "7"}]});
    let looks_ahead = "{% for m in messages %}{{ m.role }}:{% if loop.last %}!{% endif %}{{ m.content }};{% endfor %}";
    let error = tokenize(&with(Some(looks_ahead), LossOn::Completion), row).unwrap_err().to_string();
    assert!(error.contains("begin the completion with an assistant message"), "{error}");
}

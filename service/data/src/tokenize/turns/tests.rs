//! The templates that models are published with (tests/fixtures/templates): rendered as transformers does, and taken apart
//! into exactly what the assistant writes, by hand and against TRL's variants with generation tags.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::example::{Content, understand};

/// How a template writes an assistant turn.
struct Stock {
    name: &'static str,
    /// What stands before the turn: the end of the generation prompt.
    header: &'static str,
    /// What the assistant writes ahead of its content.
    lead: &'static str,
    /// What ends its turn.
    end: &'static str,
    /// What else ends the text when its turn is the last.
    last: &'static str,
}

const LLAMA: Stock = Stock {
    name: "llama3",
    header: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    lead: "",
    end: "<|eot_id|>",
    last: "",
};
const GEMMA: Stock =
    Stock { name: "gemma", header: "<start_of_turn>model\n", lead: "", end: "<end_of_turn>\n", last: "" };
const CHATML: Stock =
    Stock { name: "smollm2", header: "<|im_start|>assistant\n", lead: "", end: "<|im_end|>\n", last: "" };
const PHI3: Stock =
    Stock { name: "phi3", header: "<|assistant|>\n", lead: "", end: "<|end|>\n", last: "<|endoftext|>" };
const MISTRAL: Stock = Stock { name: "mistral_v3", header: "[/INST]", lead: " ", end: "</s>", last: "" };

const STOCK: [Stock; 18] = [
    LLAMA,
    Stock { name: "llama3_1", ..LLAMA },
    Stock { name: "llama3_2", ..LLAMA },
    GEMMA,
    Stock { name: "gemma3", ..GEMMA },
    CHATML,
    Stock { name: "smollm3", ..CHATML },
    Stock { name: "qwen2_5", ..CHATML },
    Stock { name: "qwen3_instruct_2507", ..CHATML },
    Stock { name: "qwen3", ..CHATML },
    PHI3,
    Stock { name: "phi3_5", ..PHI3 },
    Stock { name: "phi4", header: "<|im_start|>assistant<|im_sep|>", end: "<|im_end|>", ..CHATML },
    Stock { name: "phi4_mini", header: "<|assistant|>", end: "<|end|>", ..PHI3 },
    MISTRAL,
    Stock { name: "mistral_v1", ..MISTRAL },
    Stock { name: "mistral_v7", ..MISTRAL },
    Stock { name: "mistral_nemo", lead: "", ..MISTRAL },
];

/// A conversation of the fixtures, in a template.
struct Case {
    template: ChatTemplate,
    eos: String,
    messages: Vec<Value>,
    context: ChatContext,
    golden: Value,
}

impl Case {
    fn rendered(&self) -> &str {
        self.golden["rendered"].as_str().unwrap()
    }

    /// What lies before each turn, and the turn.
    fn turns(&self) -> Vec<(&str, &str)> {
        let whole = self.rendered();
        let Case { template, eos, messages, context, .. } = self;
        let spans = Turns { template, messages, context, whole, eos }.spans();
        let spans = spans.unwrap_or_else(|error| panic!("{error}: {whole}"));
        spans.into_iter().map(|span| (&whole[..span.start], &whole[span])).collect()
    }
}

fn template(name: &str) -> (String, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/templates");
    let golden = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
    let text = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
    (text, serde_json::from_slice(&golden).unwrap())
}

/// The conversations that a template accepts. Each goes through [`understand`], as a row would.
fn cases(name: &str) -> Vec<Case> {
    let (text, golden) = template(name);
    let tokens: BTreeMap<String, Value> = ["bos_token", "eos_token"]
        .into_iter()
        .filter(|key| !golden[key].is_null())
        .map(|key| (key.to_string(), golden[key].clone()))
        .collect();
    let case = |golden: &Value| {
        let Content::Chat { messages, context } = understand(golden).unwrap() else { panic!("{golden}") };
        let template = ChatTemplate::new(&text, &tokens).unwrap();
        let eos = tokens["eos_token"].as_str().unwrap().to_string();
        Case { template, eos, messages, context, golden: golden.clone() }
    };
    golden["conversations"].as_array().unwrap().iter().map(case).collect()
}

fn case(name: &str, conversation: &str) -> Case {
    cases(name).into_iter().find(|case| case.golden["name"] == conversation).unwrap()
}

#[test]
fn stock_templates_render_as_in_transformers() {
    for stock in STOCK {
        for case in cases(stock.name) {
            let render = |prompt| case.template.render(&case.messages, &case.context, prompt);
            match case.golden["error"].as_str() {
                Some(error) => assert!(render(false).unwrap_err().to_string().contains(error)),
                None => {
                    let name = &case.golden["name"];
                    assert_eq!(render(false).unwrap().text, case.rendered(), "{} {name}", stock.name);
                    let asking = case.golden["rendered_with_generation_prompt"].as_str().unwrap();
                    assert_eq!(render(true).unwrap().text, asking, "{} {name}", stock.name);
                }
            }
        }
    }
}

#[test]
fn a_turn_is_what_the_assistant_writes_with_its_end_and_without_its_header() {
    for stock in STOCK {
        for case in cases(stock.name) {
            let name = case.golden["name"].as_str().unwrap();
            if ["thinking", "not_thinking", "tools"].contains(&name) || case.golden["error"].is_string() {
                continue;
            }
            let Stock { header, lead, end, last, .. } = stock;
            let is_last = |index: usize| index + 1 == case.messages.len();
            // Qwen3 writes an empty thought into the last turn alone.
            let thought = |index| if stock.name == "qwen3" && is_last(index) { "<think>\n\n</think>\n\n" } else { "" };
            let expected: Vec<String> = (0..case.messages.len())
                .filter(|&index| is_assistant(&case.messages[index]))
                .map(|index| {
                    let content = case.messages[index]["content"].as_str().unwrap();
                    let last = if is_last(index) { last } else { "" };
                    format!("{lead}{}{content}{end}{last}", thought(index))
                })
                .collect();
            let turns = case.turns();
            let found: Vec<&str> = turns.iter().map(|(_, turn)| *turn).collect();
            assert_eq!(found, expected, "{} {name}", stock.name);
            assert!(turns.iter().all(|(before, _)| before.ends_with(header)), "{} {name}: {turns:?}", stock.name);
        }
    }
}

#[test]
fn turns_equal_the_generation_spans_of_trl_where_it_has_them() {
    let mut compared = 0;
    for stock in STOCK {
        for case in cases(stock.name) {
            let Some(spans) = case.golden["spans"].as_array() else { continue };
            // TRL counts the line break of Qwen2.5's role header to the turn; the generation prompt ends with it.
            let header = if stock.name == "qwen2_5" { "\n" } else { "" };
            let expected: String =
                spans.iter().map(|span| span.as_str().unwrap().strip_prefix(header).unwrap()).collect();
            let found: String = case.turns().into_iter().map(|(_, turn)| turn).collect();
            assert_eq!(found, expected, "{} {}", stock.name, case.golden["name"]);
            compared += 1;
        }
    }
    assert!(compared >= 35, "{compared}");
}

#[test]
fn tool_calls_are_turns_of_the_assistant() {
    let check = |name: &str, calls: fn(u8, u8) -> String, answer: fn(u8) -> String| {
        let case = case(name, "tools");
        assert!(case.rendered().contains("Adds numbers."), "{name}: the tools are in the text");
        let found: Vec<&str> = case.turns().into_iter().map(|(_, turn)| turn).collect();
        assert_eq!(found, [calls(1, 2), answer(3), calls(3, 4), answer(7)], "{name}");
    };
    let llama = |a, b| format!("{{\"name\": \"add\", \"parameters\": {{\"a\": {a}, \"b\": {b}}}}}<|eot_id|>");
    check("llama3_1", llama, |sum| format!("It is {sum}.<|eot_id|>"));
    check("llama3_2", llama, |sum| format!("It is {sum}.<|eot_id|>"));
    let qwen = |a, b| {
        format!(
            "<tool_call>\n{{\"name\": \"add\", \"arguments\": {{\"a\": {a}, \"b\": {b}}}}}\n</tool_call><|im_end|>\n"
        )
    };
    check("qwen2_5", qwen, |sum| format!("It is {sum}.<|im_end|>\n"));
    check("qwen3_instruct_2507", qwen, |sum| format!("It is {sum}.<|im_end|>\n"));
    check("qwen3", qwen, |sum| match sum {
        7 => "<think>\n\n</think>\n\nIt is 7.<|im_end|>\n".into(),
        sum => format!("It is {sum}.<|im_end|>\n"),
    });
    let nemo = |a, b| {
        format!(
            "[TOOL_CALLS][{{\"name\": \"add\", \"arguments\": {{\"a\": {a}, \"b\": {b}}}, \"id\": \"call00001\"}}]</s>"
        )
    };
    check("mistral_nemo", nemo, |sum| format!("It is {sum}.</s>"));
    let v3 = |a, b| {
        format!(
            "[TOOL_CALLS] [{{\"name\": \"add\", \"arguments\": {{\"a\": {a}, \"b\": {b}}}, \"id\": \"call00001\"}}]</s>"
        )
    };
    check("mistral_v3", v3, |sum| format!(" It is {sum}.</s>"));
}

#[test]
fn thoughts_are_the_assistants_where_the_template_keeps_them() {
    let check = |name: &str, conversation: &str, expected: [&str; 2]| {
        let case = case(name, conversation);
        let found: Vec<&str> = case.turns().into_iter().map(|(_, turn)| turn).collect();
        assert_eq!(found, expected, "{name} {conversation}");
    };
    check("qwen3", "thinking", ["4<|im_end|>\n", "<think>\nThree and three.\n</think>\n\n6<|im_end|>\n"]);
    // Asked not to think, the model is given the empty thought, in Qwen3 before the last turn and in SmolLM3 before each.
    check("qwen3", "not_thinking", ["4<|im_end|>\n", "6<|im_end|>\n"]);
    check("smollm3", "not_thinking", ["4<|im_end|>\n", "6<|im_end|>\n"]);
}

#[test]
fn a_conversation_that_begins_with_the_assistant_leaves_its_header_out() {
    let messages = [
        serde_json::json!({"role": "assistant", "content": "Hi, I listen."}),
        serde_json::json!({"role": "user", "content": "Bye"}),
        serde_json::json!({"role": "assistant", "content": "Bye."}),
    ];
    for name in ["smollm2", "llama3", "qwen2_5", "phi3"] {
        let first = &cases(name)[0];
        let whole = first.template.render(&messages, &first.context, false).unwrap().text;
        let turns = Turns {
            template: &first.template,
            messages: &messages,
            context: &first.context,
            whole: &whole,
            eos: &first.eos,
        };
        let found: Vec<&str> = turns.spans().unwrap().into_iter().map(|span| &whole[span]).collect();
        assert!(found[0].starts_with("Hi, I listen.<|") && found[1].starts_with("Bye.<|"), "{name}: {found:?}");
    }
}

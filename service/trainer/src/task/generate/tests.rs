//! Answers from the cache beside those of the whole text.

use std::path::PathBuf;

use serde_json::json;
use tch::{Device, Kind};

use super::*;
use crate::model::{Architecture, Batch, LoraOptions, TargetModules, tiny};

const CPU: Compute = Compute { device: Device::Cpu, kind: Kind::Float };

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)
}

/// The plain way: the whole text through the model for every token.
fn plain(model: &Decoder, adapter: Option<&Adapter>, prompt: &[u32], steps: usize) -> Vec<u32> {
    let mut ids: Vec<i64> = prompt.iter().map(|id| i64::from(*id)).collect();
    for _ in 0..steps {
        let hidden = tch::no_grad(|| model.forward(&Batch::single(&ids, Device::Cpu), adapter, None));
        ids.push(model.logits(&hidden.narrow(0, ids.len() as i64 - 1, 1), adapter).argmax(-1, false).int64_value(&[0]));
    }
    ids[prompt.len()..].iter().map(|id| *id as u32).collect()
}

/// An adapter that changes answers: A and B are both random.
fn adapter(model: &Decoder) -> Adapter {
    let options =
        LoraOptions { rank: 2, alpha: 8.0, target_modules: TargetModules::AllLinear, ..LoraOptions::default() };
    let adapter = Adapter::new(model, &options, 3).unwrap();
    adapter.flat().shallow_clone().copy_(&tiny::random(&[adapter.num_parameters()], 5));
    adapter
}

#[test]
fn cached_answers_equal_those_of_whole_texts_in_every_family() {
    for architecture in Architecture::ALL {
        let model = tiny::model(architecture);
        let adapter = adapter(&model);
        let mut answers = Vec::new();
        for adapter in [None, Some(&adapter)] {
            for prompt in [&[1][..], &[7, 3, 9, 1, 4, 22, 51, 30, 8]] {
                let got = greedy(&model, adapter, prompt, 25, &[]).unwrap();
                assert_eq!(got, plain(&model, adapter, prompt, 25), "{architecture:?}, adapter {}", adapter.is_some());
                answers.push(got);
            }
        }
        assert_ne!(answers[..2], answers[2..], "{architecture:?}: the adapter takes part");
    }
}

#[test]
fn an_answer_ends_before_a_stop_token_and_at_the_models_length() {
    let model = tiny::model(Architecture::Llama);
    let free = greedy(&model, None, &[5, 6], 20, &[]).unwrap();
    let stop = free[7];
    let first = free.iter().position(|id| *id == stop).unwrap();
    assert_eq!(greedy(&model, None, &[5, 6], 20, &[stop]).unwrap(), free[..first]);
    assert!(greedy(&model, None, &[5, 6], 0, &[]).unwrap().is_empty());
    // The tiny models are made for 64 positions.
    assert_eq!(greedy(&model, None, &[5; 60], 20, &[]).unwrap().len(), 4);
    let error = greedy(&model, None, &[5; 64], 20, &[]).unwrap_err().to_string();
    assert!(error.contains("64 tokens") && error.contains("up to 64"), "{error}");
    assert!(greedy(&model, None, &[], 20, &[]).is_err());
}

#[test]
fn a_folder_and_a_gguf_file_answer_conversations_and_texts() {
    for path in ["models/llama", "gguf/llama.gguf", "models/mistral"] {
        let writer = Writer::load(&fixture(path), None, CPU).unwrap();
        let prompts: Vec<Prompt> = serde_json::from_value(json!([
            {"messages": [{"role": "user", "content": "What is 2 + 2?"}]},
            {"prompt": "Once upon"},
        ]))
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("answers.jsonl");
        writer.answer_all(&prompts, 6, &out).unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        let answers: Vec<Answer> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers[0].prompt, "What is 2 + 2?");
        assert_eq!(answers[1].prompt, "Once upon");
        for answer in &answers {
            assert!(answer.tokens.len() <= 6, "{answer:?}");
            assert_eq!(writer.tokenizer.decode(&answer.tokens, true).unwrap(), answer.answer);
        }
        // What a conversation becomes ends where the assistant is to speak.
        let ids = writer.encode(&prompts[0]).unwrap();
        let template = writer.template.as_ref().unwrap();
        let messages = [json!({"role": "user", "content": "What is 2 + 2?"})];
        let rendered = template.render(&messages, &ChatContext::default(), true).unwrap().text;
        assert_eq!(writer.tokenizer.decode(&ids, false).unwrap(), rendered);
    }
}

#[test]
fn a_folder_with_one_gguf_file_answers_as_the_file_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = fixture("gguf/qwen2.gguf");
    std::fs::copy(&file, folder.path().join("any name.gguf")).unwrap();
    let prompt = Prompt::Text { prompt: "Once upon".into() };
    let answer = |path: &Path| Writer::load(path, None, CPU).unwrap().answer(&prompt, 5).unwrap();
    assert_eq!(answer(folder.path()), answer(&file));
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

    // The template of this model refuses two turns of one role.
    let writer = Writer::load(&fixture("models/mistral"), None, CPU).unwrap();
    let turn = json!({"role": "user", "content": "a"});
    let refused = Prompt::Conversation { messages: vec![turn.clone(), turn] };
    let good = Prompt::Text { prompt: "a".into() };
    let error = writer.answer_all(&[good, refused], 1, &folder.path().join("out")).unwrap_err().to_string();
    assert!(error.starts_with("prompt 1: the chat template refuses"), "{error}");
}

//! The real model's own tokenizer and rows, where `make demo` has put them; elsewhere a note says what was not looked at.

// Helpers of a test are tests too, which the lints cannot see.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::dataset::{Dataset, Options, Sources};
use hone_data::gguf::Gguf;
use hone_data::storage::Storage;
use hone_data::template::{ChatContext, ChatTemplate};
use hone_data::tokenizer::Tokenizer;
use hone_job::spec::{LossOn, Training};
use serde_json::json;

/// A file that `make demo` fetches, or the one named by the variable.
fn fetched(variable: &str, path: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache").join(path);
    let path = std::env::var_os(variable).map_or(default, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    println!("not looked at: {} is absent; `make demo` fetches it, or set {variable}", path.display());
    None
}

fn model() -> Option<Tokenizer> {
    let path = fetched("HONE_TEST_GGUF", "model/SmolLM2-135M-Instruct.Q4_1.gguf")?;
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!((gguf.str("general.architecture"), gguf.tensors.len()), (Some("llama"), 272));
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    tokenizer.check_fits(gguf.u64("llama.vocab_size").unwrap()).unwrap();
    Some(tokenizer)
}

/// Ids by transformers with the pre-tokenizer that the model was trained with (digits singly, then byte level).
/// transformers' own reading of the GGUF file leaves the digits rule out, which shows in the second text.
#[test]
fn ids_of_the_real_tokenizer_equal_transformers() {
    let Some(tokenizer) = model() else { return };
    let check = |text: &str, ids: &[u32]| {
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids, false).unwrap(), text);
    };
    check("The year 2026 has 365 days.", &[504, 713, 216, 34, 32, 34, 38, 553, 216, 35, 38, 37, 2009, 30]);
    check("  5 apples", &[256, 37, 13855]);
    check("x=12345;\n\n\tfoo(1.5)", &[104, 45, 33, 34, 35, 36, 37, 43, 1116, 197, 15236, 24, 33, 30, 37, 25]);
    check("<|im_start|>user\nHi 42<|im_end|>\n", &[1, 4093, 198, 26843, 216, 36, 34, 2, 198]);
    check("don't we'll I'M", &[12420, 982, 392, 3060, 339, 23, 61]);
    check("١٢٣ ½ Ⅷ", &[164, 111, 164, 112, 164, 113, 216, 16738, 216, 173, 223, 117]);
    assert_eq!((tokenizer.eos_id(), tokenizer.bos_id(), tokenizer.stop_ids()), (Some(2), Some(1), &[2][..]));
}

/// Ids alone come by a way of their own.
#[test]
fn ids_without_offsets_are_those_with_them() {
    let (Some(tokenizer), Some(rows)) = (model(), fetched("HONE_TEST_ROWS", "rows/train.jsonl")) else { return };
    let rows = std::fs::read_to_string(rows).unwrap();
    for text in rows.lines().chain([rows.as_str()]) {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(ids, tokenizer.encode_with_offsets(text, true).unwrap().ids, "{text}");
    }
}

#[test]
fn the_real_template_renders_as_in_transformers() {
    let Some(tokenizer) = model() else { return };
    let template = ChatTemplate::new(tokenizer.chat_template().unwrap(), tokenizer.special_tokens()).unwrap();
    let messages =
        [json!({"role": "user", "content": "What is 12 + 30?"}), json!({"role": "assistant", "content": "42."})];
    assert_eq!(
        template.render(&messages, &ChatContext::default(), false).unwrap().text,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n42.<|im_end|>\n"
    );
}

#[tokio::test]
async fn the_real_rows_load_whole() {
    let (Some(tokenizer), Some(rows)) = (model(), fetched("HONE_TEST_ROWS", "rows/train.jsonl")) else { return };
    let sources = Sources { train: vec![Storage::open_path(&rows).unwrap()], eval: vec![] };
    for loss_on in [LossOn::Completion, LossOn::Assistant, LossOn::All] {
        let options = Options::new(&Training::on(vec!["rows".into()]).data, loss_on);
        let start = std::time::Instant::now();
        let found =
            Dataset::load(sources.clone(), Arc::new(tokenizer.clone()), options, Arc::new(|_| {})).await.unwrap();
        let report = &found.train_report;
        let took = start.elapsed();
        println!("{loss_on:?}: {} of {} tokens trained on, {took:?}", report.trained_tokens, report.tokens);
        assert_eq!(report.examples, report.rows_read);
        assert!(report.trained_tokens > 0);
    }
}

//! A small byte-level tokenizer of our own, GGUF metadata written by hand, and the real model where it is present.

use super::*;
use crate::gguf::Value as G;

/// Every byte a token, no merges, three special tokens; whole texts stay readable as ids.
pub(crate) const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The printable stand-ins that byte-level BPE uses for bytes, in the order of GPT-2's vocabulary.
pub(crate) fn byte_tokens() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let rest = (0..256u32).filter(|byte| !printable(*byte)).count() as u32;
    let stand_ins = (0..rest).map(|n| 256 + n);
    (0..256u32).filter(|b| printable(*b)).chain(stand_ins).filter_map(char::from_u32).map(String::from).collect()
}

fn strings(items: impl IntoIterator<Item = impl Into<String>>) -> G {
    G::Array(items.into_iter().map(|item| G::String(item.into())).collect())
}

pub(crate) fn gguf(pre: &str, add_bos: bool, merges: &[&str]) -> Gguf {
    let mut tokens = vec!["<|endoftext|>".to_string(), "<|im_start|>".into(), "<|im_end|>".into()];
    tokens.extend(byte_tokens());
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let kinds = (0..tokens.len()).map(|id| G::I64(if id < 3 { 3 } else { 1 })).collect();
    let metadata = [
        ("tokenizer.ggml.model", G::String("gpt2".into())),
        ("tokenizer.ggml.pre", G::String(pre.into())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", G::Array(kinds)),
        ("tokenizer.ggml.merges", strings(merges.to_vec())),
        ("tokenizer.ggml.bos_token_id", G::U64(1)),
        ("tokenizer.ggml.eos_token_id", G::U64(2)),
        ("tokenizer.ggml.eot_token_id", G::U64(0)),
        ("tokenizer.ggml.add_bos_token", G::Bool(add_bos)),
        ("tokenizer.chat_template", G::String(CHATML.into())),
    ];
    Gguf { metadata: metadata.into_iter().map(|(key, value)| (key.to_string(), value)).collect(), tensors: vec![] }
}

pub(crate) fn byte_tokenizer(add_bos: bool) -> Tokenizer {
    Tokenizer::from_gguf(&gguf("smollm", add_bos, &[])).unwrap()
}

fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, true).unwrap();
    ids.iter().map(|&id| tokenizer.inner.id_to_token(id).unwrap()).collect()
}

#[test]
fn special_tokens_are_whole_and_bytes_go_round() {
    let tokenizer = byte_tokenizer(false);
    assert_eq!(tokens(&tokenizer, "<|im_start|>é"), ["<|im_start|>", "Ã", "©"]);
    let text = "<|im_start|>user\n  Ünïcödé 👩‍🚀\t<|im_end|>";
    let encoded = tokenizer.encode_with_offsets(text, false).unwrap();
    assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), text);
    assert_eq!(encoded.offsets[0], 0.."<|im_start|>".len());
    assert_eq!((tokenizer.eos_id(), tokenizer.bos_id(), tokenizer.stop_ids()), (Some(2), Some(1), &[2, 0][..]));
}

#[test]
fn bos_comes_when_the_file_says_so() {
    assert_eq!(tokens(&byte_tokenizer(true), "a"), ["<|im_start|>", "a"]);
    assert_eq!(byte_tokenizer(true).encode("a", false).unwrap().len(), 1);
}

#[test]
fn the_split_rule_decides_what_may_merge() {
    let merges = ["1 2", "Ġ 1", "a b"];
    let check = |pre: &str, text: &str, expected: &[&str]| {
        let tokenizer = Tokenizer::from_gguf(&gguf(pre, false, &merges)).unwrap();
        assert_eq!(tokens(&tokenizer, text), expected, "{pre}");
    };
    check("smollm", "ab 12", &["ab", "Ġ", "1", "2"]);
    check("gpt-2", "ab 12", &["ab", "Ġ", "12"]);
    check("llama-bpe", "ab 12", &["ab", "Ġ", "12"]);
    check("qwen2", "ab 12", &["ab", "Ġ", "1", "2"]);
}

#[test]
fn unknown_kinds_are_refused_by_name() {
    let error = Tokenizer::from_gguf(&gguf("poro-chat", false, &[])).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.pre = poro-chat") && error.contains("qwen2"), "{error}");
    let mut bert = gguf("default", false, &[]);
    bert.metadata.insert("tokenizer.ggml.model".into(), G::String("bert".into()));
    let error = Tokenizer::from_gguf(&bert).unwrap_err().to_string();
    assert!(error.contains("tokenizer.ggml.model = bert"), "{error}");
    let mut wrong = gguf("default", false, &[]);
    wrong.metadata.insert("tokenizer.ggml.eos_token_id".into(), G::U64(1 << 40));
    let error = Tokenizer::from_gguf(&wrong).unwrap_err().to_string();
    assert!(error.contains("eos_token_id"), "{error}");
}

#[test]
fn sentencepiece_merges_follow_the_scores() {
    let pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "▁ab", "<0x21>"];
    let scores = [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, 0.0];
    let kinds = [2, 3, 3, 1, 1, 1, 1, 1, 1, 6];
    let metadata = [
        ("tokenizer.ggml.model", G::String("llama".into())),
        ("tokenizer.ggml.tokens", strings(pieces)),
        ("tokenizer.ggml.scores", G::Array(scores.map(G::F64).to_vec())),
        ("tokenizer.ggml.token_type", G::Array(kinds.map(G::I64).to_vec())),
        ("tokenizer.ggml.bos_token_id", G::U64(1)),
        ("tokenizer.ggml.eos_token_id", G::U64(2)),
        ("tokenizer.ggml.unknown_token_id", G::U64(0)),
    ];
    let gguf = Gguf { metadata: metadata.into_iter().map(|(k, v)| (k.to_string(), v)).collect(), tensors: vec![] };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert_eq!(tokens(&tokenizer, "ab a!"), ["<s>", "▁ab", "▁a", "<0x21>"]);
    let ids = tokenizer.encode("ab a!", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab a!");
}

#[test]
fn a_saved_tokenizer_is_read_back_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let original = byte_tokenizer(true);
    for (name, bytes) in original.files() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [2, 0]}"#).unwrap();
    let read = Tokenizer::from_folder(folder.path()).unwrap();
    let text = "<|im_start|>user\nhi 42<|im_end|>\n";
    assert_eq!(read.encode(text, true).unwrap(), original.encode(text, true).unwrap());
    assert_eq!(read.chat_template(), Some(CHATML));
    assert_eq!((read.eos_id(), read.bos_id(), read.stop_ids()), (Some(2), Some(1), &[2, 0][..]));
    assert_eq!(read.files(), original.files());
    assert_eq!(read.vocab_size(), 259);
    read.check_fits(259).unwrap();
    let error = read.check_fits(100).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: the tokenizer does not fit"), "{error}");
    assert!(error.contains("258") && error.contains("100"), "{error}");
}

#[test]
fn tokenizer_config_forms_of_tokens_and_templates_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), &byte_tokenizer(false).files()[0].1).unwrap();
    let config = json!({
        "eos_token": {"content": "<|im_end|>", "special": true}, "bos_token": "<|im_start|>", "add_bos_token": true,
        "additional_special_tokens": ["<|im_start|>", {"content": "<|im_end|>"}],
        "chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}],
    });
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.eos_id(), Some(2));
    assert_eq!(tokenizer.chat_template(), Some("yes"));
    assert_eq!(tokens(&tokenizer, "a"), ["<|im_start|>", "a"]);
    assert_eq!(tokenizer.special_tokens()["additional_special_tokens"], json!(["<|im_start|>", "<|im_end|>"]));
}

/// The corpora of the fuzzers hold them all, and more.
#[test]
fn tokenizers_that_grow_texts_or_make_the_library_panic_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/tokenizer_json");
        std::fs::copy(corpus.join(name), folder.path().join("tokenizer.json")).unwrap();
        Tokenizer::from_folder(folder.path())
    };
    for (name, message) in [
        ("text_that_doubles", "make a text 16777216 times as long; at most 256 is allowed"),
        ("text_that_grows_anywhere", "times as long"),
        ("precompiled_cut", "precompiled_charsmap"),
    ] {
        let error = open(name).unwrap_err().to_string();
        assert!(error.contains(message), "{name}: {error}");
    }
    let error = open("length_of_nothing").unwrap().encode("a", false).unwrap_err().to_string();
    assert!(error.contains("chunk size must be non-zero"), "{error}");
}

#[test]
fn a_folder_without_a_fast_tokenizer_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no tokenizer.json"), "{error}");
    std::fs::write(folder.path().join("tokenizer.model"), "x").unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("save_pretrained"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    assert!(matches!(Tokenizer::from_folder(folder.path()), Err(Error::Malformed { .. })));
}

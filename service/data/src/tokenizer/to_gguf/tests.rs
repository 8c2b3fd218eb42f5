//! Tokenizers to GGUF and back: the same keys, the same tokens.

use std::path::PathBuf;

use serde_json::json;

use super::super::tests::gguf;
use super::*;

const TEXTS: [&str; 9] = [
    "",
    " ",
    "Hello, world! don't WE'LL",
    "  leading and trailing  ",
    "line one\nline two\r\n\n\n\tindented",
    "naïve café – “quoted” … 12345 1,000.5",
    "日本語と中文 и русский",
    "👩‍👩‍👧‍👦 zero width",
    "special <|im_end|> and </s> [INST] inside",
];

fn read_back(metadata: &[(String, Value)]) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf { metadata: metadata.iter().cloned().collect(), tensors: Vec::new() }).unwrap()
}

fn same_tokens(name: &str, tokenizer: &Tokenizer, metadata: &[(String, Value)]) {
    let back = read_back(metadata);
    for text in TEXTS {
        for special in [true, false] {
            assert_eq!(
                back.encode(text, special).unwrap(),
                tokenizer.encode(text, special).unwrap(),
                "{name}: {text:?}"
            );
        }
    }
    assert_eq!(back.chat_template(), tokenizer.chat_template(), "{name}");
    assert_eq!(back.stop_ids(), tokenizer.stop_ids(), "{name}");
    assert_eq!((back.bos_id(), back.pad_id()), (tokenizer.bos_id(), tokenizer.pad_id()), "{name}");
}

fn folder(tokenizer: &Json, config: &Json) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

fn value<'a>(metadata: &'a [(String, Value)], key: &str) -> &'a Value {
    &metadata.iter().find(|(name, _)| name == key).unwrap().1
}

#[test]
fn what_a_file_says_is_said_again() {
    for (pre, add_bos) in
        [("gpt-2", false), ("smollm", true), ("llama-bpe", true), ("qwen2", false), ("tekken", true), ("gpt-4o", false)]
    {
        let original = gguf(pre, add_bos, &["1 2", "Ġ 1", "a b"]);
        let tokenizer = Tokenizer::from_gguf(&original).unwrap();
        let metadata = tokenizer.to_gguf(tokenizer.vocab_size()).unwrap();
        let mut expected = original.metadata;
        expected.insert("tokenizer.ggml.add_eos_token".into(), Value::Bool(false));
        assert_eq!(metadata.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(), expected, "{pre}");
    }
}

#[test]
fn the_tokenizers_of_the_fixtures_keep_their_tokens() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    for name in ["tokenizers/chatml", "tokenizers/inst", "models/mistral", "models/gemma2"] {
        let tokenizer = Tokenizer::from_folder(&fixtures.join(name)).unwrap();
        let metadata = tokenizer.to_gguf(400).unwrap();
        assert_eq!(value(&metadata, "tokenizer.ggml.pre"), &Value::String("gpt-2".into()));
        same_tokens(name, &tokenizer, &metadata);
    }
}

#[test]
fn a_rule_is_known_in_every_spelling_and_another_is_refused() {
    let pattern = |pre: &str| rules(pre).unwrap().pre_tokenizer["pretokenizers"][0]["pattern"].clone();
    let sequence = |split: Json| {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes]})
    };
    let split = |pattern: Json, behavior: &str, invert: bool| {
        sequence(json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}))
    };
    let pre = |pre_tokenizer: Json, normalizer: Json, ignore_merges: bool| {
        let model = json!({"type": "BPE", "vocab": {"a": 0}, "merges": [], "ignore_merges": ignore_merges});
        let document = json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "added_tokens": []});
        let source = Source { origin: "tokenizer.json", document, model };
        source.byte_level(1).map(|metadata| metadata[1].1.clone()).map_err(|error| error.to_string())
    };
    let name = |name: &str| Ok(Value::String(name.into()));
    let nfc = json!({"type": "NFC"});
    assert_eq!(pre(split(pattern("gpt-4o"), "Removed", true), Json::Null, false), name("gpt-4o"));
    assert_eq!(pre(split(pattern("llama-bpe"), "Isolated", false), Json::Null, true), name("llama-bpe"));
    assert_eq!(pre(split(pattern("llama-bpe"), "Isolated", false), Json::Null, false), name("smaug-bpe"));
    assert_eq!(pre(split(pattern("qwen2"), "Isolated", false), nfc, true), name("qwen2"));

    let unknown = pre(split(json!({"Regex": r"\w+"}), "Isolated", false), Json::Null, false).unwrap_err();
    for part in [r"\\w+", "qwen2", "convert_hf_to_gguf.py", "tokenizer.json"] {
        assert!(unknown.contains(part), "{unknown}");
    }
    assert!(pre(split(pattern("qwen2"), "Removed", false), Json::Null, false).unwrap_err().contains("pre-tokenizer"));
    let lower = pre(split(pattern("qwen2"), "Isolated", false), json!({"type": "Lowercase"}), false).unwrap_err();
    assert!(lower.contains("does not normalise a text by \"Lowercase\""), "{lower}");
}

/// Pieces with merges, all bytes, and tokens that were added.
fn sentencepiece(normalizer: Json, pre_tokenizer: Json) -> Json {
    // Every two pieces that make a third, the parts of one beside each other: so converters list them.
    let joined = ["lo", "▁w", "▁lo", "ow", "low", "▁low", "▁wow"];
    let merges = [
        ["l", "o"],
        ["▁", "w"],
        ["▁", "lo"],
        ["o", "w"],
        ["lo", "w"],
        ["l", "ow"],
        ["▁lo", "w"],
        ["▁", "low"],
        ["▁w", "ow"],
    ];
    let mut pieces = vec!["<unk>".to_string(), "<s>".into(), "</s>".into()];
    pieces.extend((0..=255).map(byte_piece));
    pieces.extend(["▁", "l", "o", "w", "e"].map(String::from));
    pieces.extend(joined.map(String::from));
    let vocab: serde_json::Map<String, Json> =
        pieces.iter().zip(0..).map(|(piece, id)| (piece.clone(), json!(id))).collect();
    let added = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    json!({
        "version": "1.0", "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true),
                         added(pieces.len(), "<|user|>", false), added(pieces.len() + 1, "[x]", false)],
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges},
    })
}

#[test]
fn sentencepiece_in_its_three_spellings_becomes_scores() {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let spellings = [
        ("llama", json!({"type": "Sequence", "normalizers": [prepend, replace]}), Json::Null, true),
        ("mistral", Json::Null, metaspace, true),
        ("gemma", replace, split, false),
    ];
    for (name, normalizer, pre_tokenizer, prefix) in spellings {
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": true});
        let folder = folder(&sentencepiece(normalizer, pre_tokenizer), &config);
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        let metadata = gguf_metadata(folder.path(), 300).unwrap();
        assert_eq!(value(&metadata, "tokenizer.ggml.add_space_prefix"), &Value::Bool(prefix), "{name}");
        assert_eq!(value(&metadata, "tokenizer.ggml.add_bos_token"), &Value::Bool(true), "{name}");
        let back = read_back(&metadata);
        // Mistral's kind has no space in front of these; llama.cpp has.
        let others = [" two  spaces", "<|user|>low</s>"].into_iter().filter(|_| name != "mistral");
        for text in ["low", "wow low", "lowow e", "Löw!\n"].into_iter().chain(others) {
            assert_eq!(back.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap(), "{name}: {text:?}");
        }
        let Value::Array(kinds) = value(&metadata, "tokenizer.ggml.token_type") else { panic!("not a list") };
        // Control, byte, normal, looks special, user-defined, unused.
        let ids: [usize; 6] = [1, 3, 259, 271, 272, 299];
        assert_eq!(ids.map(|id| kinds[id].clone()), [3, 6, 1, 3, 4, 5].map(Value::I64), "{name}");
    }
}

#[test]
fn sentencepiece_that_llama_cpp_has_not_is_refused() {
    let refused = |document: Json| {
        let folder = folder(&document, &json!({}));
        Tokenizer::from_folder(folder.path()).unwrap().to_gguf(300).unwrap_err().to_string()
    };
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    assert!(refused(sentencepiece(json!({"type": "NFKC"}), Json::Null)).contains("no step {\"type\":\"NFKC\"}"));
    assert!(refused(sentencepiece(Json::Null, Json::Null)).contains("not written ▁"));
    let mut short = sentencepiece(replace, Json::Null);
    short["model"]["vocab"].as_object_mut().unwrap().remove("<0x41>");
    assert!(refused(short).contains("lacks the byte <0x41>"));
    let words = json!({"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}});
    assert!(refused(words).contains("its model is \"WordLevel\", not BPE"));
}

#[test]
fn a_gguf_file_keeps_its_own_keys_and_ids_must_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut metadata: Vec<(String, Value)> = gguf("qwen2", false, &[]).metadata.into_iter().collect();
    metadata.push(("tokenizer.ggml.unheard_of".into(), Value::U64(5)));
    metadata.push(("general.architecture".into(), Value::String("qwen2".into())));
    crate::gguf::Writer::create(&path, &metadata, &[]).unwrap().finish().unwrap();
    let mut kept = gguf_metadata(folder.path(), 1).unwrap();
    assert_eq!(gguf_metadata(&path, 1).unwrap(), kept);
    metadata.retain(|(key, _)| key != "general.architecture");
    metadata.sort_by(|a, b| a.0.cmp(&b.0));
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(kept, metadata);

    let tokenizer = super::super::tests::byte_tokenizer(false);
    assert!(matches!(tokenizer.to_gguf(100), Err(Error::DoesNotFit { .. })));
}

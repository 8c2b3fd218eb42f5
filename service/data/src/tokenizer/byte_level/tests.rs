//! The library's own ids are the measure: many kinds of tokenizer, on texts drawn from a seed of what texts can hold.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel as ByteLevelRule;
use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};

use super::*;
use crate::caught::caught;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::from_gguf::rules as rules_of;
use crate::tokenizer::tests::byte_tokens;

type Library = tokenizers::Tokenizer;

/// Texts of a tokenizer that are looked at.
const NUM_TEXTS: u64 = 300;

/// What texts are put together from, beside added tokens and any character at all.
const FRAGMENTS: &[&str] = &[
    "fn main() { let x = 0x1F; }",
    "self.ids[i] += 1;\n",
    "<div class=\"a\">",
    "// --- ###",
    "https://a.b/c?d=e&f",
    " ",
    "  ",
    "    ",
    "         ",
    "\t",
    "\t\t",
    "\n",
    "\r\n",
    "\n\n\n",
    " \n ",
    "\u{b}",
    "\u{c}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{3000}",
    "\u{200b}",
    "\u{feff}",
    "don't",
    "I'M",
    "we'll",
    "'s",
    "'S",
    "'re",
    "’s",
    "'ſ",
    "''",
    "it's ",
    "7",
    "12",
    "123",
    "1234567",
    "3.14",
    "٣٤٥",
    "½",
    "Ⅷ",
    "²",
    "七",
    "①",
    "the",
    " the",
    " zebra",
    "zebra",
    "Hello",
    " HTTPServer",
    "_",
    "-",
    "...",
    "!?",
    " (",
    ")",
    "ünïcödé",
    "Straße",
    "İ",
    "Привет",
    " мир",
    "שלום",
    "مرحبا",
    "हिन्दी",
    "ไทย",
    "日本語",
    "テスト",
    "한국어",
    "\u{1112}\u{1161}\u{11ab}",
    "e\u{301}",
    "cafe\u{301}",
    "q\u{307}\u{323}",
    "\u{212b}",
    "\u{1100}",
    "\u{301}",
    "\u{34f}",
    "\u{fdfa}",
    "👩‍🚀",
    "🇪🇺",
    "❤️",
    "\0",
    "\u{1}",
    "\u{1b}[0m",
    "\u{7f}",
    "\u{ad}",
    "\u{e000}",
    "\u{fffd}",
    "\u{10ffff}",
    "averyveryveryveryveryverylongwordindeed",
];

/// Texts of added tokens in [`added_tokens`] that are whole wherever they stand.
const PLAIN: [&str; 9] = [
    "<|end|>",
    "<|im_start|>",
    "<|im_start|>user",
    "<tool>",
    "    ",
    "zeb",
    "cafe\u{301}",
    "\u{212b}ngstrom",
    "!<|end|>",
];
/// Those that take spaces with them, or are whole only between words.
const ODD: [&str; 4] = ["<mask>", "<right>", "Only", "<norm\u{e9}>"];

fn pick<'a>(rng: &mut ChaCha12Rng, from: &[&'a str]) -> &'a str {
    from[rng.next_u32() as usize % from.len()]
}

/// A text of up to 40 parts; the first is empty.
fn text(seed: u64, added: &[&str]) -> String {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let parts = if seed == 0 { 0 } else { rng.next_u32() % 40 };
    let mut text = String::new();
    for _ in 0..parts {
        match rng.next_u32() % 8 {
            0 => text.extend(char::from_u32(rng.next_u32() % 0x11_0000)),
            1 => text.extend(char::from_u32(rng.next_u32() % 0x3000)),
            2 if !added.is_empty() => text.push_str(pick(&mut rng, added)),
            3 if !added.is_empty() => {
                let token: Vec<char> = pick(&mut rng, added).chars().collect();
                let at = rng.next_u32() as usize % token.len();
                let (start, end) = token.split_at(at);
                text.extend(if rng.next_u32() % 2 == 0 { start } else { end });
            }
            _ => text.push_str(pick(&mut rng, FRAGMENTS)),
        }
    }
    text
}

/// A vocabulary with merges, learned from such texts.
static TRAINED: LazyLock<Value> = LazyLock::new(|| {
    let rule = ByteLevelRule::new(false, true, true);
    let alphabet = byte_tokens().iter().flat_map(|token| token.chars()).collect();
    let mut trainer = BpeTrainer::builder().vocab_size(1200).show_progress(false).initial_alphabet(alphabet).build();
    let words = |text: &str| {
        let mut split = PreTokenizedString::from(text);
        rule.pre_tokenize(&mut split)?;
        let words = split.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        Ok(words.into_iter().map(|(word, ..)| word.to_string()).collect())
    };
    trainer.feed((0..2000).map(|seed| text(seed, &[])), words).unwrap();
    let mut bpe = BPE::default();
    trainer.train(&mut bpe).unwrap();
    let mut model = serde_json::to_value(bpe).unwrap();
    // A whole word that no merge makes, which only a model that ignores merges can find.
    let makes_zebra = |merge: &Value| merge[0].as_str().unwrap().to_owned() + merge[1].as_str().unwrap() == "Ġzebra";
    model["merges"].as_array_mut().unwrap().retain(|merge| !makes_zebra(merge));
    assert!(model["vocab"].get("Ġzebra").is_some());
    model
});

/// The trained model with some of its fields changed.
fn model(changes: &Value) -> Value {
    changed(&TRAINED, changes)
}

fn changed(object: &Value, changes: &Value) -> Value {
    let mut object = object.clone();
    for (key, value) in changes.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &Value) -> Value {
    json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
}

fn sequence(rules: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": rules})
}

/// The pre-tokenizer that a GGUF name stands for.
fn named(pre: &str) -> Value {
    rules_of(pre).unwrap().pre_tokenizer
}

/// A token, with what is set of its flags: l and r strip, w is a single word, n is normalised, s is special.
fn added(id: usize, content: &str, flags: &str) -> Value {
    let has = |flag: char| flags.contains(flag);
    json!({"id": id, "content": content, "lstrip": has('l'), "rstrip": has('r'), "single_word": has('w'),
           "normalized": has('n'), "special": has('s')})
}

/// [`PLAIN`], and with `odd` also [`ODD`].
fn added_tokens(odd: bool) -> Value {
    let plain = PLAIN.into_iter().zip(["s", "s", "s", "", "n", "n", "n", "", "n"]);
    let odd = ODD.into_iter().zip(["ls", "rs", "w", "lrn"]).filter(|_| odd);
    plain.chain(odd).enumerate().map(|(n, (content, flags))| added(5000 + n, content, flags)).collect()
}

fn document(changes: &Value) -> Value {
    let plain = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
                       "pre_tokenizer": byte_level(true), "post_processor": null, "decoder": null, "model": *TRAINED});
    changed(&plain, changes)
}

fn library(changes: &Value) -> Library {
    Library::from_bytes(document(changes).to_string()).unwrap()
}

/// BOS before a text and two more after it.
fn template() -> Value {
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let token = |id: &str, ids: &[u32]| json!({"id": id, "ids": ids, "tokens": vec![id; ids.len()]});
    json!({"type": "TemplateProcessing", "single": [special("<s>"), text, special("</s>")], "pair": [text],
           "special_tokens": {"<s>": token("<s>", &[7]), "</s>": token("</s>", &[7, 8])}})
}

/// Compares on many texts; gives for how many the quick way was taken, and for how many the library is to be asked.
fn compare(name: &str, library: &Library, num_texts: u64) -> (u64, u64) {
    let Some(quick) = ByteLevel::of(library) else { panic!("{name}: the quick way is not known") };
    let all: Vec<&str> = PLAIN.into_iter().chain(ODD).collect();
    let (mut taken, mut left) = (0, 0);
    for seed in 0..num_texts {
        let text = text(seed, &all);
        for special in [false, true] {
            let found = caught(|| Ok::<_, String>(quick.encode(library, &text, special)));
            let expected = caught(|| library.encode_fast(text.as_str(), special)).map(|it| it.get_ids().to_vec());
            match found {
                Ok(None) => left += 1,
                Ok(Some(ids)) => {
                    assert_eq!(Ok(ids), expected, "{name}, special {special}, text {seed}: {text:?}");
                    taken += 1;
                }
                Err(panic) => assert_eq!(Err(panic), expected, "{name}, text {seed}: {text:?}"),
            }
        }
    }
    (taken, left)
}

/// The quick way is known and taken for every text.
fn check(name: &str, changes: &Value) {
    assert_eq!(compare(name, &library(changes), NUM_TEXTS), (2 * NUM_TEXTS, 0), "{name}");
}

#[test]
fn ids_are_those_of_the_library_whatever_splits_words() {
    let digits = json!({"type": "Digits", "individual_digits": true});
    for (name, pre_tokenizer) in [
        ("GPT-2", byte_level(true)),
        ("one word", byte_level(false)),
        ("SmolLM2", named("smollm")),
        ("Llama 3", named("llama-bpe")),
        ("Qwen2", named("qwen2")),
        ("Tekken", named("tekken")),
        ("GPT-4o", named("gpt-4o")),
        ("text", sequence(&[split(&json!({"String": "."})), byte_level(true)])),
        ("no text", sequence(&[split(&json!({"String": ""})), byte_level(true)])),
        ("nothing matched", sequence(&[split(&json!({"Regex": "x*"})), byte_level(false)])),
        ("before and after", sequence(&[split(&json!({"Regex": r"(?<=a)b|\s\K\S"})), byte_level(false)])),
        (
            "DeepSeek",
            sequence(&[
                split(&json!({"Regex": r"\p{N}{1,3}"})),
                split(&json!({"Regex": "[一-龥\u{3040}-ゟ゠-ヿ]+"})),
                digits,
                split(&json!({"Regex": r"[!-/:-~]+|[\p{P}\p{S}]?\p{L}+|\s+"})),
                byte_level(false),
            ]),
        ),
    ] {
        check(name, &json!({"pre_tokenizer": pre_tokenizer}));
    }
}

#[test]
fn ids_are_those_of_the_library_whatever_the_model_does_with_a_word() {
    let ignoring = json!({"model": model(&json!({"ignore_merges": true}))});
    check("ignores merges", &ignoring);
    let zebra = |changes: &Value| {
        let library = library(changes);
        ByteLevel::of(&library).unwrap().encode(&library, " zebra", false).unwrap().len()
    };
    assert!(zebra(&ignoring) == 1 && zebra(&json!({})) > 1);
    let part: HashMap<String, u32> = byte_tokens().into_iter().take(100).zip(1..).chain([("<u>".into(), 0)]).collect();
    let poor = |changes: &Value| {
        let model = model(&json!({"vocab": part, "merges": []}));
        json!({"model": changed(&model, changes)})
    };
    check("leaves out what it does not know", &poor(&json!({})));
    check("one unknown for each", &poor(&json!({"unk_token": "<u>"})));
    check("one unknown for many", &poor(&json!({"unk_token": "<u>", "fuse_unk": true})));
    let bytes: HashMap<String, u32> = (0..256).map(|byte| (format!("<0x{byte:02X}>"), byte)).collect();
    check("bytes", &json!({"model": model(&json!({"vocab": bytes, "merges": [], "byte_fallback": true}))}));
    check("ends of words", &poor(&json!({"unk_token": "<u>", "end_of_word_suffix": "!", "dropout": 0.0})));
}

#[test]
fn ids_are_those_of_the_library_where_it_normalizes() {
    let nfc = json!({"type": "NFC"});
    let several = |normalizers: Value| json!({"type": "Sequence", "normalizers": normalizers});
    for (name, normalizer, pre) in [
        ("GPT-NeoX", nfc.clone(), "gpt-2"),
        ("Qwen2", nfc.clone(), "qwen2"),
        ("DeepSeek", several(json!([])), "qwen2"),
        ("several", several(json!([nfc, several(json!([nfc]))])), "llama-bpe"),
    ] {
        for added in [json!([]), added_tokens(false)] {
            check(name, &json!({"normalizer": normalizer, "pre_tokenizer": named(pre), "added_tokens": added}));
        }
    }
}

/// What is not given to the normaliser.
#[test]
fn nfc_leaves_all_before_u0300_as_it_is() {
    let nfc = library(&json!({"normalizer": {"type": "NFC"}}));
    let early: String = ('\0'..'\u{300}').flat_map(|c| ['a', c, c]).collect();
    let mut by_library = NormalizedString::from(early.as_str());
    nfc.get_normalizer().unwrap().normalize(&mut by_library).unwrap();
    assert_eq!(by_library.get(), early);
    assert!(matches!(normalized(&nfc, &early), Some(Cow::Borrowed(_))));
    assert_eq!(normalized(&nfc, "e\u{301}").unwrap(), "é");
}

#[test]
fn ids_are_those_of_the_library_with_tokens_around_and_between() {
    let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": true,
                         "add_prefix_space": false});
    let both = json!({"type": "Sequence", "processors": [byte_level(true), template()]});
    for (name, post_processor) in [
        ("none", Value::Null),
        ("bytes", byte_level(true)),
        ("template", template()),
        ("both", both),
        ("RoBERTa", roberta),
    ] {
        check(name, &json!({"post_processor": post_processor, "added_tokens": added_tokens(false)}));
    }
    let library = library(&json!({"post_processor": template()}));
    let around = ByteLevel::of(&library).unwrap().around;
    assert_eq!(around, (vec![7], vec![7, 8]));
}

/// The library is asked for the texts in which such a token is found, and only for those.
#[test]
fn added_tokens_with_rules_of_their_own_are_left_to_the_library() {
    for (name, normalizer) in [("plain", Value::Null), ("NFC", json!({"type": "NFC"}))] {
        let library = library(&json!({"added_tokens": added_tokens(true), "normalizer": normalizer}));
        let (taken, left) = compare(name, &library, NUM_TEXTS);
        assert!(taken > NUM_TEXTS / 2 && left > NUM_TEXTS / 2, "{name}: {taken} taken, {left} left");
        let quick = ByteLevel::of(&library).unwrap();
        for seed in 0..NUM_TEXTS {
            let text = text(seed, &PLAIN);
            let is_odd = ODD.iter().any(|token| text.contains(token));
            assert_eq!(quick.encode(&library, &text, false).is_none(), is_odd, "{name}: {text:?}");
        }
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    let isolated = split(&json!({"Regex": r"\d"}));
    let with = |key: &str, value: Value| changed(&isolated, &json!({key: value}));
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let spaced = changed(&byte_level(true), &json!({"add_prefix_space": true}));
    let (special, text) = (template()["single"][0].clone(), template()["single"][1].clone());
    let single = |parts: &[Value]| changed(&template(), &json!({"single": parts}));
    let truncation = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    let padding = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                         "pad_type_id": 0, "pad_token": "x"});
    for (name, changes) in [
        ("Metaspace", json!({"pre_tokenizer": metaspace})),
        ("none", json!({"pre_tokenizer": null})),
        ("a space before", json!({"pre_tokenizer": spaced})),
        ("no rule", json!({"pre_tokenizer": sequence(&[])})),
        ("no bytes", json!({"pre_tokenizer": sequence(&[digits(true)])})),
        ("bytes first", json!({"pre_tokenizer": sequence(&[byte_level(true), digits(true)])})),
        ("bytes twice", json!({"pre_tokenizer": sequence(&[byte_level(true), byte_level(true)])})),
        ("a sequence in it", json!({"pre_tokenizer": sequence(&[named("smollm"), byte_level(false)])})),
        ("numbers", json!({"pre_tokenizer": sequence(&[digits(false), byte_level(true)])})),
        ("removed", json!({"pre_tokenizer": sequence(&[with("behavior", json!("Removed")), byte_level(true)])})),
        ("inverted", json!({"pre_tokenizer": sequence(&[with("invert", json!(true)), byte_level(true)])})),
        ("many rules", json!({"pre_tokenizer": sequence(&[vec![digits(true); 16], vec![byte_level(true)]].concat())})),
        ("lowercase", json!({"normalizer": {"type": "Lowercase"}})),
        (
            "NFC and more",
            json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}}),
        ),
        ("dropout", json!({"model": model(&json!({"dropout": 0.1}))})),
        ("words", json!({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}})),
        ("truncation", json!({"truncation": truncation})),
        ("padding", json!({"padding": padding})),
    ] {
        let library = library(&changes);
        assert!(!is_known(&library) && ByteLevel::of(&library).is_none(), "{name}");
    }
    let mut split_special = library(&json!({"added_tokens": added_tokens(false)}));
    assert!(is_known(&split_special));
    split_special.set_encode_special_tokens(true);
    assert!(!is_known(&split_special));
    // What the probes tell.
    let many = single(&[vec![special; 17], vec![text.clone()]].concat());
    for (name, post_processor) in [("the text twice", single(&[text.clone(), text])), ("many around", many)] {
        let library = library(&json!({"post_processor": post_processor}));
        assert!(is_known(&library) && ByteLevel::of(&library).is_none(), "{name}");
    }
}

/// Tokenizers that are broken in many ways: where the quick way is taken, it says what the library says.
#[test]
fn tokenizers_of_the_fuzzer_are_read_alike() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/tokenizer_json");
    let mut known = Vec::new();
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().to_string();
        let Ok(library) = crate::tokenizer::parse(&std::fs::read(&path).unwrap(), &name) else { continue };
        if crate::tokenizer::byte_level(&library).is_some() {
            compare(&name, &library, 20);
            known.push(name);
        }
    }
    assert!(known.contains(&"byte_level".to_string()), "{known:?}");
}

#[test]
fn many_threads_get_the_ids_of_one() {
    let library = library(&json!({"pre_tokenizer": named("smollm"), "added_tokens": added_tokens(true)}));
    let quick = ByteLevel::of(&library).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (library, quick) = (&library, &quick);
            scope.spawn(move || {
                for seed in (0..NUM_TEXTS).map(|n| n * 4 + thread) {
                    let text = text(seed, &PLAIN);
                    let expected = library.encode_fast(text.as_str(), false).unwrap();
                    let found = quick.encode(library, &text, false);
                    assert!(found.is_none_or(|ids| ids == expected.get_ids()), "{text:?}");
                }
            });
        }
    });
    assert!((1..=4).contains(&quick.memories.lock().unwrap().len()));
}

/// Through the front door, with BOS put first by tokenizer_config.json.
#[test]
fn a_tokenizer_of_a_folder_takes_the_quick_way() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    write("tokenizer.json", &document(&json!({"added_tokens": added_tokens(true)})));
    write("tokenizer_config.json", &json!({"bos_token": "<|im_start|>", "add_bos_token": true}));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.byte_level.as_ref().unwrap().around, (vec![tokenizer.bos_id().unwrap()], vec![]));
    for seed in 0..NUM_TEXTS {
        let text = text(seed, &ODD);
        for special in [false, true] {
            let ids = tokenizer.encode(&text, special).unwrap();
            assert_eq!(ids, tokenizer.encode_with_offsets(&text, special).unwrap().ids, "{text:?}");
        }
    }
}

//! A tokenizer from GGUF metadata: the equal tokenizer.json is written first, so that what is trained with and what is
//! saved beside the adapter are one thing.
//!
//! `tokenizer.ggml.model` says the kind: `gpt2` is byte-level BPE with its merges listed and its split rule named by
//! `tokenizer.ggml.pre`; `llama` is SentencePiece BPE, whose merges follow from the scores of the pieces.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::{Error, Result, Tokenizer, parse};
use crate::gguf::{self, Gguf};

/// Kinds of token in `tokenizer.ggml.token_type`.
pub(super) const NORMAL: u64 = 1;
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;
pub(super) const UNUSED: u64 = 5;
pub(super) const BYTE: u64 = 6;

const GPT2_PRE: &str = "default, gpt-2, smollm, llama-bpe (llama3, llama-v3, smaug-bpe), qwen2, tekken, gpt-4o";
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN_SPLIT: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O_SPLIT: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The vocabulary as the file lists it.
struct Vocab<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<u64>,
    bos: Option<&'a str>,
    eos: Option<&'a str>,
    pad: Option<&'a str>,
    unk: Option<&'a str>,
    add_bos: bool,
}

pub(super) fn build(gguf: &Gguf) -> Result<Tokenizer> {
    let vocab = Vocab::read(gguf)?;
    let kind = gguf.str("tokenizer.ggml.model").unwrap_or("(absent)");
    let document = match kind {
        "gpt2" => byte_level_bpe(gguf, &vocab)?,
        "llama" => sentencepiece_bpe(gguf, &vocab)?,
        other => {
            let kind = format!("tokenizer.ggml.model = {other}");
            return Err(Error::Unsupported { kind, supported: "gpt2 and llama" });
        }
    };
    let bytes = serde_json::to_vec(&document).map_err(|error| Error::Failed(error.to_string()))?;
    let inner = parse(&bytes, "tokenizer.ggml.*")?;
    let special_tokens: BTreeMap<String, Value> =
        [("bos_token", vocab.bos), ("eos_token", vocab.eos), ("pad_token", vocab.pad), ("unk_token", vocab.unk)]
            .into_iter()
            .filter_map(|(key, token)| Some((key.to_string(), json!(token?))))
            .collect();
    let chat_template = gguf.str("tokenizer.chat_template").map(str::to_string);
    let files = files(gguf, &vocab, bytes, &special_tokens, chat_template.as_deref());
    let mut tokenizer = Tokenizer::assemble(inner, special_tokens, chat_template, files);
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        tokenizer.add_stop_ids(json!(gguf.u64(key)));
    }
    Ok(tokenizer)
}

impl<'a> Vocab<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self> {
        let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
        let kinds: Vec<u64> = match gguf.array("tokenizer.ggml.token_type") {
            Some(values) => values.iter().map(integer).collect(),
            None => vec![NORMAL; tokens.len()],
        };
        if kinds.len() != tokens.len() {
            let what = format!("there are {} tokens but {} token types", tokens.len(), kinds.len());
            return Err(malformed("tokenizer.ggml.token_type", what));
        }
        let token = |key: &str| match gguf.u64(key) {
            None => Ok(None),
            Some(id) => match usize::try_from(id).ok().and_then(|id| tokens.get(id)) {
                Some(token) => Ok(Some(*token)),
                None => Err(malformed(key, format!("is {id}, but there are {} tokens", tokens.len()))),
            },
        };
        Ok(Self {
            bos: token("tokenizer.ggml.bos_token_id")?,
            eos: token("tokenizer.ggml.eos_token_id")?,
            pad: token("tokenizer.ggml.padding_token_id")?,
            unk: token("tokenizer.ggml.unknown_token_id")?,
            // llama.cpp's defaults: SentencePiece models begin with BOS, byte-level ones only when they say so.
            add_bos: gguf
                .bool("tokenizer.ggml.add_bos_token")
                .unwrap_or(gguf.str("tokenizer.ggml.model") == Some("llama")),
            tokens,
            kinds,
        })
    }

    fn ids(&self) -> serde_json::Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.to_string(), json!(id))).collect()
    }

    /// Control tokens are special; user-defined ones are whole too, but are text.
    fn added_tokens(&self) -> Vec<Value> {
        let added = |id: usize, special: bool| {
            json!({"id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": special})
        };
        let kinds = self.kinds.iter().enumerate();
        kinds
            .filter_map(|(id, &kind)| match kind {
                CONTROL | UNKNOWN => Some(added(id, true)),
                USER_DEFINED => Some(added(id, false)),
                _ => None,
            })
            .collect()
    }

    fn bos_processor(&self) -> Option<Value> {
        let bos = self.bos.filter(|_| self.add_bos)?;
        let id = self.tokens.iter().position(|token| *token == bos)?;
        let special = json!({"SpecialToken": {"id": bos, "type_id": 0}});
        let first = json!({"Sequence": {"id": "A", "type_id": 0}});
        let second = json!({"Sequence": {"id": "B", "type_id": 1}});
        Some(json!({
            "type": "TemplateProcessing",
            "single": [special, first],
            "pair": [special, first, {"SpecialToken": {"id": bos, "type_id": 1}}, second],
            "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
        }))
    }
}

/// What a name in `tokenizer.ggml.pre` stands for, as tokenizer.json says it.
pub(super) struct Rules {
    normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) ignore_merges: bool,
}

pub(super) fn rules(pre: &str) -> Option<Rules> {
    let split = |regex: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
    };
    let (normalizer, pre_tokenizer, ignore_merges) = match pre {
        "default" | "gpt-2" | "gpt2" => (Value::Null, byte_level(true), false),
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (Value::Null, json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}), false)
        }
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => (Value::Null, split(LLAMA3_SPLIT), true),
        "qwen2" => (json!({"type": "NFC"}), split(QWEN2_SPLIT), false),
        "tekken" => (Value::Null, split(TEKKEN_SPLIT), true),
        "gpt-4o" => (Value::Null, split(GPT4O_SPLIT), false),
        _ => return None,
    };
    Some(Rules { normalizer, pre_tokenizer, ignore_merges })
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn byte_level_bpe(gguf: &Gguf, vocab: &Vocab<'_>) -> Result<Value> {
    let merges: Vec<Value> = strings(gguf, "tokenizer.ggml.merges")?.into_iter().map(pair).collect::<Result<_>>()?;
    let pre = gguf.str("tokenizer.ggml.pre").unwrap_or("default");
    let Some(Rules { normalizer, pre_tokenizer, ignore_merges }) = rules(pre) else {
        return Err(Error::Unsupported { kind: format!("tokenizer.ggml.pre = {pre}"), supported: GPT2_PRE });
    };
    let byte_level = byte_level(false);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocab.added_tokens(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": vocab.bos_processor().unwrap_or_else(|| byte_level.clone()),
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
            "vocab": vocab.ids(), "merges": merges,
        },
    }))
}

fn sentencepiece_bpe(gguf: &Gguf, vocab: &Vocab<'_>) -> Result<Value> {
    let scores: Vec<f64> = gguf
        .array("tokenizer.ggml.scores")
        .unwrap_or_default()
        .iter()
        .map(|value| if let gguf::Value::F64(score) = value { *score } else { 0.0 })
        .collect();
    if scores.len() != vocab.tokens.len() {
        let what = format!("there are {} tokens but {} scores", vocab.tokens.len(), scores.len());
        return Err(malformed("tokenizer.ggml.scores", what));
    }
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefix = gguf.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let normalizers = if prefix { vec![json!({"type": "Prepend", "prepend": "▁"}), replace] } else { vec![replace] };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocab.added_tokens(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": vocab.bos_processor(),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": vocab.unk, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab.ids(), "merges": merges_from_scores(vocab, &scores),
        },
    }))
}

/// Every way to join two pieces into a third, the best score first: how transformers turns SentencePiece scores into merges.
fn merges_from_scores(vocab: &Vocab<'_>, scores: &[f64]) -> Vec<Value> {
    let ids: HashMap<&str, usize> = vocab.tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut merges = Vec::new();
    for (id, token) in vocab.tokens.iter().enumerate() {
        let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut found: Vec<_> = splits.filter_map(|(a, b)| Some((*ids.get(a)?, *ids.get(b)?, a, b))).collect();
        found.sort_by_key(|&(left, right, ..)| (left, right));
        merges.extend(found.into_iter().map(|(_, _, left, right)| (scores[id], left, right)));
    }
    // Stable, so that equal scores keep the order of the vocabulary; longer parts first, as transformers sorts.
    merges.sort_by(|a, b| {
        let lengths = |pair: &(f64, &str, &str)| (pair.1.chars().count(), pair.2.chars().count());
        b.0.total_cmp(&a.0).then_with(|| lengths(b).cmp(&lengths(a)))
    });
    merges.into_iter().map(|(_, left, right)| json!([left, right])).collect()
}

fn files(
    gguf: &Gguf,
    vocab: &Vocab<'_>,
    tokenizer: Vec<u8>,
    special_tokens: &BTreeMap<String, Value>,
    chat_template: Option<&str>,
) -> Vec<(String, Vec<u8>)> {
    let architecture = gguf.str("general.architecture").unwrap_or_default();
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "add_bos_token": vocab.add_bos,
    });
    if let Some(length) = gguf.u64(&format!("{architecture}.context_length")) {
        config["model_max_length"] = json!(length);
    }
    for (key, token) in special_tokens {
        config[key] = token.clone();
    }
    let pretty = |value: Value| format!("{value:#}\n").into_bytes();
    let map = special_tokens.iter().map(|(key, token)| (key.clone(), token.clone()));
    let mut files = vec![
        ("tokenizer.json".to_string(), tokenizer),
        ("tokenizer_config.json".to_string(), pretty(config)),
        ("special_tokens_map.json".to_string(), pretty(Value::Object(map.collect()))),
    ];
    if let Some(template) = chat_template {
        files.push(("chat_template.jinja".to_string(), template.as_bytes().to_vec()));
    }
    files
}

/// A merge is written `left right`; a space within a piece is written `Ġ`, so the one space separates them.
fn pair(merge: &str) -> Result<Value> {
    match merge.split_once(' ') {
        Some((left, right)) => Ok(json!([left, right])),
        None => Err(malformed("tokenizer.ggml.merges", format!("{merge:?} is not two pieces"))),
    }
}

fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<Vec<&'a str>> {
    let values = gguf.array(key).ok_or_else(|| malformed(key, "it is missing or no array".into()))?;
    let text = |value: &'a gguf::Value| match value {
        gguf::Value::String(text) => Ok(text.as_str()),
        other => Err(malformed(key, format!("it holds {other:?} where a text is expected"))),
    };
    values.iter().map(text).collect()
}

fn integer(value: &gguf::Value) -> u64 {
    match *value {
        gguf::Value::U64(value) => value,
        gguf::Value::I64(value) => u64::try_from(value).unwrap_or(0),
        _ => 0,
    }
}

fn malformed(key: &str, what: String) -> Error {
    Error::Malformed { origin: format!("GGUF metadata {key}"), what }
}

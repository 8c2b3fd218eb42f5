//! The tokenizer a model brings: files of a Hugging Face folder or GGUF metadata in, token ids and text out.
//!
//! Built once per job; encoding takes `&self` and runs on many threads. Special tokens in a text are one token each, as
//! in transformers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::caught::caught;
use crate::gguf::{self, Gguf};

mod byte_level;
mod from_gguf;
mod to_gguf;

use byte_level::ByteLevel;

pub use to_gguf::gguf_metadata;

/// Why a model's tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or unreadable.
    #[error("{path}: cannot read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder brings no fast tokenizer.
    #[error("{path}: there is no tokenizer.json{hint}")]
    Missing {
        /// The folder.
        path: PathBuf,
        /// What to do when the folder has another kind of tokenizer.
        hint: &'static str,
    },
    /// A file is there but makes no sense.
    #[error("{origin}: not a usable tokenizer: {what}")]
    Malformed {
        /// The file.
        origin: String,
        /// What is wrong.
        what: String,
    },
    /// A kind of tokenizer that is not known.
    #[error("the GGUF tokenizer {kind} is not supported; supported are {supported}")]
    Unsupported {
        /// Value of the metadata key, with its key.
        kind: String,
        /// The supported values.
        supported: &'static str,
    },
    /// GGUF has no word for the tokenizer.
    #[error(
        "{origin}: this tokenizer cannot be written as GGUF: {what}; write a Hugging Face folder instead, and try llama.cpp's \
         convert_hf_to_gguf.py on it, which may know the model"
    )]
    NotForGguf {
        /// The tokenizer's file.
        origin: String,
        /// What is not known.
        what: String,
    },
    /// Token ids go past the model's embedding.
    #[error(
        "{origin}: the tokenizer does not fit the model: its ids go up to {largest_id}, the model's vocab_size is {vocab_size}"
    )]
    DoesNotFit {
        /// The tokenizer's file.
        origin: String,
        /// Largest id of the tokenizer.
        largest_id: u32,
        /// Rows of the model's embedding.
        vocab_size: u64,
    },
    /// The GGUF file cannot be read.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The library refused a text.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// Text to token ids and back, with what a chat template needs.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The quick way to the ids of `inner`, where there is one. Clones share what it remembers.
    byte_level: Option<Arc<ByteLevel>>,
    /// The file it was read from, for messages.
    origin: String,
    eos_id: Option<u32>,
    bos_id: Option<u32>,
    pad_id: Option<u32>,
    stop_ids: Vec<u32>,
    special_tokens: BTreeMap<String, Value>,
    chat_template: Option<String>,
    files: Vec<(String, Vec<u8>)>,
}

/// A text as tokens, each with the bytes of the text it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte range of each token in the text; empty for tokens that were added.
    pub offsets: Vec<Range<usize>>,
}

/// Names under which tokenizer_config.json and special_tokens_map.json keep special tokens; templates see them as variables.
const SPECIAL_TOKEN_KEYS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Files of a folder that belong to its tokenizer and travel with a checkpoint.
const FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

impl Tokenizer {
    /// Reads the tokenizer of a model: a Hugging Face folder, a GGUF file, or a folder that holds one.
    pub fn open(model: &Path) -> Result<Self> {
        if model.is_file() {
            return Self::open_gguf(model);
        }
        match gguf_in(model)? {
            Some(file) if !model.join("tokenizer.json").is_file() => Self::open_gguf(&file),
            _ => Self::from_folder(model),
        }
    }

    fn open_gguf(file: &Path) -> Result<Self> {
        Ok(Self { origin: file.display().to_string(), ..Self::from_gguf(&Gguf::open(file)?)? })
    }

    /// Reads the tokenizer of a Hugging Face folder.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let files: Vec<(String, Vec<u8>)> = FILES
            .into_iter()
            .filter_map(|name| read_if_there(&folder.join(name)).transpose().map(|read| Ok((name.to_string(), read?))))
            .collect::<Result<_>>()?;
        let file = |name: &str| files.iter().find(|(have, _)| have == name).map(|(_, bytes)| bytes.as_slice());
        let origin = |name: &str| folder.join(name).display().to_string();
        let Some(bytes) = file("tokenizer.json") else {
            let hint = match file("tokenizer.model").or(file("vocab.json")) {
                Some(_) => {
                    "; load the model with transformers and save its fast tokenizer (save_pretrained) to make one"
                }
                None => "",
            };
            return Err(Error::Missing { path: folder.to_path_buf(), hint });
        };
        let inner = parse(bytes, &origin("tokenizer.json"))?;
        let config = json_object(file("tokenizer_config.json"), &origin("tokenizer_config.json"))?;
        let map = json_object(file("special_tokens_map.json"), &origin("special_tokens_map.json"))?;
        let chat_template = match file("chat_template.jinja") {
            Some(bytes) => Some(utf8(bytes, &origin("chat_template.jinja"))?),
            None => config_template(config.get("chat_template")),
        };
        let mut special_tokens = BTreeMap::new();
        for source in [&map, &config] {
            special_tokens.extend(special_tokens_of(source));
        }
        let mut tokenizer = Self::assemble(inner, special_tokens, chat_template, files.clone());
        tokenizer.origin = origin("tokenizer.json");
        if config.get("add_bos_token").and_then(Value::as_bool) == Some(true) {
            tokenizer.ensure_bos()?;
        }
        for name in ["generation_config.json", "config.json"] {
            let bytes = read_if_there(&folder.join(name))?;
            let ids = json_object(bytes.as_deref(), &origin(name))?.remove("eos_token_id");
            tokenizer.add_stop_ids(ids.unwrap_or_default());
        }
        Ok(tokenizer)
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        from_gguf::build(gguf)
    }

    fn assemble(
        mut inner: tokenizers::Tokenizer,
        special_tokens: BTreeMap<String, Value>,
        chat_template: Option<String>,
        files: Vec<(String, Vec<u8>)>,
    ) -> Self {
        // A tokenizer.json may carry the settings of whoever saved it last; lengths are decided by hone alone.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        let id_of = |key: &str| special_tokens.get(key).and_then(Value::as_str).and_then(|t| inner.token_to_id(t));
        let (eos_id, bos_id, pad_id) = (id_of("eos_token"), id_of("bos_token"), id_of("pad_token"));
        Self {
            stop_ids: eos_id.into_iter().collect(),
            origin: "the GGUF metadata".into(),
            byte_level: byte_level(&inner),
            inner,
            eos_id,
            bos_id,
            pad_id,
            special_tokens,
            chat_template,
            files,
        }
    }

    /// Makes encoding start with BOS when the tokenizer's own rules do not.
    fn ensure_bos(&mut self) -> Result<()> {
        let Some(bos_id) = self.bos_id else { return Ok(()) };
        if self.encode("", true)?.first() == Some(&bos_id) {
            return Ok(());
        }
        let bos = self.special_token("bos_token").unwrap_or_default().to_string();
        let malformed = |error: String| Error::Malformed { origin: "bos_token".into(), what: error };
        let processor = tokenizers::processors::template::TemplateProcessing::builder()
            .try_single(format!("{bos}:0 $A:0"))
            .map_err(malformed)?
            .special_tokens(vec![(bos, bos_id)])
            .build()
            .map_err(|error| malformed(error.to_string()))?;
        self.inner.with_post_processor(Some(processor));
        self.byte_level = byte_level(&self.inner);
        Ok(())
    }

    fn add_stop_ids(&mut self, ids: Value) {
        let ids = match ids {
            Value::Array(ids) => ids,
            other => vec![other],
        };
        for id in ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()) {
            if !self.stop_ids.contains(&id) {
                self.stop_ids.push(id);
            }
        }
    }

    /// Number of ids: one more than the largest.
    pub fn vocab_size(&self) -> u64 {
        u64::from(self.largest_id()) + 1
    }

    fn largest_id(&self) -> u32 {
        self.inner.get_vocab(true).values().copied().max().unwrap_or(0)
    }

    /// Checks that every id has a row in the model's embedding; a model may have more rows than the tokenizer ids.
    pub fn check_fits(&self, vocab_size: u64) -> Result<()> {
        let largest_id = self.largest_id();
        match u64::from(largest_id) < vocab_size {
            true => Ok(()),
            false => Err(Error::DoesNotFit { origin: self.origin.clone(), largest_id, vocab_size }),
        }
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// Tokens at which generation stops: [`Self::eos_id`] first, then those of generation_config.json and config.json.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The token that begins a text, if the tokenizer has one; encoding with special tokens puts it where it belongs.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The padding token. hone pads nothing; others read it from the checkpoint.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// The text of a special token by its role, such as `eos_token`.
    pub fn special_token(&self, key: &str) -> Option<&str> {
        self.special_tokens.get(key)?.as_str()
    }

    /// The special tokens by role, as chat templates see them.
    pub fn special_tokens(&self) -> &BTreeMap<String, Value> {
        &self.special_tokens
    }

    /// The chat template that came with the tokenizer.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Id of a token by its text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of a text. With `add_special_tokens` the tokenizer's own rules apply (BOS, where it has one); rendered
    /// conversations go without, since the template writes them.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let quick = || self.byte_level.as_ref()?.encode(&self.inner, text, add_special_tokens);
        let by_library = || Ok(self.inner.encode_fast(text, add_special_tokens)?.get_ids().to_vec());
        caught(|| quick().map_or_else(by_library, Ok::<_, tokenizers::Error>)).map_err(Error::Failed)
    }

    /// Ids of a text with the byte range of each.
    pub fn encode_with_offsets(&self, text: &str, add_special_tokens: bool) -> Result<Encoded> {
        let encoding = caught(|| self.inner.encode(text, add_special_tokens)).map_err(Error::Failed)?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok(Encoded { ids: encoding.get_ids().to_vec(), offsets })
    }

    /// Text of ids.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        caught(|| self.inner.decode(ids, skip_special_tokens)).map_err(Error::Failed)
    }

    /// The files (name, content) that make this tokenizer again for transformers and PEFT.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }
}

/// The quick way of a tokenizer. Where the library panics there is none, and it will do so again on texts.
fn byte_level(inner: &tokenizers::Tokenizer) -> Option<Arc<ByteLevel>> {
    caught(|| Ok::<_, String>(ByteLevel::of(inner))).ok().flatten().map(Arc::new)
}

/// The first GGUF file of a folder, by name.
fn gguf_in(folder: &Path) -> Result<Option<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|source| Error::Io { path: folder.to_path_buf(), source })?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")).min())
}

fn parse(bytes: &[u8], origin: &str) -> Result<tokenizers::Tokenizer> {
    let malformed = |what| Error::Malformed { origin: origin.to_string(), what };
    let rules: Rewriting = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    let growth = growth(&rules.normalizer).max(growth(&rules.decoder));
    if growth > MAX_GROWTH {
        let what =
            format!("its replacements could make a text {growth} times as long; at most {MAX_GROWTH} is allowed");
        return Err(malformed(what));
    }
    caught(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(malformed)
}

/// How many times as long replacements may make a text: each rewrites what the one before it wrote, so that a few of them
/// could fill any memory.
const MAX_GROWTH: f64 = 256.0;

/// What of a tokenizer.json rewrites texts.
#[derive(Deserialize)]
struct Rewriting {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// How many times as long a text may be after some rules.
fn growth(rules: &Value) -> f64 {
    let within = ["normalizers", "decoders"].into_iter().filter_map(|key| rules.get(key)?.as_array()).flatten();
    let own = match (rules.get("pattern"), rules.get("content").and_then(Value::as_str)) {
        (Some(pattern), Some(content)) => match pattern.get("String").and_then(Value::as_str) {
            Some(text) if !text.is_empty() => content.len() as f64 / text.len() as f64,
            // A regular expression may match nothing, and that everywhere.
            _ => content.len() as f64 + 1.0,
        },
        _ => 1.0,
    };
    within.map(growth).product::<f64>() * own.max(1.0)
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_path_buf(), source }),
    }
}

fn utf8(bytes: &[u8], origin: &str) -> Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Error::Malformed { origin: origin.to_string(), what: "it is not UTF-8".into() })
}

fn json_object(bytes: Option<&[u8]>, origin: &str) -> Result<Map<String, Value>> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Malformed { origin: origin.to_string(), what: format!("not a JSON object: {error}") })
}

/// A template in tokenizer_config.json: a text, or a list of named ones of which `default` counts.
fn config_template(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str())
            .map(str::to_string),
        _ => None,
    }
}

/// Special tokens by role; a token is a text or an object with `content`.
fn special_tokens_of(source: &Map<String, Value>) -> BTreeMap<String, Value> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        other => other.get("content").and_then(Value::as_str).map(str::to_string),
    };
    let mut found = BTreeMap::new();
    for key in SPECIAL_TOKEN_KEYS {
        if let Some(token) = source.get(key).and_then(text) {
            found.insert(key.to_string(), json!(token));
        }
    }
    if let Some(Value::Array(tokens)) = source.get("additional_special_tokens") {
        found.insert("additional_special_tokens".into(), tokens.iter().filter_map(text).collect());
    }
    found
}

#[cfg(test)]
pub(crate) mod tests;

//! A tokenizer as GGUF metadata, the inverse of `from_gguf`: the keys that llama.cpp's convert_hf_to_gguf.py writes.
//!
//! llama.cpp has its rules for cutting a text built in, each under a name: byte-level BPE is written under the name whose
//! rule tokenizer.json has, or not at all. SentencePiece BPE has no such rule; its merges become scores of pieces.
//! What no key says: llama.cpp normalises no text (Qwen's NFC); its `tekken` and `gpt-4o` do not take combining marks for
//! letters; and where SentencePiece has a space in front of a text, llama.cpp has one after each special token too, also
//! where a space is there already.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use super::from_gguf::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, rules};
use super::{Error, Result, Tokenizer, gguf_in, json_object};
use crate::gguf::{Gguf, Value};

/// Names in `tokenizer.ggml.pre` that are written, and whether llama.cpp takes a word that is a token without merging.
const WRITTEN: [(&str, bool); 7] = [
    ("gpt-2", false),
    ("smollm", false),
    ("llama-bpe", true),
    ("smaug-bpe", false),
    ("qwen2", false),
    ("tekken", true),
    ("gpt-4o", false),
];

/// The rule within a `ByteLevel` step that has `use_regex`.
const GPT2_SPLIT: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The tokenizer of a model as GGUF metadata: of a GGUF file the keys that it has, of a Hugging Face folder those of
/// [`Tokenizer::to_gguf`].
pub fn gguf_metadata(model: &Path, vocab_size: u64) -> Result<Vec<(String, Value)>> {
    let file = if model.is_file() { Some(model.to_path_buf()) } else { gguf_in(model)? };
    match file {
        Some(file) if !model.join("tokenizer.json").is_file() => {
            let metadata = Gguf::open(&file)?.metadata.into_iter();
            Ok(metadata.filter(|(key, _)| key.starts_with("tokenizer.")).collect())
        }
        _ => Tokenizer::from_folder(model)?.to_gguf(vocab_size),
    }
}

impl Tokenizer {
    /// The tokenizer as GGUF metadata, for a model whose embedding has `vocab_size` rows; rows without a token get one that is
    /// never used.
    ///
    /// # Errors
    ///
    /// [`Error::NotForGguf`] for a kind of model, or a rule of cutting a text, that has no name in llama.cpp.
    pub fn to_gguf(&self, vocab_size: u64) -> Result<Vec<(String, Value)>> {
        self.check_fits(vocab_size)?;
        let source = Source::read(self)?;
        let mut metadata = match source.model["byte_fallback"] == true {
            true => source.sentencepiece(vocab_size)?,
            false => source.byte_level(vocab_size)?,
        };
        metadata.extend(self.special_ids());
        metadata.extend(self.added_around(&source)?);
        metadata.extend(self.chat_template().map(|text| ("chat_template", Value::String(text.to_string()))));
        let full = |key: &str| match key {
            "chat_template" => format!("tokenizer.{key}"),
            _ => format!("tokenizer.ggml.{key}"),
        };
        Ok(metadata.into_iter().map(|(key, value)| (full(key), value)).collect())
    }

    fn special_ids(&self) -> Vec<(&'static str, Value)> {
        let id = |role: &str| self.token_to_id(self.special_token(role)?);
        // llama.cpp has three keys for tokens that end a text.
        let mut others = self.stop_ids.iter().copied().filter(|id| Some(*id) != self.eos_id);
        let ids = [
            ("bos_token_id", self.bos_id),
            ("eos_token_id", self.eos_id),
            ("unknown_token_id", id("unk_token")),
            ("padding_token_id", self.pad_id),
            ("eot_token_id", others.next()),
            ("eom_token_id", others.next()),
        ];
        ids.into_iter().filter_map(|(key, id)| Some((key, Value::U64(id?.into())))).collect()
    }

    /// Whether BOS and EOS are put around a text: found by encoding none.
    fn added_around(&self, source: &Source<'_>) -> Result<[(&'static str, Value); 2]> {
        let ids = self.encode("", true)?;
        let bos = self.bos_id.is_some_and(|bos| ids.first() == Some(&bos));
        let rest = &ids[usize::from(bos)..];
        let eos = self.eos_id.is_some_and(|eos| rest.first() == Some(&eos));
        match rest.len() == usize::from(eos) {
            true => Ok([("add_bos_token", Value::Bool(bos)), ("add_eos_token", Value::Bool(eos))]),
            false => Err(source.refused("it puts other tokens than BOS and EOS around a text".into())),
        }
    }
}

/// tokenizer.json, and the file's name for messages.
struct Source<'a> {
    origin: &'a str,
    document: Json,
    model: Json,
}

impl Source<'_> {
    fn read(tokenizer: &Tokenizer) -> Result<Source<'_>> {
        let file = tokenizer.files.iter().find(|(name, _)| name == "tokenizer.json");
        let mut document = Json::Object(json_object(file.map(|(_, bytes)| bytes.as_slice()), &tokenizer.origin)?);
        let model = document["model"].take();
        let source = Source { origin: &tokenizer.origin, document, model };
        match source.model["merges"].is_array() && source.model["vocab"].is_object() {
            true => Ok(source),
            false => Err(source.refused(format!("its model is {}, not BPE", source.model["type"]))),
        }
    }

    fn refused(&self, what: String) -> Error {
        Error::NotForGguf { origin: self.origin.to_string(), what }
    }

    fn byte_level(&self, vocab_size: u64) -> Result<Vec<(&'static str, Value)>> {
        for step in steps(&self.document["normalizer"], "normalizers") {
            if step["type"] != "NFC" {
                return Err(self.refused(format!("llama.cpp does not normalise a text by {}", step["type"])));
            }
        }
        let pre = self.pre()?;
        let (texts, kinds) = self.tokens(vocab_size);
        // A merge is written `left right`, so a space within a piece is written as byte-level BPE writes a space.
        let merges =
            self.merges()?.into_iter().map(|(left, right)| [left, right].map(|part| part.replace(' ', "Ġ")).join(" "));
        Ok(vec![
            ("model", Value::String("gpt2".into())),
            ("pre", Value::String(pre.into())),
            ("tokens", strings(texts)),
            ("token_type", kinds),
            ("merges", strings(merges)),
        ])
    }

    /// The name of the rule that cuts a text. Two names of one rule differ in taking whole words; where neither does as
    /// tokenizer.json says, the rule decides, for merges lead to the same word.
    fn pre(&self) -> Result<&'static str> {
        let wanted = cuts(&self.document["pre_tokenizer"]);
        let whole_words = self.model["ignore_merges"] == true;
        let same_rule = |pre| rules(pre).is_some_and(|rules| wanted.is_some() && cuts(&rules.pre_tokenizer) == wanted);
        let mut named = WRITTEN.iter().filter(|(pre, _)| same_rule(pre)).collect::<Vec<_>>();
        named.sort_by_key(|(_, whole)| *whole != whole_words);
        named.first().map(|(pre, _)| *pre).ok_or_else(|| {
            let known = WRITTEN.map(|(pre, _)| pre).join(", ");
            let rule = &self.document["pre_tokenizer"];
            self.refused(format!("its pre-tokenizer is none of those known here ({known}): {rule}"))
        })
    }

    fn sentencepiece(&self, vocab_size: u64) -> Result<Vec<(&'static str, Value)>> {
        let prefix = self.space_prefix()?;
        let (texts, kinds) = self.tokens(vocab_size);
        let vocab = self.model["vocab"].as_object();
        if let Some(missing) = (0..=255).map(byte_piece).find(|piece| !vocab.is_some_and(|v| v.contains_key(piece))) {
            return Err(self.refused(format!("its vocabulary lacks the byte {missing}")));
        }
        // llama.cpp joins the two neighbours whose union has the highest score, which is the merge that comes first. What no
        // merge makes comes after all of them.
        let merges = self.merges()?;
        let ids: HashMap<&str, usize> = texts.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
        let mut scores = vec![Value::F64(-(merges.len() as f64)); texts.len()];
        for (rank, (left, right)) in merges.iter().enumerate().rev() {
            if let Some(&id) = ids.get([*left, *right].concat().as_str()) {
                scores[id] = Value::F64(-(rank as f64));
            }
        }
        Ok(vec![
            ("model", Value::String("llama".into())),
            ("pre", Value::String("default".into())),
            ("scores", Value::Array(scores)),
            ("token_type", kinds),
            ("tokens", strings(texts)),
            ("add_space_prefix", Value::Bool(prefix)),
        ])
    }

    /// Whether a text gets a space in front. Spaces must become `▁` and nothing else may happen to it.
    fn space_prefix(&self) -> Result<bool> {
        let (mut prefix, mut marked) = (false, false);
        let normalizers = steps(&self.document["normalizer"], "normalizers");
        for step in normalizers.into_iter().chain(steps(&self.document["pre_tokenizer"], "pretokenizers")) {
            match step["type"].as_str() {
                Some("Prepend") if step["prepend"] == "▁" => prefix = true,
                Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => marked = true,
                Some("Metaspace") if step["replacement"] == "▁" && step["split"] == false => {
                    prefix = step["prepend_scheme"] != "never";
                    marked = true;
                }
                // Gemma's, behind the replacement: no space is left to split at.
                Some("Split") if step["pattern"]["String"] == " " && marked => {}
                _ => return Err(self.refused(format!("SentencePiece of llama.cpp has no step {step}"))),
            }
        }
        match marked {
            true => Ok(prefix),
            false => Err(self.refused("its bytes are pieces, but spaces are not written ▁".into())),
        }
    }

    /// Texts and kinds by id. Kinds are as llama.cpp's converter sees them: tokens that look special are, whatever the file
    /// says, and others that were added are matched in the text as it is, with spaces.
    fn tokens(&self, vocab_size: u64) -> (Vec<String>, Value) {
        let mut texts: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![UNUSED; texts.len()];
        let mut set = |id: &Json, text: String, kind: u64| {
            if let Some(id) = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < texts.len()) {
                (texts[id], kinds[id]) = (text, kind);
            }
        };
        let bytes = self.model["byte_fallback"] == true;
        for (text, id) in self.model["vocab"].as_object().into_iter().flatten() {
            let kind = match text {
                _ if self.model["unk_token"] == text.as_str() => UNKNOWN,
                _ if bytes && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>') => BYTE,
                _ => NORMAL,
            };
            set(id, text.clone(), kind);
        }
        for token in self.document["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default();
            match token["special"] == true || looks_special(text) {
                true => set(&token["id"], text.to_string(), CONTROL),
                false => set(&token["id"], text.replace('▁', " "), USER_DEFINED),
            }
        }
        (texts, Value::Array(kinds.into_iter().map(|kind| Value::I64(kind as i64)).collect()))
    }

    /// Pairs of pieces; older files have them in one text with a space between.
    fn merges(&self) -> Result<Vec<(&str, &str)>> {
        let merges = self.model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
        let refused = |merge: &Json| self.refused(format!("its merge {merge} is not two pieces"));
        merges.iter().map(|merge| pieces(merge).ok_or_else(|| refused(merge))).collect()
    }
}

fn pieces(merge: &Json) -> Option<(&str, &str)> {
    match merge {
        Json::Array(parts) => Some((parts.first()?.as_str()?, parts.get(1)?.as_str()?)),
        text => text.as_str()?.split_once(' '),
    }
}

/// The steps of a normalizer or pre-tokenizer.
fn steps<'a>(value: &'a Json, inner: &str) -> Vec<&'a Json> {
    match value {
        Json::Null => Vec::new(),
        sequence if sequence["type"] == "Sequence" => {
            sequence[inner].as_array().into_iter().flatten().flat_map(|step| steps(step, inner)).collect()
        }
        step => vec![step],
    }
}

/// The patterns by which a byte-level pre-tokenizer cuts a text, one after the other; none for one that does other things.
fn cuts(pre_tokenizer: &Json) -> Option<Vec<&str>> {
    let (mut cuts, mut bytes) = (Vec::new(), false);
    for step in steps(pre_tokenizer, "pretokenizers") {
        match step["type"].as_str()? {
            // Patterns that leave nothing between their matches, so that removing what lies between removes nothing.
            "Split" if step["behavior"] == "Isolated" || step["behavior"] == "Removed" && step["invert"] == true => {
                cuts.push(step["pattern"]["Regex"].as_str()?);
            }
            "Digits" if step["individual_digits"] == true => cuts.push(r"\p{N}"),
            "ByteLevel" if step["add_prefix_space"] != true => {
                bytes = true;
                cuts.extend((step["use_regex"] != false).then_some(GPT2_SPLIT));
            }
            _ => return None,
        }
    }
    bytes.then_some(cuts)
}

/// Tokens that files often forget to call special; as in llama.cpp's converter.
fn looks_special(text: &str) -> bool {
    let within = |start, end| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || within("<|", "|>")
        || within("<｜", "｜>")
        || within("<unused", ">")
}

fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn strings(texts: impl IntoIterator<Item = String>) -> Value {
    Value::Array(texts.into_iter().map(Value::String).collect())
}

#[cfg(test)]
mod tests;

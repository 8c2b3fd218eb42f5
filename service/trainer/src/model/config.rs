//! The shape of a model: config.json (as transformers 4 or 5 writes it) or GGUF metadata in, [`Config`] out.
//!
//! Configurations come with models from strangers: sizes are bounded here, once, before anything is allocated for them.

pub(super) mod gguf;
mod json;
mod to_json;

use std::path::Path;

use serde_json::Value;

use super::Error;
use super::family::{Architecture, Family};
use super::rope::Rope;

/// The shape of a model, with names and meaning as in config.json.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which family.
    pub architecture: Architecture,
    /// What the family's block does differently.
    pub family: Family,
    /// Tokens that have an embedding.
    pub vocab_size: i64,
    /// Width of the hidden states.
    pub hidden_size: i64,
    /// Width inside the feed-forward block.
    pub intermediate_size: i64,
    /// Decoder layers.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: i64,
    /// Width of a head, even.
    pub head_dim: i64,
    /// Added to the mean square in the norms.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Longest sequence that the model was made for, in tokens.
    pub max_position_embeddings: i64,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Scores are divided by its root; mostly the width of a head.
    pub query_pre_attn_scalar: f64,
    /// Attention's scores s are `cap · tanh(s / cap)` (Gemma 2).
    pub attn_logit_softcapping: Option<f64>,
    /// The head's logits likewise.
    pub final_logit_softcapping: Option<f64>,
    /// Whether each layer rotates queries and keys.
    pub uses_rope: Vec<bool>,
    /// Sliding window of each layer, in tokens: token i sees j only when `j > i - window`.
    pub windows: Vec<Option<i64>>,
    /// Tokens that end a text; may be empty.
    pub eos_token_ids: Vec<i64>,
    /// Token that begins a text.
    pub bos_token_id: Option<i64>,
}

impl Config {
    /// Reads the shape of a model, as [`super::Decoder::load`] would, without its weights.
    pub fn open(path: &Path) -> Result<Config, Error> {
        super::weights::read_config(path)
    }

    /// Reads `config.json` in a model's folder, and `generation_config.json` where there is one.
    pub fn from_folder(folder: &Path) -> Result<Config, Error> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let mut config = Config::from_json(&path, &text)?;
        // Chat models often name more than one end there; generation stops at any of them.
        if let Ok(text) = std::fs::read_to_string(folder.join("generation_config.json"))
            && let Ok(Value::Object(generation)) = serde_json::from_str(&text)
        {
            for id in json::token_ids(generation.get("eos_token_id")) {
                if !config.eos_token_ids.contains(&id) {
                    config.eos_token_ids.push(id);
                }
            }
        }
        Ok(config)
    }

    /// What two models must have alike for the weights of one to stand in for those of the other.
    pub fn sizes(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        (
            self.architecture,
            [self.vocab_size, self.hidden_size, self.intermediate_size, self.num_hidden_layers],
            [self.num_attention_heads, self.num_key_value_heads, self.head_dim],
        )
    }

    /// Columns of the query projection: H · D.
    pub fn query_size(&self) -> i64 {
        self.num_attention_heads * self.head_dim
    }

    /// Columns of the key projection, and of the value projection: K · D.
    pub fn key_value_size(&self) -> i64 {
        self.num_key_value_heads * self.head_dim
    }

    /// What products of queries and keys are multiplied by.
    pub(super) fn score_scale(&self) -> f64 {
        self.query_pre_attn_scalar.powf(-0.5)
    }

    /// A number that must be positive and is not.
    fn not_positive(&self) -> Option<(&'static str, f64)> {
        let numbers = [
            ("query_pre_attn_scalar", Some(self.query_pre_attn_scalar)),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ];
        let mut given = numbers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.find(|(_, value)| !(*value > 0.0 && value.is_finite()))
    }

    fn bounded(self, path: &Path) -> Result<Config, Error> {
        let sizes = [
            ("vocab_size", self.vocab_size, Limits::VOCAB),
            ("hidden_size", self.hidden_size, Limits::WIDTH),
            ("intermediate_size", self.intermediate_size, Limits::WIDTH),
            ("num_hidden_layers", self.num_hidden_layers, Limits::LAYERS),
            ("num_attention_heads", self.num_attention_heads, Limits::HEADS),
            ("num_key_value_heads", self.num_key_value_heads, Limits::HEADS),
            ("head_dim", self.head_dim, Limits::HEAD_DIM),
            ("max_position_embeddings", self.max_position_embeddings, Limits::POSITIONS),
        ];
        for (name, value, most) in sizes {
            if !(1..=most).contains(&value) {
                let what = format!("{name} is {value}; it must lie in 1 to {most}");
                return Err(Error::Config { path: path.to_path_buf(), what });
            }
        }
        let (heads, key_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let problem = if heads % key_heads != 0 {
            Some(format!("{heads} attention heads cannot share {key_heads} key/value heads"))
        } else if self.head_dim % 2 != 0 {
            Some(format!("head_dim {} is odd; the rotation takes pairs", self.head_dim))
        } else if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            Some(format!("rms_norm_eps is {}", self.rms_norm_eps))
        } else if !(2..=self.head_dim).contains(&self.rope.rotary_dim) || self.rope.rotary_dim % 2 != 0 {
            Some(format!("{} of {} dimensions would be rotated", self.rope.rotary_dim, self.head_dim))
        } else if let Some((name, value)) = self.not_positive() {
            Some(format!("{name} is {value}; it must be positive"))
        } else if let Some(window) = self.windows.iter().flatten().find(|window| **window < 1) {
            Some(format!("sliding_window is {window}"))
        } else {
            self.rope.problem()
        };
        match problem {
            Some(what) => Err(Error::Config { path: path.to_path_buf(), what }),
            None => Ok(self),
        }
    }
}

/// Far above any real model, and small enough that no product of them overflows.
struct Limits;

impl Limits {
    const VOCAB: i64 = 1 << 22;
    const WIDTH: i64 = 1 << 20;
    const LAYERS: i64 = 1 << 10;
    const HEADS: i64 = 1 << 12;
    const HEAD_DIM: i64 = 1 << 12;
    const POSITIONS: i64 = 1 << 30;
}

#[cfg(test)]
mod tests;

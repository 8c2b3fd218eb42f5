//! The shape of a model: config.json (as transformers 4 or 5 writes it) or GGUF metadata in, [`Config`] out.
//!
//! Configurations come with models from strangers: sizes are bounded here, once, before anything is allocated for them.

use std::path::{Path, PathBuf};

use hone_data::gguf::{Gguf, Value as GgufValue};
use serde_json::{Map, Value};

use super::Error;
use super::family::{self, Architecture, Family};
use super::rope::{Rope, Scaling};

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
            for id in token_ids(generation.get("eos_token_id")) {
                if !config.eos_token_ids.contains(&id) {
                    config.eos_token_ids.push(id);
                }
            }
        }
        Ok(config)
    }

    /// Parses the text of a config.json; `path` is for messages.
    pub fn from_json(path: &Path, text: &str) -> Result<Config, Error> {
        let broken = |what: String| Error::Config { path: path.to_path_buf(), what };
        let value: Value = serde_json::from_str(text).map_err(|error| broken(format!("not JSON: {error}")))?;
        let Value::Object(map) = value else {
            return Err(broken("not a JSON object".to_string()));
        };
        let fields = Fields { path, map: &map };
        let architecture = fields.architecture()?;
        let num_attention_heads = fields.int("num_attention_heads")?;
        let hidden_size = fields.int("hidden_size")?;
        let num_hidden_layers = fields.int("num_hidden_layers")?;
        let max_position_embeddings = fields.int_or("max_position_embeddings", 2048)?;
        let head_dim = match (fields.optional_int("head_dim")?, architecture.default_head_dim()) {
            (Some(dim), _) | (None, Some(dim)) => dim,
            (None, None) => hidden_size / num_attention_heads.max(1),
        };
        let key_value_heads = architecture.default_num_key_value_heads().unwrap_or(num_attention_heads);
        fields.refuse_unless("hidden_act", "silu")?;
        let config = Config {
            architecture,
            family: Family::of(architecture, fields.flag("attention_bias"), fields.flag("mlp_bias")),
            vocab_size: fields.int("vocab_size")?,
            hidden_size,
            intermediate_size: fields.int("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: fields.int_or("num_key_value_heads", key_value_heads)?,
            head_dim,
            rms_norm_eps: fields.number_or("rms_norm_eps", 1e-6)?,
            rope: fields.rope(max_position_embeddings)?,
            max_position_embeddings,
            tie_word_embeddings: fields.flag("tie_word_embeddings"),
            windows: family::windows(architecture, &map, num_hidden_layers.clamp(0, Limits::LAYERS)),
            eos_token_ids: token_ids(map.get("eos_token_id")),
            bos_token_id: map.get("bos_token_id").and_then(Value::as_i64),
        };
        config.bounded(path)
    }

    /// Reads the metadata of a GGUF file; `path` is for messages. Frequency factors that are stored as a tensor are left
    /// to the reader of tensors.
    pub fn from_gguf(path: &Path, gguf: &Gguf) -> Result<Config, Error> {
        let broken = |what: String| Error::Config { path: path.to_path_buf(), what };
        let name = gguf.str("general.architecture").ok_or_else(|| broken("general.architecture is missing".into()))?;
        let architecture = Architecture::from_gguf(name)
            .ok_or_else(|| Error::UnsupportedArchitecture { path: path.to_path_buf(), name: name.to_string() })?;
        let keys = Keys { path, gguf, prefix: name };
        if keys.optional("expert_count").is_some_and(|count| count > 0) {
            let name = format!("{name} with experts");
            return Err(Error::UnsupportedArchitecture { path: path.to_path_buf(), name });
        }
        let num_attention_heads = keys.int("attention.head_count")?;
        let hidden_size = keys.int("embedding_length")?;
        let num_hidden_layers = keys.int("block_count")?;
        let max_position_embeddings = keys.int("context_length")?;
        let head_dim = keys.optional("attention.key_length").unwrap_or(hidden_size / num_attention_heads.max(1));
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(dim) = keys.optional(key).filter(|dim| *dim != head_dim) {
                return Err(broken(format!("{name}.{key} is {dim}, heads are {head_dim} wide: not supported")));
            }
        }
        // In this file a bias is there or it is not; no key says so.
        let has = |tensor: &str| gguf.tensor(tensor).is_some();
        let family = Family {
            qkv_bias: has("blk.0.attn_q.bias"),
            o_bias: has("blk.0.attn_output.bias"),
            mlp_bias: has("blk.0.ffn_up.bias"),
            qk_norm: architecture == Architecture::Qwen3,
        };
        let window = keys.optional("attention.sliding_window").filter(|window| *window > 0);
        let config = Config {
            architecture,
            family,
            vocab_size: keys.vocab_size()?,
            hidden_size,
            intermediate_size: keys.int("feed_forward_length")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: keys.optional("attention.head_count_kv").unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: keys.number("attention.layer_norm_rms_epsilon").unwrap_or(1e-6),
            rope: keys.rope(max_position_embeddings)?,
            max_position_embeddings,
            tie_word_embeddings: !has("output.weight"),
            windows: vec![window; num_hidden_layers.clamp(0, Limits::LAYERS) as usize],
            eos_token_ids: ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"]
                .iter()
                .filter_map(|key| gguf.u64(key).map(|id| id as i64))
                .collect(),
            bos_token_id: gguf.u64("tokenizer.ggml.bos_token_id").map(|id| id as i64),
        };
        config.bounded(path)
    }

    /// Columns of the query projection: H · D.
    pub fn query_size(&self) -> i64 {
        self.num_attention_heads * self.head_dim
    }

    /// Columns of the key projection, and of the value projection: K · D.
    pub fn key_value_size(&self) -> i64 {
        self.num_key_value_heads * self.head_dim
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

/// One id, or a list of them.
fn token_ids(value: Option<&Value>) -> Vec<i64> {
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_i64).collect(),
        Some(id) => id.as_i64().into_iter().collect(),
        None => Vec::new(),
    }
}

/// The fields of config.json, or of an object in it.
struct Fields<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn broken(&self, what: impl Into<String>) -> Error {
        Error::Config { path: PathBuf::from(self.path), what: what.into() }
    }

    /// A value that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn architecture(&self) -> Result<Architecture, Error> {
        let name = self.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
        let name = name.ok_or_else(|| self.broken("`architectures` is missing or empty"))?;
        Architecture::from_name(name)
            .ok_or_else(|| Error::UnsupportedArchitecture { path: self.path.to_path_buf(), name: name.to_string() })
    }

    fn optional_int(&self, key: &str) -> Result<Option<i64>, Error> {
        self.get(key)
            .map(|value| value.as_i64().ok_or_else(|| self.broken(format!("`{key}` is {value}, not a whole number"))))
            .transpose()
    }

    fn int(&self, key: &str) -> Result<i64, Error> {
        self.optional_int(key)?.ok_or_else(|| self.broken(format!("`{key}` is missing")))
    }

    fn int_or(&self, key: &str, default: i64) -> Result<i64, Error> {
        Ok(self.optional_int(key)?.unwrap_or(default))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.get(key)
            .map(|value| value.as_f64().ok_or_else(|| self.broken(format!("`{key}` is {value}, not a number"))))
            .transpose()
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64, Error> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    fn number(&self, key: &str) -> Result<f64, Error> {
        self.optional_number(key)?.ok_or_else(|| self.broken(format!("`{key}` is missing")))
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn refuse_unless(&self, key: &str, only: &str) -> Result<(), Error> {
        match self.get(key).and_then(Value::as_str) {
            Some(value) if value != only => Err(self.broken(format!("`{key}` is {value}; only {only} is supported"))),
            _ => Ok(()),
        }
    }

    /// transformers 5 writes `rope_parameters` with everything in it; 4 wrote `rope_theta` and `rope_scaling` apart.
    fn rope(&self, max_position_embeddings: i64) -> Result<Rope, Error> {
        let empty = Map::new();
        let map = ["rope_parameters", "rope_scaling"].into_iter().find_map(|key| self.get(key)?.as_object());
        let inner = Fields { path: self.path, map: map.unwrap_or(&empty) };
        if let Some((key, _)) = inner.map.iter().find(|(_, value)| value.is_object()) {
            return Err(self.broken(format!("`rope_parameters.{key}`: parameters by layer type are not supported")));
        }
        let theta = match inner.optional_number("rope_theta")? {
            Some(theta) => theta,
            None => self.number_or("rope_theta", 10_000.0)?,
        };
        for fields in [&inner, self] {
            if fields.number_or("partial_rotary_factor", 1.0)? != 1.0 {
                return Err(self.broken("`partial_rotary_factor` other than 1 is not supported"));
            }
        }
        let kind = inner.get("rope_type").or_else(|| inner.get("type")).and_then(Value::as_str).unwrap_or("default");
        let original = inner.number_or("original_max_position_embeddings", max_position_embeddings as f64)?;
        let scaling = match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: inner.number("factor")? },
            "llama3" => Scaling::Llama3 {
                factor: inner.number("factor")?,
                low_freq_factor: inner.number("low_freq_factor")?,
                high_freq_factor: inner.number("high_freq_factor")?,
                original_max_position_embeddings: original,
            },
            "yarn" => inner.yarn(max_position_embeddings, original)?,
            other => {
                return Err(self.broken(format!(
                    "rope type `{other}` is not supported; supported are default, linear, llama3 and yarn"
                )));
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn yarn(&self, max_position_embeddings: i64, original: f64) -> Result<Scaling, Error> {
        let factor = self.number_or("factor", max_position_embeddings as f64 / original)?;
        let attention_factor = match self.optional_number("attention_factor")? {
            Some(value) => value,
            None => Scaling::yarn_attention_factor(
                factor,
                self.optional_number("mscale")?,
                self.optional_number("mscale_all_dim")?,
            ),
        };
        Ok(Scaling::Yarn {
            factor,
            attention_factor,
            beta_fast: self.number_or("beta_fast", 32.0)?,
            beta_slow: self.number_or("beta_slow", 1.0)?,
            truncate: self.get("truncate").and_then(Value::as_bool).unwrap_or(true),
            original_max_position_embeddings: original,
        })
    }
}

/// The keys of GGUF metadata that begin with the architecture.
struct Keys<'a> {
    path: &'a Path,
    gguf: &'a Gguf,
    prefix: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// An integer; where a list gives one for each layer, they must be equal.
    fn optional(&self, name: &str) -> Option<i64> {
        let key = self.key(name);
        let each = match self.gguf.array(&key) {
            Some([first, rest @ ..]) if rest.iter().all(|value| value == first) => match *first {
                GgufValue::U64(value) => Some(value),
                GgufValue::I64(value) => u64::try_from(value).ok(),
                _ => None,
            },
            _ => None,
        };
        self.gguf.u64(&key).or(each).and_then(|value| i64::try_from(value).ok())
    }

    fn int(&self, name: &str) -> Result<i64, Error> {
        self.optional(name).ok_or_else(|| Error::Config {
            path: self.path.to_path_buf(),
            what: format!("{} is missing or not one number for all layers", self.key(name)),
        })
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.gguf.f64(&self.key(name))
    }

    /// Rows of the embedding: the key is often missing, and the tensor is what counts.
    fn vocab_size(&self) -> Result<i64, Error> {
        let rows = self.gguf.tensor("token_embd.weight").and_then(|tensor| tensor.dims.get(1).copied());
        rows.and_then(|rows| i64::try_from(rows).ok()).ok_or_else(|| Error::MissingTensor {
            path: self.path.to_path_buf(),
            tensor: "token_embd.weight".to_string(),
        })
    }

    fn rope(&self, max_position_embeddings: i64) -> Result<Rope, Error> {
        let broken = |what: String| Error::Config { path: self.path.to_path_buf(), what };
        let factor = || {
            self.number("rope.scaling.factor").ok_or_else(|| broken(self.key("rope.scaling.factor") + " is missing"))
        };
        let scaling = match self.gguf.str(&self.key("rope.scaling.type")).unwrap_or("none") {
            "none" => Scaling::Default,
            "linear" => Scaling::Linear { factor: factor()? },
            "yarn" => {
                let factor = factor()?;
                // llama.cpp multiplies its own factor with the one of the paper.
                let extra = self.number("rope.scaling.attn_factor").unwrap_or(1.0);
                Scaling::Yarn {
                    factor,
                    attention_factor: extra * Scaling::yarn_attention_factor(factor, None, None),
                    beta_fast: self.number("rope.scaling.yarn_beta_fast").unwrap_or(32.0),
                    beta_slow: self.number("rope.scaling.yarn_beta_slow").unwrap_or(1.0),
                    truncate: true,
                    original_max_position_embeddings: self
                        .number("rope.scaling.original_context_length")
                        .unwrap_or(max_position_embeddings as f64),
                }
            }
            other => return Err(broken(format!("rope scaling `{other}` is not supported"))),
        };
        Ok(Rope { theta: self.number("rope.freq_base").unwrap_or(10_000.0), scaling })
    }
}

#[cfg(test)]
mod tests;

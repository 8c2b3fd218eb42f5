//! [`Config`] from the metadata of a GGUF file, and back.

use std::path::Path;

use hone_data::gguf::{Gguf, Value as GgufValue};

use super::{Config, Limits};
use crate::model::Error;
use crate::model::family::{self, Architecture, Family};
use crate::model::rope::{Rope, Scaling};

mod write;

pub(in crate::model) use write::factor_tensors;

/// The one Gemma 2 whose scores are not scaled by the width of a head. No key says so; llama.cpp goes by the layers, too.
const GEMMA2_27B_LAYERS: i64 = 46;

/// Divisors of all texts, which Llama 3.1 and later store as a tensor.
pub(in crate::model) const FACTORS_TENSOR: &str = "rope_freqs.weight";

/// Divisors of short and of long texts, which Phi-3 stores as tensors.
pub(in crate::model) const LONGROPE_TENSORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// The scaling that such divisors belong to.
pub(in crate::model) fn longrope(
    gguf: &Gguf,
    config: &Config,
    short_factor: Vec<f64>,
    long_factor: Vec<f64>,
) -> Scaling {
    let number = |key: &str| gguf.str("general.architecture").and_then(|name| gguf.f64(&format!("{name}.{key}")));
    Scaling::LongRope {
        short_factor,
        long_factor,
        attention_factor: number("rope.scaling.attn_factor").unwrap_or(1.0),
        original_max_position_embeddings: number("rope.scaling.original_context_length")
            .unwrap_or(config.max_position_embeddings as f64),
    }
}

impl Config {
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
        let rotary_dim = keys.optional("rope.dimension_count").unwrap_or(head_dim);
        for (key, dim) in [
            ("attention.value_length", keys.optional("attention.value_length")),
            ("rope.dimension_count", Some(rotary_dim).filter(|_| !architecture.has_partial_rotation())),
        ] {
            if let Some(dim) = dim.filter(|dim| *dim != head_dim) {
                return Err(broken(format!("{name}.{key} is {dim}, heads are {head_dim} wide: not supported")));
            }
        }
        // In this file a bias is there or it is not; no key says so.
        let has = |tensor: &str| gguf.tensor(tensor).is_some();
        let family = Family {
            qkv_bias: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
            o_bias: has("blk.0.attn_output.bias"),
            mlp_bias: has("blk.0.ffn_up.bias"),
            ..Family::of(architecture, false, false)
        };
        let layers = num_hidden_layers.clamp(0, Limits::LAYERS);
        let window = keys.optional("attention.sliding_window").filter(|window| *window > 0);
        let soft_cap = |key: &str, default: f64| {
            (architecture == Architecture::Gemma2).then(|| keys.number(key).unwrap_or(default))
        };
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
            rope: keys.rope(rotary_dim, max_position_embeddings)?,
            max_position_embeddings,
            tie_word_embeddings: !has("output.weight"),
            query_pre_attn_scalar: match architecture {
                Architecture::Gemma2 if num_hidden_layers == GEMMA2_27B_LAYERS => {
                    (hidden_size / num_attention_heads.max(1)) as f64
                }
                _ => head_dim as f64,
            },
            attn_logit_softcapping: soft_cap("attn_logit_softcapping", 50.0),
            final_logit_softcapping: soft_cap("final_logit_softcapping", 30.0),
            uses_rope: (0..layers)
                .map(|layer| architecture != Architecture::SmolLm3 || (layer + 1) % family::NO_ROPE_LAYER_INTERVAL != 0)
                .collect(),
            windows: (0..layers)
                .map(|layer| window.filter(|_| family::slides_by_default(architecture, layer)))
                .collect(),
            eos_token_ids: ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"]
                .iter()
                .filter_map(|key| gguf.u64(key).map(|id| id as i64))
                .collect(),
            bos_token_id: gguf.u64("tokenizer.ggml.bos_token_id").map(|id| id as i64),
        };
        config.bounded(path)
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

    fn rope(&self, rotary_dim: i64, max_position_embeddings: i64) -> Result<Rope, Error> {
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
            // Its factors are tensors: their reader puts them in.
            "longrope" if self.gguf.tensor(LONGROPE_TENSORS[0]).is_some() => Scaling::Default,
            other => return Err(broken(format!("rope scaling `{other}` is not supported"))),
        };
        Ok(Rope { theta: self.number("rope.freq_base").unwrap_or(10_000.0), rotary_dim, scaling })
    }
}

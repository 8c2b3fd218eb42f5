//! [`Config`] from config.json, as transformers 4 or 5 writes it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Config, Limits};
use crate::model::Error;
use crate::model::family::{self, Architecture, Family};
use crate::model::rope::{Rope, Scaling};

impl Config {
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
        let defaults = architecture.defaults();
        let head_dim = fields.optional_int("head_dim")?.or(defaults.head_dim);
        let head_dim = head_dim.unwrap_or(hidden_size / num_attention_heads.max(1));
        let key_value_heads = defaults.num_key_value_heads.unwrap_or(num_attention_heads);
        let (act, names) = architecture.activation_field();
        fields.refuse_unless(act, names)?;
        if fields.flag("use_bidirectional_attention") {
            return Err(fields.broken("`use_bidirectional_attention` is not supported"));
        }
        let caps = architecture == Architecture::Gemma2;
        let soft_cap = |key: &str, default: f64| if caps { fields.number_or_none(key, default) } else { Ok(None) };
        let uses_rope = family::uses_rope(architecture, &map, num_hidden_layers.clamp(0, Limits::LAYERS));
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
            rms_norm_eps: fields.number_or("rms_norm_eps", defaults.rms_norm_eps)?,
            rope: fields.rope(architecture, head_dim, max_position_embeddings)?,
            max_position_embeddings,
            tie_word_embeddings: fields.flag_or("tie_word_embeddings", defaults.tie_word_embeddings),
            query_pre_attn_scalar: match architecture {
                Architecture::Gemma2 => fields.number_or("query_pre_attn_scalar", 256.0)?,
                _ => head_dim as f64,
            },
            attn_logit_softcapping: soft_cap("attn_logit_softcapping", 50.0)?,
            final_logit_softcapping: soft_cap("final_logit_softcapping", 30.0)?,
            windows: family::windows(architecture, &map, &uses_rope),
            uses_rope,
            eos_token_ids: token_ids(map.get("eos_token_id")),
            bos_token_id: map.get("bos_token_id").and_then(Value::as_i64),
        };
        config.bounded(path)
    }
}

/// One id, or a list of them.
pub(super) fn token_ids(value: Option<&Value>) -> Vec<i64> {
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

    /// The default where the key is missing; none where it is null.
    fn number_or_none(&self, key: &str, default: f64) -> Result<Option<f64>, Error> {
        if self.map.contains_key(key) { self.optional_number(key) } else { Ok(Some(default)) }
    }

    fn numbers(&self, key: &str) -> Result<Vec<f64>, Error> {
        let list = self.get(key).and_then(Value::as_array);
        list.and_then(|list| list.iter().map(Value::as_f64).collect())
            .ok_or_else(|| self.broken(format!("`{key}` is missing or not a list of numbers")))
    }

    fn flag(&self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    fn flag_or(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn refuse_unless(&self, key: &str, supported: &[&str]) -> Result<(), Error> {
        match self.get(key).and_then(Value::as_str) {
            Some(value) if !supported.contains(&value) => {
                Err(self.broken(format!("`{key}` is {value}; only {} is supported", supported[0])))
            }
            _ => Ok(()),
        }
    }

    /// transformers 5 writes `rope_parameters` with everything in it; 4 wrote `rope_theta` and `rope_scaling` apart.
    fn rope(&self, architecture: Architecture, head_dim: i64, max_position_embeddings: i64) -> Result<Rope, Error> {
        let empty = Map::new();
        let map = ["rope_parameters", "rope_scaling"].into_iter().find_map(|key| self.get(key)?.as_object());
        let inner = Fields { path: self.path, map: map.unwrap_or(&empty) };
        if let Some((key, _)) = inner.map.iter().find(|(_, value)| value.is_object()) {
            return Err(self.broken(format!("`rope_parameters.{key}`: parameters by layer type are not supported")));
        }
        let defaults = architecture.defaults();
        let theta = match inner.optional_number("rope_theta")? {
            Some(theta) => theta,
            None => self.number_or("rope_theta", defaults.rope_theta)?,
        };
        let kind = inner.get("rope_type").or_else(|| inner.get("type")).and_then(Value::as_str).unwrap_or("default");
        let kind = match kind {
            // Names that Phi-3 was published with.
            "su" | "yarn" if architecture == Architecture::Phi3 => "longrope",
            kind => kind,
        };
        // Beside the parameters it comes first, as in transformers.
        let beside = self.optional_number("original_max_position_embeddings")?;
        let original = match beside.or(defaults.original_max_position_embeddings) {
            Some(original) => original,
            None => inner.number_or("original_max_position_embeddings", max_position_embeddings as f64)?,
        };
        let scaling = match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear { factor: inner.number("factor")? },
            "dynamic" => Scaling::Dynamic {
                factor: inner.number("factor")?,
                max_position_embeddings: max_position_embeddings as f64,
            },
            "llama3" => Scaling::Llama3 {
                factor: inner.number("factor")?,
                low_freq_factor: inner.number("low_freq_factor")?,
                high_freq_factor: inner.number("high_freq_factor")?,
                original_max_position_embeddings: original,
            },
            "yarn" => inner.yarn(max_position_embeddings, original)?,
            "longrope" => inner.longrope(max_position_embeddings, original)?,
            other => {
                return Err(self.broken(format!(
                    "rope type `{other}` is not supported; supported are default, linear, dynamic, llama3, yarn and longrope"
                )));
            }
        };
        Ok(Rope { theta, rotary_dim: self.rotary_dim(architecture, &inner, head_dim)?, scaling })
    }

    fn rotary_dim(&self, architecture: Architecture, inner: &Fields<'_>, head_dim: i64) -> Result<i64, Error> {
        let factor = match inner.optional_number("partial_rotary_factor")? {
            Some(factor) => factor,
            None => self.number_or("partial_rotary_factor", 1.0)?,
        };
        if factor != 1.0 && !architecture.has_partial_rotation() {
            let name = architecture.name();
            return Err(self.broken(format!("`partial_rotary_factor` other than 1 is not supported for {name}")));
        }
        Ok((head_dim as f64 * factor) as i64)
    }

    fn longrope(&self, max_position_embeddings: i64, original: f64) -> Result<Scaling, Error> {
        let factor = self.number_or("factor", max_position_embeddings as f64 / original)?;
        let attention_factor = self.optional_number("attention_factor")?;
        Ok(Scaling::LongRope {
            short_factor: self.numbers("short_factor")?,
            long_factor: self.numbers("long_factor")?,
            attention_factor: attention_factor.unwrap_or_else(|| Scaling::longrope_attention_factor(factor, original)),
            original_max_position_embeddings: original,
        })
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

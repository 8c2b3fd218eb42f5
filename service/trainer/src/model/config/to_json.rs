//! config.json of a [`Config`], for models whose files had none: those from GGUF.

use serde_json::{Value, json};

use super::Config;
use crate::model::family::Architecture;
use crate::model::mlp::Activation;
use crate::model::rope::Scaling;

impl Config {
    /// The text of config.json that transformers 4 and 5 and this crate read as this shape; `dtype` is the number format of
    /// the weights beside it. What has no such text is told.
    pub fn to_json(&self, dtype: &str) -> Result<Value, String> {
        let family = &self.family;
        if family.qkv_bias != family.o_bias && self.architecture != Architecture::Qwen2 {
            return Err(format!("{} with biases in some projections of attention only", self.architecture.name()));
        }
        let (activation_field, _) = self.architecture.activation_field();
        let activation = match family.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        };
        let mut config = json!({
            "architectures": [self.architecture.name()],
            "model_type": self.architecture.model_type(),
            "dtype": dtype,
            "torch_dtype": dtype,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": family.qkv_bias,
            "mlp_bias": family.mlp_bias,
            "rope_theta": self.rope.theta,
            "bos_token_id": self.bos_token_id,
            // Of the defaults some name a token that a small vocabulary has not.
            "pad_token_id": null,
            "eos_token_id": match &self.eos_token_ids[..] {
                [] => Value::Null,
                [id] => json!(id),
                ids => json!(ids),
            },
        });
        config[activation_field] = json!(activation);
        if let Some(scaling) = self.rope_scaling()? {
            config["rope_scaling"] = scaling;
        }
        if let Scaling::LongRope { original_max_position_embeddings, .. } = &self.rope.scaling {
            config["original_max_position_embeddings"] = json!(*original_max_position_embeddings as i64);
        }
        self.add_what_the_family_has(&mut config);
        Ok(config)
    }

    fn rope_scaling(&self) -> Result<Option<Value>, String> {
        Ok(Some(match &self.rope.scaling {
            Scaling::Default => return Ok(None),
            Scaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Scaling::Dynamic { factor, .. } => json!({"rope_type": "dynamic", "factor": factor}),
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": *original_max_position_embeddings as i64,
            }),
            Scaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                truncate,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "attention_factor": attention_factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "truncate": truncate,
                "original_max_position_embeddings": *original_max_position_embeddings as i64,
            }),
            Scaling::LongRope { short_factor, long_factor, attention_factor, .. } => json!({
                "rope_type": "longrope",
                "short_factor": short_factor,
                "long_factor": long_factor,
                "attention_factor": attention_factor,
            }),
            Scaling::Factors(factors) => return self.llama3_scaling(factors).map(Some),
        }))
    }

    /// The parameters that GGUF's factors of Llama 3.1 and later were made from, found among those that were published.
    fn llama3_scaling(&self, factors: &[f64]) -> Result<Value, String> {
        let original_max_position_embeddings = 8192.0;
        for factor in [8.0, 32.0, 16.0, 4.0] {
            let scaling = Scaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings,
            };
            let rope = |scaling| super::Rope { scaling, ..self.rope.clone() };
            let made = rope(scaling).inverse_frequencies(1);
            let plain = rope(Scaling::Default).inverse_frequencies(1);
            let fits = plain
                .iter()
                .zip(&made)
                .zip(factors)
                .all(|((plain, made), factor)| (plain / made / factor - 1.0).abs() < 1e-4);
            if fits && factors.len() == made.len() {
                return Ok(json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }));
            }
        }
        Err("the GGUF file's rope factors are none that config.json can say; take the model's Hugging Face folder as base \
             model, or export to GGUF"
            .into())
    }

    fn add_what_the_family_has(&self, config: &mut Value) {
        let window = self.windows.iter().flatten().next().copied();
        let kinds = || -> Value {
            let kind = |window: &Option<i64>| if window.is_some() { "sliding_attention" } else { "full_attention" };
            self.windows.iter().map(kind).collect()
        };
        match self.architecture {
            Architecture::Llama | Architecture::Gemma => {}
            Architecture::Mistral | Architecture::Phi3 => config["sliding_window"] = json!(window),
            Architecture::Qwen2 | Architecture::Qwen3 => {
                config["use_sliding_window"] = json!(window.is_some());
                config["sliding_window"] = json!(window);
                config["layer_types"] = kinds();
            }
            Architecture::SmolLm3 => {
                config["use_sliding_window"] = json!(window.is_some());
                config["sliding_window"] = json!(window);
                config["layer_types"] = kinds();
                config["no_rope_layers"] = self.uses_rope.iter().map(|uses| i64::from(*uses)).collect();
            }
            Architecture::Gemma2 => {
                config["sliding_window"] = json!(window);
                config["layer_types"] = kinds();
                config["query_pre_attn_scalar"] = whole(self.query_pre_attn_scalar);
                config["attn_logit_softcapping"] = json!(self.attn_logit_softcapping);
                config["final_logit_softcapping"] = json!(self.final_logit_softcapping);
            }
        }
        if self.architecture == Architecture::Phi3 {
            config["partial_rotary_factor"] = json!(self.rope.rotary_dim as f64 / self.head_dim as f64);
        }
    }
}

/// A number, without a point where it is whole: transformers asks for an integer, and hone reads either.
fn whole(number: f64) -> Value {
    let integer = number as i64;
    if integer as f64 == number { json!(integer) } else { json!(number) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::tiny;

    fn back(config: &Config) -> Config {
        let text = config.to_json("bfloat16").unwrap().to_string();
        Config::from_json(Path::new("config.json"), &text).unwrap()
    }

    #[test]
    fn what_is_written_reads_as_the_same_shape() {
        for architecture in Architecture::ALL {
            let text = tiny::config(architecture).to_string();
            let config = Config::from_json(Path::new("config.json"), &text).unwrap();
            assert_eq!(back(&config), config);
        }
    }

    #[test]
    fn every_rope_type_survives_and_the_factors_of_llama_3_are_recognised() {
        let text = tiny::config(Architecture::Llama).to_string();
        let plain = Config::from_json(Path::new("config.json"), &text).unwrap();
        let with = |scaling| Config { rope: super::super::Rope { scaling, ..plain.rope.clone() }, ..plain.clone() };
        let llama3 = Scaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let yarn = Scaling::Yarn {
            factor: 4.0,
            attention_factor: 1.25,
            beta_fast: 16.0,
            beta_slow: 2.0,
            truncate: false,
            original_max_position_embeddings: 16.0,
        };
        let dynamic = Scaling::Dynamic { factor: 2.0, max_position_embeddings: 64.0 };
        for scaling in [Scaling::Linear { factor: 2.5 }, dynamic, yarn, llama3.clone()] {
            let config = with(scaling);
            assert_eq!(back(&config), config);
        }
        let wide = |scaling| super::super::Rope { theta: 500_000.0, rotary_dim: 64, scaling };
        let plain_frequencies = wide(Scaling::Default).inverse_frequencies(1);
        let factors: Vec<f64> = plain_frequencies
            .iter()
            .zip(wide(llama3.clone()).inverse_frequencies(1))
            .map(|(plain, made)| plain / made)
            .collect();
        let stored = Config { rope: wide(Scaling::Factors(factors)), head_dim: 64, ..plain.clone() };
        assert_eq!(back(&stored).rope, wide(llama3));
        let odd = Config { rope: wide(Scaling::Factors(vec![1.5; 32])), head_dim: 64, ..plain };
        assert!(odd.to_json("float32").unwrap_err().contains("rope factors"));
    }
}

//! The metadata and the factor tensors that [`Config::from_gguf`] reads, as llama.cpp's convert_hf_to_gguf.py writes them.

use hone_data::gguf::Value;

use super::super::Config;
use super::{FACTORS_TENSOR, LONGROPE_TENSORS};
use crate::model::rope::{Rope, Scaling};

impl Config {
    /// The keys of this shape, with the architecture in front; `general.architecture` is the first.
    pub(in crate::model) fn to_gguf(&self) -> Vec<(String, Value)> {
        let name = self.architecture.gguf_name();
        let mut keys = vec![
            ("vocab_size", int(self.vocab_size)),
            ("context_length", int(self.max_position_embeddings)),
            ("embedding_length", int(self.hidden_size)),
            ("block_count", int(self.num_hidden_layers)),
            ("feed_forward_length", int(self.intermediate_size)),
            ("attention.head_count", int(self.num_attention_heads)),
            ("attention.head_count_kv", int(self.num_key_value_heads)),
            ("attention.key_length", int(self.head_dim)),
            ("attention.value_length", int(self.head_dim)),
            ("attention.layer_norm_rms_epsilon", Value::F64(self.rms_norm_eps)),
            ("rope.dimension_count", int(self.rope.rotary_dim)),
            ("rope.freq_base", Value::F64(self.rope.theta)),
        ];
        let optional = [
            ("attention.sliding_window", self.windows.iter().copied().find_map(|window| window).map(int)),
            ("attn_logit_softcapping", self.attn_logit_softcapping.map(Value::F64)),
            ("final_logit_softcapping", self.final_logit_softcapping.map(Value::F64)),
        ];
        keys.extend(optional.into_iter().filter_map(|(key, value)| Some((key, value?))));
        keys.extend(scaling_keys(&self.rope.scaling));
        let keys = keys.into_iter().map(|(key, value)| (format!("{name}.{key}"), value));
        [("general.architecture".to_string(), Value::String(name.to_string()))].into_iter().chain(keys).collect()
    }
}

fn int(value: i64) -> Value {
    Value::U64(value as u64)
}

fn scaling_keys(scaling: &Scaling) -> Vec<(&'static str, Value)> {
    match scaling {
        Scaling::Default | Scaling::Dynamic { .. } | Scaling::Llama3 { .. } | Scaling::Factors(_) => Vec::new(),
        Scaling::Linear { factor } => {
            vec![("rope.scaling.type", Value::String("linear".into())), ("rope.scaling.factor", Value::F64(*factor))]
        }
        Scaling::Yarn {
            factor,
            attention_factor,
            beta_fast,
            beta_slow,
            original_max_position_embeddings: original,
            ..
        } => {
            vec![
                ("rope.scaling.type", Value::String("yarn".into())),
                ("rope.scaling.factor", Value::F64(*factor)),
                ("rope.scaling.original_context_length", int(*original as i64)),
                ("rope.scaling.yarn_beta_fast", Value::F64(*beta_fast)),
                ("rope.scaling.yarn_beta_slow", Value::F64(*beta_slow)),
                // llama.cpp multiplies it with the factor of the paper.
                (
                    "rope.scaling.attn_factor",
                    Value::F64(attention_factor / Scaling::yarn_attention_factor(*factor, None, None)),
                ),
            ]
        }
        Scaling::LongRope { attention_factor, original_max_position_embeddings: original, .. } => vec![
            ("rope.scaling.original_context_length", int(*original as i64)),
            ("rope.scaling.attn_factor", Value::F64(*attention_factor)),
        ],
    }
}

/// Divisors of frequencies that are stored as tensors, by their names. `[R/2]` each
pub(in crate::model) fn factor_tensors(rope: &Rope) -> Vec<(&'static str, Vec<f32>)> {
    let float32 = |factors: &[f64]| factors.iter().map(|&factor| factor as f32).collect();
    match &rope.scaling {
        Scaling::Llama3 { .. } => {
            let plain = Rope { scaling: Scaling::Default, ..rope.clone() }.inverse_frequencies(0);
            let factors = plain.into_iter().zip(rope.inverse_frequencies(0)).map(|(plain, scaled)| plain / scaled);
            vec![(FACTORS_TENSOR, float32(&factors.collect::<Vec<_>>()))]
        }
        Scaling::Factors(factors) => vec![(FACTORS_TENSOR, float32(factors))],
        Scaling::LongRope { short_factor, long_factor, .. } => {
            let [short, long] = LONGROPE_TENSORS;
            vec![(long, float32(long_factor)), (short, float32(short_factor))]
        }
        _ => Vec::new(),
    }
}

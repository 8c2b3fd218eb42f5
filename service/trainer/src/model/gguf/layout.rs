//! How llama.cpp stores a tensor of a Hugging Face checkpoint: its name, the order of its rows, what is added to it. Both
//! ways, so that each difference is said once.

use tch::Tensor;

use crate::model::config::Config;
use crate::model::family::Architecture;

/// The differences of a model.
pub(super) struct Layout {
    architecture: Architecture,
    /// The rows of Llama's, Mistral's and SmolLM3's query and key projections are in another order; other families keep
    /// theirs.
    permuted: Option<Heads>,
    /// What is stored is 1 + weight for norms that multiply by it.
    norm_plus_one: bool,
}

#[derive(Clone, Copy)]
struct Heads {
    query: i64,
    key: i64,
}

impl Layout {
    pub(super) fn of(config: &Config) -> Layout {
        let heads = Heads { query: config.num_attention_heads, key: config.num_key_value_heads };
        let permutes =
            matches!(config.architecture, Architecture::Llama | Architecture::Mistral | Architecture::SmolLm3);
        Layout {
            architecture: config.architecture,
            permuted: permutes.then_some(heads),
            norm_plus_one: config.family.norm_plus_one,
        }
    }

    /// The name in GGUF of a tensor of the supported families.
    pub(super) fn name(&self, name: &str) -> Option<String> {
        match name {
            "model.embed_tokens.weight" => return Some("token_embd.weight".to_string()),
            "model.norm.weight" => return Some("output_norm.weight".to_string()),
            "lm_head.weight" => return Some("output.weight".to_string()),
            _ => {}
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (module, suffix) = rest.rsplit_once('.')?;
        let module = match module {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "post_attention_layernorm" if self.architecture == Architecture::Gemma2 => "post_attention_norm",
            "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            "self_attn.qkv_proj" => "attn_qkv",
            // llama.cpp has no name of its own for gate and up in one.
            "mlp.gate_up_proj" => "ffn_up",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => return None,
        };
        Some(format!("blk.{layer}.{module}.{suffix}"))
    }

    /// A stored tensor as the checkpoint has it.
    pub(super) fn restored(&self, name: &str, tensor: &Tensor) -> Tensor {
        match self.heads(name) {
            Some(heads) => restore_rows(tensor, heads),
            None if self.is_norm_plus_one(name) => tensor - 1.0,
            None => tensor.shallow_clone(),
        }
    }

    /// The reverse of [`Layout::restored`].
    pub(super) fn stored(&self, name: &str, tensor: &Tensor) -> Tensor {
        match self.heads(name) {
            Some(heads) => regroup_rows(tensor, heads),
            None if self.is_norm_plus_one(name) => tensor + 1.0,
            None => tensor.shallow_clone(),
        }
    }

    /// Heads of a projection whose rows are in another order.
    fn heads(&self, name: &str) -> Option<i64> {
        let heads = self.permuted?;
        match name.rsplit('.').nth(1)? {
            "q_proj" => Some(heads.query),
            "k_proj" => Some(heads.key),
            _ => None,
        }
    }

    fn is_norm_plus_one(&self, name: &str) -> bool {
        self.norm_plus_one && name.ends_with("norm.weight")
    }
}

/// Rows from llama.cpp's order, where the two of a rotated pair are neighbours, to Hugging Face's, where they are half a
/// head apart.
fn restore_rows(tensor: &Tensor, heads: i64) -> Tensor {
    let size = tensor.size();
    let pairs = size[0] / heads / 2;
    tensor.view([heads, pairs, 2, -1]).transpose(1, 2).reshape(size.as_slice())
}

/// The reverse.
fn regroup_rows(tensor: &Tensor, heads: i64) -> Tensor {
    let size = tensor.size();
    let pairs = size[0] / heads / 2;
    tensor.view([heads, 2, pairs, -1]).transpose(1, 2).reshape(size.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(architecture: Architecture) -> Layout {
        Layout { architecture, permuted: None, norm_plus_one: false }
    }

    #[test]
    fn names_are_mapped_and_unknown_ones_are_not_there() {
        for (name, want) in [
            ("model.embed_tokens.weight", Some("token_embd.weight")),
            ("lm_head.weight", Some("output.weight")),
            ("model.norm.weight", Some("output_norm.weight")),
            ("model.layers.12.self_attn.q_proj.bias", Some("blk.12.attn_q.bias")),
            ("model.layers.0.self_attn.k_norm.weight", Some("blk.0.attn_k_norm.weight")),
            ("model.layers.0.post_attention_layernorm.weight", Some("blk.0.ffn_norm.weight")),
            ("model.layers.0.mlp.down_proj.weight", Some("blk.0.ffn_down.weight")),
            ("model.layers.0.mlp.router.weight", None),
            ("model.rotary_emb.inv_freq", None),
        ] {
            assert_eq!(layout(Architecture::Llama).name(name).as_deref(), want, "{name}");
        }
        for (architecture, name, want) in [
            (Architecture::Gemma2, "post_attention_layernorm", "post_attention_norm"),
            (Architecture::Gemma2, "pre_feedforward_layernorm", "ffn_norm"),
            (Architecture::Gemma2, "post_feedforward_layernorm", "post_ffw_norm"),
            (Architecture::Gemma, "post_attention_layernorm", "ffn_norm"),
            (Architecture::Phi3, "self_attn.qkv_proj", "attn_qkv"),
            (Architecture::Phi3, "mlp.gate_up_proj", "ffn_up"),
        ] {
            let got = layout(architecture).name(&format!("model.layers.3.{name}.weight"));
            assert_eq!(got, Some(format!("blk.3.{want}.weight")), "{name}");
        }
    }

    #[test]
    fn rows_are_regrouped_as_by_the_converter_and_restored() {
        // convert_hf_to_gguf.py: reshape(heads, 2, rows // heads // 2, in).swapaxes(1, 2).reshape(rows, in). Of one head of
        // four rows (0, 1 | 2, 3) that makes the pairs (0, 2), (1, 3).
        let rows = |values: &[f32]| Tensor::from_slice(values);
        assert_eq!(regroup_rows(&rows(&[0.0, 1.0, 2.0, 3.0]), 1), rows(&[0.0, 2.0, 1.0, 3.0]));
        let weight = Tensor::arange(24 * 5, (tch::Kind::Float, tch::Device::Cpu)).view([24, 5]);
        let bias = Tensor::arange(24, (tch::Kind::Float, tch::Device::Cpu));
        for heads in [1, 2, 3] {
            assert_ne!(regroup_rows(&weight, heads), weight);
            assert_eq!(restore_rows(&regroup_rows(&weight, heads), heads), weight);
            assert_eq!(restore_rows(&regroup_rows(&bias, heads), heads), bias);
        }
    }
}

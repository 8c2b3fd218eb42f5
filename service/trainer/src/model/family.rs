//! The model families, and what differs between them as values: one decoder serves them all.

use serde_json::Value;

/// A supported architecture, by the name in config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama, and what is built like it: SmolLM2, TinyLlama, ...
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3, dense.
    Qwen3,
}

impl Architecture {
    /// Every supported one.
    pub const ALL: [Architecture; 4] =
        [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3];

    /// The name in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Mistral => "MistralForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The architecture of a name in config.json.
    pub fn from_name(name: &str) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// The architecture of a name in GGUF metadata. Mistral models are written there as `llama`.
    pub fn from_gguf(name: &str) -> Option<Architecture> {
        match name {
            "llama" => Some(Architecture::Llama),
            "qwen2" => Some(Architecture::Qwen2),
            "qwen3" => Some(Architecture::Qwen3),
            _ => None,
        }
    }

    /// The supported names, for messages.
    pub fn names() -> String {
        Architecture::ALL.map(Architecture::name).join(", ")
    }

    /// Key/value heads when the configuration does not say; none means as many as query heads.
    pub(super) fn default_num_key_value_heads(self) -> Option<i64> {
        match self {
            Architecture::Llama => None,
            Architecture::Mistral => Some(8),
            Architecture::Qwen2 | Architecture::Qwen3 => Some(32),
        }
    }

    /// Size of a head when the configuration does not say; none means hidden size by heads.
    pub(super) fn default_head_dim(self) -> Option<i64> {
        (self == Architecture::Qwen3).then_some(128)
    }
}

/// Where a family's block differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// The output projection has one.
    pub o_bias: bool,
    /// The feed-forward projections have one.
    pub mlp_bias: bool,
    /// Queries and keys are normalised head by head, before the rotation.
    pub qk_norm: bool,
}

impl Family {
    /// The family's values; `attention_bias` and `mlp_bias` as config.json has them.
    pub(super) fn of(architecture: Architecture, attention_bias: bool, mlp_bias: bool) -> Family {
        let none = Family { qkv_bias: false, o_bias: false, mlp_bias: false, qk_norm: false };
        match architecture {
            Architecture::Llama => Family { qkv_bias: attention_bias, o_bias: attention_bias, mlp_bias, ..none },
            Architecture::Mistral => none,
            Architecture::Qwen2 => Family { qkv_bias: true, ..none },
            Architecture::Qwen3 => Family { qkv_bias: attention_bias, o_bias: attention_bias, qk_norm: true, ..none },
        }
    }
}

/// The sliding window of each layer, as the family's class in transformers decides it.
///
/// Mistral: all layers, 4096 unless config.json says otherwise. Qwen: only with `use_sliding_window`, on layers from
/// `max_window_layers`. `layer_types`, where present, is the last word.
pub(super) fn windows(
    architecture: Architecture,
    config: &serde_json::Map<String, Value>,
    num_layers: i64,
) -> Vec<Option<i64>> {
    let written = config.get("sliding_window").map(Value::as_i64);
    let (window, first) = match architecture {
        Architecture::Llama => (None, 0),
        Architecture::Mistral => (written.unwrap_or(Some(4096)), 0),
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let used = config.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(false);
            let first = config.get("max_window_layers").and_then(Value::as_i64).unwrap_or(28);
            (written.unwrap_or(Some(4096)).filter(|_| used), first)
        }
    };
    let types = config.get("layer_types").and_then(Value::as_array).filter(|_| architecture != Architecture::Mistral);
    (0..num_layers)
        .map(|layer| {
            let slides = match types.and_then(|types| types.get(layer as usize)) {
                Some(kind) => kind == "sliding_attention",
                None => layer >= first,
            };
            window.filter(|_| slides)
        })
        .collect()
}

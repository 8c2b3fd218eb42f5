//! The model families, and what differs between them as values: one decoder serves them all.

use serde_json::Value;

use super::mlp::Activation;

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
    /// SmolLM3: some layers do not rotate.
    SmolLm3,
    /// Gemma, the first.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Phi-3, Phi-3.5 and Phi-4-mini.
    Phi3,
}

/// What transformers takes for a field that config.json does not have.
pub(super) struct Defaults {
    /// None means as many as query heads.
    pub(super) num_key_value_heads: Option<i64>,
    /// None means hidden size by heads.
    pub(super) head_dim: Option<i64>,
    pub(super) rms_norm_eps: f64,
    pub(super) rope_theta: f64,
    pub(super) tie_word_embeddings: bool,
    /// Beside the rotation's parameters, where it comes before the one among them.
    pub(super) original_max_position_embeddings: Option<f64>,
}

impl Architecture {
    /// Every supported one.
    pub const ALL: [Architecture; 8] = [
        Architecture::Llama,
        Architecture::Mistral,
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::SmolLm3,
        Architecture::Gemma,
        Architecture::Gemma2,
        Architecture::Phi3,
    ];

    /// The name in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Mistral => "MistralForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
            Architecture::SmolLm3 => "SmolLM3ForCausalLM",
            Architecture::Gemma => "GemmaForCausalLM",
            Architecture::Gemma2 => "Gemma2ForCausalLM",
            Architecture::Phi3 => "Phi3ForCausalLM",
        }
    }

    /// The model type in config.json.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::SmolLm3 => "smollm3",
            Architecture::Gemma => "gemma",
            Architecture::Gemma2 => "gemma2",
            Architecture::Phi3 => "phi3",
        }
    }

    /// The architecture of a name in config.json.
    pub fn from_name(name: &str) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// The name in GGUF metadata: the model type, but that Mistral models are written there as `llama`.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Architecture::Mistral => Architecture::Llama.gguf_name(),
            _ => self.model_type(),
        }
    }

    /// The architecture of a name in GGUF metadata; `llama` is Llama.
    pub fn from_gguf(name: &str) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|architecture| architecture.gguf_name() == name)
    }

    /// The supported names, for messages.
    pub fn names() -> String {
        Architecture::ALL.map(Architecture::name).join(", ")
    }

    /// The defaults of the family's configuration class in transformers.
    pub(super) fn defaults(self) -> Defaults {
        let llama = Defaults {
            num_key_value_heads: None,
            head_dim: None,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tie_word_embeddings: false,
            original_max_position_embeddings: None,
        };
        let gemma = |heads| Defaults {
            num_key_value_heads: Some(heads),
            head_dim: Some(256),
            tie_word_embeddings: true,
            ..llama
        };
        match self {
            Architecture::Llama => llama,
            Architecture::Mistral => Defaults { num_key_value_heads: Some(8), ..llama },
            Architecture::Qwen2 => Defaults { num_key_value_heads: Some(32), ..llama },
            Architecture::Qwen3 => Defaults { num_key_value_heads: Some(32), head_dim: Some(128), ..llama },
            Architecture::SmolLm3 => {
                Defaults { num_key_value_heads: Some(4), rope_theta: 2_000_000.0, tie_word_embeddings: true, ..llama }
            }
            Architecture::Gemma => gemma(16),
            Architecture::Gemma2 => gemma(4),
            Architecture::Phi3 => {
                Defaults { rms_norm_eps: 1e-5, original_max_position_embeddings: Some(4096.0), ..llama }
            }
        }
    }

    /// The field of config.json that names the activation, and the names that mean the family's. Early files of Gemma say
    /// `gelu` and mean its approximation.
    pub(super) fn activation_field(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Architecture::Gemma => ("hidden_act", &["gelu_pytorch_tanh", "gelu"]),
            Architecture::Gemma2 => ("hidden_activation", &["gelu_pytorch_tanh"]),
            _ => ("hidden_act", &["silu"]),
        }
    }

    /// Whether the rotation may turn only the first part of each head: elsewhere transformers does not read the factor.
    pub(super) fn has_partial_rotation(self) -> bool {
        self == Architecture::Phi3
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
    /// In checkpoints and adapters q, k and v are one module `qkv_proj`, gate and up one `gate_up_proj`.
    pub fused_projections: bool,
    /// What bends the gate.
    pub activation: Activation,
    /// Norms multiply by 1 + weight, before the cast from float32; else by the weight, after it.
    pub norm_plus_one: bool,
    /// What attention and feed-forward give is normalised before it is added: four norms a layer in place of two.
    pub output_norms: bool,
    /// Embeddings are multiplied by the root of the hidden size, rounded to the type of the weights.
    pub scaled_embeddings: bool,
}

impl Family {
    /// The family's values; `attention_bias` and `mlp_bias` as config.json has them.
    pub(super) fn of(architecture: Architecture, attention_bias: bool, mlp_bias: bool) -> Family {
        let plain = Family {
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            fused_projections: false,
            activation: Activation::Silu,
            norm_plus_one: false,
            output_norms: false,
            scaled_embeddings: false,
        };
        let biased = Family { qkv_bias: attention_bias, o_bias: attention_bias, ..plain };
        let gemma = Family { activation: Activation::GeluTanh, norm_plus_one: true, scaled_embeddings: true, ..biased };
        match architecture {
            Architecture::Llama | Architecture::SmolLm3 => Family { mlp_bias, ..biased },
            Architecture::Mistral => plain,
            Architecture::Qwen2 => Family { qkv_bias: true, ..plain },
            Architecture::Qwen3 => Family { qk_norm: true, ..biased },
            Architecture::Gemma => gemma,
            Architecture::Gemma2 => Family { output_norms: true, ..gemma },
            Architecture::Phi3 => Family { fused_projections: true, ..plain },
        }
    }
}

/// Whether a layer slides where nothing says which do: in Gemma 2 every other one, from the first.
pub(super) fn slides_by_default(architecture: Architecture, layer: i64) -> bool {
    architecture != Architecture::Gemma2 || layer % 2 == 0
}

/// The sliding window of each layer, as the family's class in transformers decides it.
///
/// Mistral and Phi-3: all layers; Mistral 4096 unless config.json says otherwise. Gemma 2: every other layer, 4096 likewise.
/// Qwen: only with `use_sliding_window`, on layers from `max_window_layers`; SmolLM3: likewise, on layers that do not
/// rotate. `layer_types`, where present, is the last word, but for Mistral and Phi-3, which do not know it.
pub(super) fn windows(
    architecture: Architecture,
    config: &serde_json::Map<String, Value>,
    uses_rope: &[bool],
) -> Vec<Option<i64>> {
    let written = config.get("sliding_window").map(Value::as_i64);
    let used = || config.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(false);
    let window = match architecture {
        Architecture::Llama | Architecture::Gemma => None,
        Architecture::Mistral | Architecture::Gemma2 => written.unwrap_or(Some(4096)),
        Architecture::Qwen2 | Architecture::Qwen3 => written.unwrap_or(Some(4096)).filter(|_| used()),
        Architecture::SmolLm3 => written.flatten().filter(|_| used()),
        Architecture::Phi3 => written.flatten(),
    };
    let first = config.get("max_window_layers").and_then(Value::as_i64).unwrap_or(28);
    let by_default = |layer: i64| match architecture {
        Architecture::Qwen2 | Architecture::Qwen3 => layer >= first,
        Architecture::SmolLm3 => !uses_rope[layer as usize],
        _ => slides_by_default(architecture, layer),
    };
    let types = config
        .get("layer_types")
        .and_then(Value::as_array)
        .filter(|_| !matches!(architecture, Architecture::Mistral | Architecture::Phi3));
    (0..uses_rope.len() as i64)
        .map(|layer| {
            let slides = match types.and_then(|types| types.get(layer as usize)) {
                Some(kind) => kind == "sliding_attention",
                None => by_default(layer),
            };
            window.filter(|_| slides)
        })
        .collect()
}

/// Layers between two of SmolLM3 that do not rotate, where nothing says which do not.
pub(super) const NO_ROPE_LAYER_INTERVAL: i64 = 4;

/// Whether each layer rotates queries and keys. All do but in SmolLM3, where `no_rope_layers` has a 1 for those that do
/// (so it is written), or each `no_rope_layer_interval`-th does not.
pub(super) fn uses_rope(
    architecture: Architecture,
    config: &serde_json::Map<String, Value>,
    num_layers: i64,
) -> Vec<bool> {
    let written = config.get("no_rope_layers").and_then(Value::as_array);
    let interval = config.get("no_rope_layer_interval").and_then(Value::as_i64).unwrap_or(NO_ROPE_LAYER_INTERVAL);
    (0..num_layers)
        .map(|layer| match written.and_then(|flags| flags.get(layer as usize)) {
            _ if architecture != Architecture::SmolLm3 => true,
            Some(flag) => flag.as_i64() != Some(0),
            None => (layer + 1) % interval.max(1) != 0,
        })
        .collect()
}

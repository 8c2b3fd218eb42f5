//! Tiny random models for tests: a config.json and safetensors in a folder, or the tensors themselves.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::{Architecture, Decoder};

/// The configuration of a tiny model: 3 layers, 4 query heads, 2 key heads of 8 dimensions, hidden size 24.
pub(crate) fn config(architecture: Architecture) -> Value {
    let mut config = json!({
        "architectures": [architecture.name()],
        "vocab_size": 53, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": false, "hidden_act": "silu",
        "eos_token_id": 2,
    });
    match architecture {
        Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 => {}
        Architecture::Mistral => config["sliding_window"] = json!(4),
        Architecture::SmolLm3 => config["no_rope_layers"] = json!([1, 0, 1]),
        Architecture::Gemma => config["hidden_act"] = json!("gelu_pytorch_tanh"),
        // The window is longer than Mistral's: one layer of three has it, and a token is still to be seen two layers on.
        Architecture::Gemma2 => {
            config["hidden_activation"] = json!("gelu_pytorch_tanh");
            config["sliding_window"] = json!(4);
            config["query_pre_attn_scalar"] = json!(5);
            config["attn_logit_softcapping"] = json!(0.5);
            config["final_logit_softcapping"] = json!(1.5);
        }
        Architecture::Phi3 => {
            config["partial_rotary_factor"] = json!(0.75);
            config["original_max_position_embeddings"] = json!(8);
            config["rope_scaling"] =
                json!({"type": "su", "short_factor": [1.0, 1.5, 2.0], "long_factor": [3.0, 5.0, 9.0]});
        }
    }
    config
}

/// The tensors that a configuration asks for, random, by name.
pub(crate) fn tensors(config: &Value, seed: i64) -> Vec<(String, Tensor)> {
    let parsed = super::Config::from_json(Path::new("config.json"), &config.to_string()).unwrap();
    let c = &parsed;
    let mut shapes: Vec<(String, Vec<i64>)> = vec![
        ("model.embed_tokens.weight".into(), vec![c.vocab_size, c.hidden_size]),
        ("model.norm.weight".into(), vec![c.hidden_size]),
    ];
    if !c.tie_word_embeddings {
        shapes.push(("lm_head.weight".into(), vec![c.vocab_size, c.hidden_size]));
    }
    for layer in 0..c.num_hidden_layers {
        let mut push =
            |name: &str, shape: &[i64]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        let (q, kv) = (c.query_size(), c.key_value_size());
        let inputs = match c.family.fused_projections {
            true => vec![
                ("self_attn.qkv_proj", q + 2 * kv, c.hidden_size, c.family.qkv_bias),
                ("mlp.gate_up_proj", 2 * c.intermediate_size, c.hidden_size, c.family.mlp_bias),
            ],
            false => vec![
                ("self_attn.q_proj", q, c.hidden_size, c.family.qkv_bias),
                ("self_attn.k_proj", kv, c.hidden_size, c.family.qkv_bias),
                ("self_attn.v_proj", kv, c.hidden_size, c.family.qkv_bias),
                ("mlp.gate_proj", c.intermediate_size, c.hidden_size, c.family.mlp_bias),
                ("mlp.up_proj", c.intermediate_size, c.hidden_size, c.family.mlp_bias),
            ],
        };
        let outputs = [
            ("self_attn.o_proj", c.hidden_size, q, c.family.o_bias),
            ("mlp.down_proj", c.hidden_size, c.intermediate_size, c.family.mlp_bias),
        ];
        for (name, out, input, bias) in inputs.into_iter().chain(outputs) {
            push(&format!("{name}.weight"), &[out, input]);
            if bias {
                push(&format!("{name}.bias"), &[out]);
            }
        }
        push("input_layernorm.weight", &[c.hidden_size]);
        push("post_attention_layernorm.weight", &[c.hidden_size]);
        if c.family.output_norms {
            push("pre_feedforward_layernorm.weight", &[c.hidden_size]);
            push("post_feedforward_layernorm.weight", &[c.hidden_size]);
        }
        if c.family.qk_norm {
            push("self_attn.q_norm.weight", &[c.head_dim]);
            push("self_attn.k_norm.weight", &[c.head_dim]);
        }
    }
    shapes.into_iter().enumerate().map(|(i, (name, shape))| (name, random(&shape, seed + i as i64))).collect()
}

/// Values that look random and depend on the seed alone: tests run side by side and share LibTorch's generator.
pub(crate) fn random(shape: &[i64], seed: i64) -> Tensor {
    let len: i64 = shape.iter().product();
    let x = Tensor::arange(len, (Kind::Double, Device::Cpu)) * 12.9898 + (seed as f64 + 1.0) * 78.233;
    let noise = (x.sin() * 43_758.545_3).frac();
    (noise * 0.6).to_kind(Kind::Float).view(shape)
}

/// Writes a model's folder.
pub(crate) fn write(folder: &Path, config: &Value, tensors: &[(String, Tensor)]) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    Tensor::write_safetensors(tensors, folder.join("model.safetensors")).unwrap();
}

/// Loads a folder in float32 on the CPU.
pub(crate) fn load(folder: &Path) -> Decoder {
    Decoder::load(folder, Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap()
}

/// A loaded tiny model.
pub(crate) fn model(architecture: Architecture) -> Decoder {
    let folder = tempfile::tempdir().unwrap();
    let config = config(architecture);
    write(folder.path(), &config, &tensors(&config, 1));
    load(folder.path())
}

//! Tiny models of every family, written and loaded again. The fixtures' models are written in `model/parity.rs`.

use serde_json::json;

use super::*;
use crate::model::{Batch, Decoder, tiny};

/// Changed to what llama.cpp has built in for the family, where it has.
fn config(architecture: Architecture) -> serde_json::Value {
    let mut config = tiny::config(architecture);
    match architecture {
        Architecture::SmolLm3 => {
            config["no_rope_layers"] = json!([1, 1, 1, 0]);
            config["num_hidden_layers"] = json!(4);
        }
        Architecture::Gemma => config["tie_word_embeddings"] = json!(true),
        Architecture::Gemma2 => {
            config["tie_word_embeddings"] = json!(true);
            config["query_pre_attn_scalar"] = json!(8);
        }
        Architecture::Qwen2 | Architecture::Phi3 => config["hidden_size"] = json!(32),
        Architecture::Llama | Architecture::Mistral | Architecture::Qwen3 => {}
    }
    config
}

fn write(path: &Path, config: &serde_json::Value, weights: GgufType) -> Result<Vec<String>, Error> {
    write_changed(path, config, weights, |_| {})
}

/// Writes a tiny model after a change of its tensors; gives the caveats.
fn write_changed(
    path: &Path,
    config: &serde_json::Value,
    weights: GgufType,
    change: impl FnOnce(&mut Vec<(String, Tensor)>),
) -> Result<Vec<String>, Error> {
    let mut tensors = tiny::tensors(config, 1);
    change(&mut tensors);
    let shapes: Vec<(String, Vec<i64>)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
    let config = Config::from_json(Path::new("config.json"), &config.to_string())?;
    let export = GgufExport { name: "tiny", config: &config, tokenizer: Vec::new(), weights };
    let mut asked = Vec::new();
    export.write(path, &shapes, |wanted| -> Result<Tensor, Error> {
        asked.push(wanted.to_string());
        Ok(tensors.iter().find(|(name, _)| name == wanted).unwrap().1.shallow_clone())
    })?;
    assert!(asked.iter().eq(shapes.iter().map(|(name, _)| name)));
    Ok(export.caveats())
}

fn logits(model: &Decoder) -> Tensor {
    let ids: Vec<i64> = (0..12).map(|i| (i * 7 + 3) % 53).collect();
    tch::no_grad(|| model.logits(&model.forward(&Batch::single(&ids, Device::Cpu), None, None), None))
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn every_family_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for architecture in Architecture::ALL {
        let config = config(architecture);
        let original = tempfile::tempdir().unwrap();
        tiny::write(original.path(), &config, &tiny::tensors(&config, 1));
        let want = logits(&tiny::load(original.path()));
        for (weights, tolerance) in
            [(GgufType::F32, 1e-5), (GgufType::F16, 0.02), (GgufType::Bf16, 0.1), (GgufType::Q8_0, 0.2)]
        {
            write(&path, &config, weights).unwrap();
            let read = tiny::load(&path);
            let off = difference(&logits(&read), &want);
            assert!(off <= tolerance, "{architecture:?} in {weights:?}: off by {off}");
            assert_eq!(
                read.config().windows,
                Config::from_folder(original.path()).unwrap().windows,
                "{architecture:?}"
            );
        }
    }
}

#[test]
fn rope_scaling_and_biases_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 16});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "beta_fast": 20.0, "beta_slow": 2.0,
                      "original_max_position_embeddings": 16});
    let changes = [
        json!({"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
        json!({"rope_scaling": llama3}),
        json!({"rope_scaling": yarn}),
        json!({"attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true}),
    ];
    for change in changes {
        let mut config = config(Architecture::Llama);
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let original = tempfile::tempdir().unwrap();
        tiny::write(original.path(), &config, &tiny::tensors(&config, 1));
        write(&path, &config, GgufType::F32).unwrap();
        let off = difference(&logits(&tiny::load(&path)), &logits(&tiny::load(original.path())));
        assert!(off <= 1e-5, "{change}: off by {off}");
    }
}

#[test]
fn what_llama_cpp_has_not_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let longrope =
        json!({"rope_type": "longrope", "short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [2.0, 2.0, 2.0, 2.0]});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "truncate": false});
    let sliding = json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1});
    for (architecture, change, expected) in [
        (
            Architecture::Llama,
            json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
            "rope type `dynamic` for Llama",
        ),
        (Architecture::Llama, json!({"rope_scaling": longrope}), "rope type `longrope` for Llama"),
        (Architecture::Llama, json!({"rope_scaling": yarn}), "`truncate` false"),
        (Architecture::Qwen3, json!({"rope_scaling": llama3}), "rope type `llama3` for Qwen3"),
        (Architecture::Qwen3, json!({"attention_bias": true}), "bias of the output projection"),
        (Architecture::SmolLm3, json!({"mlp_bias": true}), "biases of the feed-forward block"),
        (Architecture::SmolLm3, json!({"no_rope_layers": [1, 0, 1, 1]}), "`no_rope_layers`"),
        (Architecture::Qwen2, sliding, "`sliding_window`"),
        (Architecture::Qwen2, json!({"head_dim": 16}), "`head_dim` other than"),
        (Architecture::Gemma, json!({"tie_word_embeddings": false}), "head of its own"),
        (Architecture::Gemma2, json!({"query_pre_attn_scalar": 5}), "`query_pre_attn_scalar`"),
        (Architecture::Gemma2, json!({"final_logit_softcapping": null}), "`final_logit_softcapping`"),
        (Architecture::Gemma2, json!({"sliding_window": null}), "`sliding_window`"),
    ] {
        let mut config = config(architecture);
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = write(&path, &config, GgufType::F32).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("model.gguf"), "{change}: {error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_tensor_that_is_unknown_or_too_large_for_its_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let config = config(Architecture::Llama);
    let large = |tensors: &mut Vec<(String, Tensor)>| {
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == "model.layers.1.mlp.up_proj.weight").unwrap();
        *tensor = &*tensor * 1e6;
    };
    let error = write_changed(&path, &config, GgufType::F16, large).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.mlp.up_proj.weight has a value that is not finite in F16"), "{error}");
    write_changed(&path, &config, GgufType::Bf16, large).unwrap();
    std::fs::remove_file(&path).unwrap();
    let unknown =
        |tensors: &mut Vec<(String, Tensor)>| tensors.push(("model.router.weight".into(), tiny::random(&[2, 2], 1)));
    let error = write_changed(&path, &config, GgufType::F32, unknown).unwrap_err().to_string();
    assert!(error.contains("no tensor model.router.weight"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn windows_and_longrope_are_said_where_llama_cpp_leaves_them_out() {
    let folder = tempfile::tempdir().unwrap();
    let caveats =
        |architecture| write(&folder.path().join("model.gguf"), &config(architecture), GgufType::F32).unwrap();
    assert!(caveats(Architecture::Mistral)[0].contains("more than 4 tokens"));
    assert!(caveats(Architecture::Phi3)[0].contains("above 8 tokens"));
    assert!(caveats(Architecture::Gemma2).is_empty() && caveats(Architecture::Llama).is_empty());
}

#[test]
fn q8_0_is_what_ggml_makes_of_a_block() {
    // The largest of 127 makes the scale 1; halves go away from zero.
    let mut values = [0.0; 32];
    values[..5].copy_from_slice(&[127.0, 0.5, -0.5, 2.4, -127.0]);
    let mut want = vec![0x00, 0x3c, 127, 1, 255, 2, 129];
    want.resize(34, 0);
    assert_eq!(q8_0(&values), want);
    assert_eq!(q8_0(&[0.0; 32]), [0; 34]);
}

#[test]
fn files_are_named_phi3_just_where_llama_cpp_finds_its_special_tokens() {
    let name = |architecture, tokens: &[&str], name| {
        let config = Config::from_json(Path::new("config.json"), &config(architecture).to_string()).unwrap();
        let tokens = Value::Array(tokens.iter().map(|&token| Value::String(token.into())).collect());
        let tokenizer = vec![("tokenizer.ggml.tokens".to_string(), tokens)];
        GgufExport { name, config: &config, tokenizer, weights: GgufType::F32 }.full_name()
    };
    let phi3 = ["<unk>", "<s>", "</s>", "a", "<|endoftext|>"];
    assert_eq!(name(Architecture::Phi3, &phi3, "mine"), "Phi-3 mine");
    assert_eq!(name(Architecture::Phi3, &phi3, "my-Phi-3-mini"), "my-Phi-3-mini");
    assert_eq!(name(Architecture::Llama, &phi3, "mine"), "mine");
    assert_eq!(name(Architecture::Phi3, &phi3[1..], "Phi-3 or phi3, mine"), "Phi 3 or phi 3, mine");
    assert_eq!(name(Architecture::Phi3, &phi3[1..], "Phi-4-mini"), "Phi-4-mini");
}

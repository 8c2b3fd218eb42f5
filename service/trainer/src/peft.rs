//! Adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors` in, an [`Adapter`] out, and back.
//!
//! The configuration is written with the keys that every release of PEFT knows, and read with all of them: what would
//! change the result and is not supported is refused by name, what would not is left alone.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::model::{self, Adapter, Decoder, LoraOptions, TargetModules};
use crate::tensors;

/// Name of the configuration's file.
pub const CONFIG: &str = "adapter_config.json";
/// Name of the weights' file.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Why an adapter's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{path}: cannot read: {source}; an adapter is a folder with {CONFIG} and {WEIGHTS}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration is broken, or asks for what hone does not do.
    #[error("{path}: {what}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, and what is wrong with it.
        what: String,
    },
    /// The weights cannot be read.
    #[error("{path}: not a usable safetensors file: {source}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: tensors::Error,
    },
    /// The weights do not fit the model.
    #[error("{path}: {source}")]
    DoesNotFit {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: model::Error,
    },
}

/// Loads an adapter of `model` from a folder; `dropout` is what training applies to it, 0 for anything else.
pub fn load(folder: &Path, model: &Decoder, dropout: f64) -> Result<Adapter, Error> {
    let options = LoraOptions { dropout, ..read_options(folder)? };
    let does_not_fit = |source| Error::DoesNotFit { path: folder.to_path_buf(), source };
    let adapter = Adapter::new(model, &options, 0).map_err(does_not_fit)?;
    load_weights(folder, &adapter)?;
    Ok(adapter)
}

/// Reads weights from a folder into an adapter that has the same modules and rank.
pub fn load_weights(folder: &Path, adapter: &Adapter) -> Result<(), Error> {
    let path = folder.join(WEIGHTS);
    let bytes = read(&path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(tensors::Error::from).and_then(|file| tensors::read(&file));
    let tensors = tensors.map_err(|source| Error::Weights { path, source })?;
    adapter
        .load(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))
        .map_err(|source| Error::DoesNotFit { path: folder.to_path_buf(), source })
}

/// Reads the configuration in a folder. Dropout is the one written there.
pub fn read_options(folder: &Path) -> Result<LoraOptions, Error> {
    let path = folder.join(CONFIG);
    let bytes = read(&path)?;
    let config: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Config { path: path.clone(), what: format!("not JSON: {error}") })?;
    parse_options(&config).map_err(|what| Error::Config { path, what })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

/// Keys that must be absent, null, false, empty or their default, since they would change what the adapter computes.
const UNSUPPORTED: [(&str, &str); 13] = [
    ("use_dora", "DoRA"),
    ("lora_bias", "biases of lora_B"),
    ("rank_pattern", "ranks by module"),
    ("alpha_pattern", "scales by module"),
    ("modules_to_save", "fully trained modules"),
    ("layers_to_transform", "a choice of layers"),
    ("layer_replication", "repeated layers"),
    ("exclude_modules", "excluded modules"),
    ("target_parameters", "parameters as targets"),
    ("trainable_token_indices", "trained tokens"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("use_qalora", "QALoRA"),
];

fn parse_options(config: &Value) -> Result<LoraOptions, String> {
    let peft_type = config.get("peft_type").and_then(Value::as_str).unwrap_or("missing");
    if peft_type != "LORA" {
        return Err(format!("peft_type is {peft_type}; only LORA is supported"));
    }
    if let Some((key, what)) = UNSUPPORTED.iter().find(|(key, _)| config.get(key).is_some_and(is_set)) {
        return Err(format!("`{key}` is set: {what} are not supported"));
    }
    match config.get("bias").and_then(Value::as_str) {
        None | Some("none") => {}
        Some(bias) => return Err(format!("`bias` is {bias}; only none is supported")),
    }
    let rank = config.get("r").and_then(Value::as_i64).ok_or("`r` is missing or not a whole number")?;
    let alpha = config.get("lora_alpha").and_then(Value::as_f64).ok_or("`lora_alpha` is missing or not a number")?;
    Ok(LoraOptions {
        rank,
        alpha,
        dropout: config.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
        target_modules: target_modules(config.get("target_modules"))?,
        use_rslora: config.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
    })
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        _ => true,
    }
}

fn target_modules(value: Option<&Value>) -> Result<TargetModules, String> {
    match value {
        Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Ok(TargetModules::AllLinear),
        Some(Value::String(pattern)) => Ok(TargetModules::Pattern(pattern.clone())),
        Some(Value::Array(entries)) => {
            let names = entries.iter().map(|entry| entry.as_str().map(str::to_string)).collect::<Option<Vec<_>>>();
            names
                .map(TargetModules::Named)
                .ok_or_else(|| "`target_modules` holds something that is no name".to_string())
        }
        _ => Err("`target_modules` is missing".to_string()),
    }
}

/// The two files of an adapter, as PEFT's own `save_pretrained` would write them.
pub fn files(adapter: &Adapter, base_model: &str) -> Vec<(String, Vec<u8>)> {
    let tensors = adapter.named_tensors();
    vec![(WEIGHTS.to_string(), tensors::serialize(&tensors)), (CONFIG.to_string(), config(adapter, base_model))]
}

fn config(adapter: &Adapter, base_model: &str) -> Vec<u8> {
    let options = adapter.options();
    let value = json!({
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": number(options.alpha),
        "lora_dropout": options.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": options.rank,
        "revision": null,
        "target_modules": written_targets(adapter),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": options.use_rslora,
    });
    let mut text = serde_json::to_vec_pretty(&value).expect("a JSON value has a text");
    text.push(b'\n');
    text
}

/// A whole number is written as one: early releases of PEFT declare alpha an integer.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The last names of the modules when they mean the same modules, the whole paths otherwise.
fn written_targets(adapter: &Adapter) -> Vec<String> {
    let mut names: Vec<String> =
        adapter.modules().filter_map(|path| path.rsplit('.').next()).map(str::to_string).collect();
    names.sort();
    names.dedup();
    let layers = adapter.modules().filter_map(layer_of).collect::<std::collections::BTreeSet<_>>().len();
    let is_every_layer = layers == adapter.num_layers() && layers * names.len() == adapter.modules().count();
    if is_every_layer { names } else { adapter.modules().map(str::to_string).collect() }
}

/// `12` of `model.layers.12.mlp.up_proj`.
fn layer_of(path: &str) -> Option<&str> {
    path.split('.').find(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, tiny};

    fn options(target_modules: TargetModules) -> LoraOptions {
        LoraOptions { rank: 2, alpha: 4.0, dropout: 0.25, target_modules, use_rslora: true }
    }

    fn write(folder: &Path, adapter: &Adapter) {
        for (name, bytes) in files(adapter, "base") {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }

    #[test]
    fn what_is_written_loads_as_the_same_adapter() {
        let model = tiny::model(Architecture::Qwen2);
        let named = |names: &[&str]| TargetModules::Named(names.iter().map(ToString::to_string).collect());
        for targets in [TargetModules::AllLinear, named(&["q_proj", "up_proj"]), named(&["layers.1.mlp.up_proj"])] {
            let adapter = Adapter::new(&model, &options(targets), 7).unwrap();
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &adapter);
            let back = load(folder.path(), &model, 0.0).unwrap();
            assert_eq!(back.flat(), adapter.flat());
            assert!(back.modules().eq(adapter.modules()));
            let expected = LoraOptions {
                target_modules: back.options().target_modules.clone(),
                ..options(TargetModules::AllLinear)
            };
            assert_eq!(back.options(), &LoraOptions { dropout: 0.0, ..expected });
        }
    }

    #[test]
    fn all_linear_is_written_as_last_names_and_a_part_of_the_layers_as_paths() {
        let model = tiny::model(Architecture::Llama);
        let targets = |targets| written_targets(&Adapter::new(&model, &options(targets), 1).unwrap());
        assert_eq!(
            targets(TargetModules::AllLinear),
            ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
        );
        assert_eq!(targets(TargetModules::Named(vec!["layers.1.mlp.up_proj".into()])), ["model.layers.1.mlp.up_proj"]);
    }

    #[test]
    fn what_would_change_the_result_is_refused_by_name() {
        let config = |key: &str, value: Value| {
            let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
            config[key] = value;
            parse_options(&config)
        };
        for (key, value, message) in [
            ("peft_type", json!("IA3"), "peft_type is IA3"),
            ("use_dora", json!(true), "`use_dora` is set: DoRA"),
            ("rank_pattern", json!({"q_proj": 8}), "`rank_pattern` is set"),
            ("modules_to_save", json!(["lm_head"]), "`modules_to_save` is set"),
            ("bias", json!("all"), "`bias` is all"),
            ("r", json!("4"), "`r` is missing"),
            ("target_modules", json!(null), "`target_modules` is missing"),
        ] {
            let error = config(key, value).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        assert!(config("alpha_pattern", json!({})).is_ok());
        assert!(config("some_future_key", json!(1)).is_ok());
        let pattern = config("target_modules", json!(".*q_proj")).unwrap().target_modules;
        assert_eq!(pattern, TargetModules::Pattern(".*q_proj".into()));
    }
}

//! Adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors` in, an [`Adapter`] out, and back.
//!
//! The configuration is written with the keys that every release of PEFT knows, and read with all of them: what would
//! change the result and is not supported is refused by name, what would not is left alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hone_job::spec::LoraInit;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tch::Tensor;

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
///
/// An adapter of PiSSA or OLoRA that was not converted to plain LoRA belongs to a base without what it started with; that is
/// found again in the base's weights.
pub fn load(folder: &Path, model: &Decoder, dropout: f64) -> Result<Adapter, Error> {
    let options = LoraOptions { dropout, ..read_options(folder)? };
    let does_not_fit = |source| Error::DoesNotFit { path: folder.to_path_buf(), source };
    let adapter = match options.init.is_taken_off() {
        true => Adapter::new(model, &options, 0),
        false => Adapter::empty(model, &options),
    };
    let adapter = adapter.map_err(does_not_fit)?;
    let tensors = read_tensors(folder, model)?;
    adapter.load(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).map_err(does_not_fit)?;
    Ok(adapter)
}

/// Loads an adapter of `model` that is used and not trained.
pub fn load_frozen(folder: &Path, model: &Decoder) -> Result<Adapter, Error> {
    let mut adapter = load(folder, model, 0.0)?;
    adapter.freeze(model);
    Ok(adapter)
}

/// Loads what [`files`] wrote of an adapter whose start is taken off the base, so that training goes on with it.
pub fn load_converted(folder: &Path, model: &Decoder, dropout: f64, init: LoraInit) -> Result<Adapter, Error> {
    let options = LoraOptions { dropout, ..read_options(folder)?.halved(init) };
    let does_not_fit = |source| Error::DoesNotFit { path: folder.to_path_buf(), source };
    let adapter = Adapter::empty(model, &options).map_err(does_not_fit)?;
    let tensors = read_tensors(folder, model)?;
    adapter.load_doubled(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).map_err(does_not_fit)?;
    Ok(adapter)
}

/// What PEFT puts beside the matrices of an embedding: the base model's own weight.
const BASE_EMBEDDING: &str = "base_model.model.model.embed_tokens.base_layer.weight";

/// The adapter's tensors. A copy of the base model's embedding is left out if it is one, and refused if not.
fn read_tensors(folder: &Path, model: &Decoder) -> Result<Vec<(String, Tensor)>, Error> {
    let path = folder.join(WEIGHTS);
    let bytes = read(&path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(tensors::Error::from).and_then(|file| tensors::read(&file));
    let unusable = |source| Error::Weights { path: path.clone(), source };
    let mut tensors = tensors.map_err(unusable)?;
    if let Some((name, _)) = tensors.iter().find(|(_, tensor)| !tensors::is_finite(tensor)) {
        return Err(unusable(tensors::Error::NotFinite(name.clone())));
    }
    let Some(place) = tensors.iter().position(|(name, _)| name == BASE_EMBEDDING) else { return Ok(tensors) };
    let (_, copy) = tensors.remove(place);
    if !model.has_embedding(&copy) {
        let what = format!("{BASE_EMBEDDING} is not the embedding of this base model");
        return Err(Error::DoesNotFit { path, source: model::Error::Adapter(what) });
    }
    Ok(tensors)
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
const UNSUPPORTED: [(&str, &str); 12] = [
    ("lora_bias", "biases of lora_B"),
    ("layer_replication", "repeated layers"),
    ("target_parameters", "parameters as targets"),
    ("trainable_token_indices", "trained tokens"),
    ("ensure_weight_tying", "tied copies of trained modules"),
    ("alora_invocation_tokens", "activated LoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("use_qalora", "QALoRA"),
    ("kasa_config", "KaSA"),
    ("monteclora_config", "MonteCLoRA"),
    ("arrow_config", "Arrow routing"),
    ("loftq_config", "LoftQ"),
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
    let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
    Ok(LoraOptions {
        rank,
        alpha,
        rank_pattern: pattern(config, "rank_pattern", Value::as_i64)?,
        alpha_pattern: pattern(config, "alpha_pattern", Value::as_f64)?,
        dropout: config.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
        target_modules: modules(config, "target_modules")?.ok_or("`target_modules` is missing")?,
        exclude_modules: modules(config, "exclude_modules")?.unwrap_or(TargetModules::Named(Vec::new())),
        layers_to_transform: list(config, "layers_to_transform", Value::as_i64)?,
        layers_pattern: list(config, "layers_pattern", text)?,
        modules_to_save: list(config, "modules_to_save", text)?,
        use_rslora: flag("use_rslora"),
        use_dora: flag("use_dora"),
        init: init(config.get("init_lora_weights"))?,
    })
}

/// How the adapter was initialised matters only where that changed the base model.
fn init(value: Option<&Value>) -> Result<LoraInit, String> {
    match value {
        None | Some(Value::Null | Value::Bool(_)) => Ok(LoraInit::Default),
        Some(Value::String(name)) => match name.to_lowercase().as_str() {
            "gaussian" | "orthogonal" | "eva" => Ok(LoraInit::Default),
            "pissa" => Ok(LoraInit::Pissa),
            "olora" => Ok(LoraInit::Olora),
            _ => Err(format!(
                "`init_lora_weights` is {name}, which changes the base model; let PEFT convert the adapter \
                 (save_pretrained with path_initial_model_for_weight_conversion)"
            )),
        },
        Some(other) => Err(format!("`init_lora_weights` is {other}")),
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

/// A list, or a single value in place of a list of one.
fn list<T>(config: &Value, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, String> {
    let items = match config.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items.iter().map(&read).collect::<Option<Vec<_>>>(),
        Some(single) => read(single).map(|value| vec![value]),
    };
    items.ok_or_else(|| format!("`{key}` holds something that does not belong there"))
}

/// Patterns and their values, in the order of the file.
fn pattern<T>(config: &Value, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<(String, T)>, String> {
    let entries = match config.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(format!("`{key}` is no object")),
    };
    let entry = |(pattern, value): (&String, &Value)| {
        read(value).map(|value| (pattern.clone(), value)).ok_or_else(|| format!("`{key}` has {value} for `{pattern}`"))
    };
    entries.iter().map(entry).collect()
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        _ => true,
    }
}

fn modules(config: &Value, key: &str) -> Result<Option<TargetModules>, String> {
    match config.get(key) {
        Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Ok(Some(TargetModules::AllLinear)),
        Some(Value::String(pattern)) => Ok(Some(TargetModules::Pattern(pattern.clone()))),
        Some(Value::Array(_)) => Ok(Some(TargetModules::Named(list(config, key, text)?))),
        None | Some(Value::Null) => Ok(None),
        Some(other) => Err(format!("`{key}` is {other}")),
    }
}

/// The two files of an adapter, as PEFT's own `save_pretrained` would write them, for an untouched base model.
pub fn files(adapter: &Adapter, base_model: &str) -> Vec<(String, Vec<u8>)> {
    let (options, tensors) = adapter.portable();
    vec![
        (WEIGHTS.to_string(), tensors::serialize(&tensors)),
        (CONFIG.to_string(), config(adapter, &options, base_model)),
    ]
}

fn config(adapter: &Adapter, options: &LoraOptions, base_model: &str) -> Vec<u8> {
    let sizes = options.sizes(adapter.modules());
    let ranks = sizes.iter().map(|(path, rank, _)| (*path, *rank));
    let alphas = sizes.iter().map(|(path, _, alpha)| (*path, *alpha));
    let saved: Vec<&str> = adapter.saved_modules().filter_map(last_name).collect();
    let (target_modules, layers_to_transform) = written_targets(adapter);
    let value = json!({
        "alpha_pattern": written_pattern(alphas.collect(), options.alpha, number),
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": layers_to_transform,
        "lora_alpha": number(options.alpha),
        "lora_dropout": options.dropout,
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "peft_type": "LORA",
        "r": options.rank,
        "rank_pattern": written_pattern(ranks.collect(), options.rank, |rank| json!(rank)),
        "revision": null,
        "target_modules": target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": options.use_dora,
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

/// The values that differ from the usual one: by last name where all modules of the name have the same, else by path. No two
/// keys match the same module, since PEFT sorts them when it saves.
fn written_pattern<T: Copy + PartialEq>(values: Vec<(&str, T)>, usual: T, write: impl Fn(T) -> Value) -> Value {
    let mut written = serde_json::Map::new();
    for (path, value) in values.iter().filter(|(_, value)| *value != usual) {
        let of_name = values.iter().filter(|(other, _)| last_name(other) == last_name(path));
        let key = match of_name.clone().all(|(_, other)| other == value) {
            true => last_name(path).unwrap_or(path),
            false => path,
        };
        written.insert(key.to_string(), write(*value));
    }
    Value::Object(written)
}

/// The last names of the linear modules, with the layers where these are not all, when that means the same modules; the
/// whole paths otherwise. The embedding is in no layer and named by its path.
fn written_targets(adapter: &Adapter) -> (Vec<String>, Value) {
    let (linears, others): (Vec<&str>, Vec<&str>) = adapter.modules().partition(|path| layer_of(path).is_some());
    let mut names: Vec<String> = linears.iter().filter_map(|path| last_name(path)).map(str::to_string).collect();
    names.sort();
    names.dedup();
    let layers: BTreeSet<i64> = linears.iter().filter_map(|path| layer_of(path)).collect();
    let is_product = layers.len() * names.len() == linears.len();
    let all_layers = layers.len() == adapter.num_layers();
    let layers = if is_product && !all_layers && !linears.is_empty() { json!(layers) } else { Value::Null };
    let mut targets = if is_product { names } else { linears.into_iter().map(str::to_string).collect() };
    targets.extend(others.into_iter().map(str::to_string));
    (targets, layers)
}

fn last_name(path: &str) -> Option<&str> {
    path.rsplit('.').next()
}

/// 12 of `model.layers.12.mlp.up_proj`.
fn layer_of(path: &str) -> Option<i64> {
    path.split('.').find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, tiny};

    fn options(target_modules: TargetModules) -> LoraOptions {
        LoraOptions { rank: 2, alpha: 4.0, dropout: 0.25, target_modules, use_rslora: true, ..LoraOptions::default() }
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
                layers_to_transform: back.options().layers_to_transform.clone(),
                ..options(TargetModules::AllLinear)
            };
            assert_eq!(back.options(), &LoraOptions { dropout: 0.0, ..expected });
        }
    }

    /// Ranks, scales and layers are written as what they came to, module by module, so that no order of patterns matters.
    #[test]
    fn every_feature_survives_the_way_out_and_in() {
        let model = tiny::model(Architecture::Qwen2);
        let targets = ["q_proj", "k_proj", "up_proj", "model.embed_tokens"].map(str::to_string).to_vec();
        let full = LoraOptions {
            rank_pattern: vec![(r"layers\.0\..*".into(), 4), ("k_proj".into(), 3)],
            alpha_pattern: vec![("q_proj".into(), 1.5)],
            layers_to_transform: vec![0, 2],
            modules_to_save: vec!["lm_head".into()],
            use_dora: true,
            ..options(TargetModules::Named(targets))
        };
        let adapter = Adapter::new(&model, &full, 7).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter);
        let config: Value = serde_json::from_slice(&std::fs::read(folder.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!(config["target_modules"], json!(["k_proj", "q_proj", "up_proj", "model.embed_tokens"]));
        assert_eq!(config["layers_to_transform"], json!([0, 2]));
        assert_eq!(config["alpha_pattern"], json!({"q_proj": 1.5}));
        let ranks = json!({
            "model.layers.0.self_attn.q_proj": 4,
            "model.layers.0.self_attn.k_proj": 4,
            "model.layers.0.mlp.up_proj": 4,
            "model.layers.2.self_attn.k_proj": 3,
        });
        assert_eq!(config["rank_pattern"], ranks);
        assert_eq!((&config["use_dora"], &config["modules_to_save"]), (&json!(true), &json!(["lm_head"])));
        let back = load(folder.path(), &model, 0.25).unwrap();
        assert_eq!(back.flat(), adapter.flat());
        let names = |adapter: &Adapter| adapter.named_tensors().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&back), names(&adapter));
        let sizes = |adapter: &Adapter| {
            let sizes = adapter.options().sizes(adapter.modules()).into_iter();
            sizes.map(|(path, rank, alpha)| (path.to_string(), rank, alpha)).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&back), sizes(&adapter));
    }

    #[test]
    fn an_adapter_whose_start_is_taken_off_is_written_as_plain_lora_and_goes_on_from_there() {
        let model = tiny::model(Architecture::Llama);
        let pissa = LoraOptions { init: LoraInit::Pissa, ..options(TargetModules::AllLinear) };
        let adapter = Adapter::new(&model, &pissa, 7).unwrap();
        let _ = adapter.flat().shallow_clone().g_mul_scalar_(1.1);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter);
        let plain = load(folder.path(), &model, 0.0).unwrap();
        assert_eq!((plain.options().rank, plain.options().init), (4, LoraInit::Default));
        let back = load_converted(folder.path(), &model, 0.25, LoraInit::Pissa).unwrap();
        assert_eq!(back.flat(), adapter.flat());
        assert_eq!((back.options().rank, back.options().init), (2, LoraInit::Pissa));
        assert!((back.options().alpha - 4.0).abs() < 1e-12);
    }

    #[test]
    fn weights_that_are_no_numbers_are_refused_by_name() {
        let model = tiny::model(Architecture::Llama);
        let adapter = Adapter::new(&model, &options(TargetModules::AllLinear), 7).unwrap();
        let last = adapter.flat().size()[0] - 1;
        let _ = adapter.flat().shallow_clone().get(last).fill_(f64::INFINITY);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter);
        let error = load(folder.path(), &model, 0.0).unwrap_err().to_string();
        assert!(error.contains("lora_B.weight has values that are NaN or infinite"), "{error}");
    }

    #[test]
    fn a_copy_of_the_embedding_must_be_that_of_the_base_model() {
        let model = tiny::model(Architecture::Llama);
        let targets = TargetModules::Named(vec!["embed_tokens".into()]);
        let adapter = Adapter::new(&model, &options(targets), 7).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter);
        let with = |embedding: Tensor| {
            let mut tensors = adapter.named_tensors();
            tensors.push((BASE_EMBEDDING.to_string(), embedding));
            std::fs::write(folder.path().join(WEIGHTS), tensors::serialize(&tensors)).unwrap();
            load(folder.path(), &model, 0.0)
        };
        let own = tiny::tensors(&tiny::config(Architecture::Llama), 1).remove(0).1;
        assert_eq!(with(own.copy()).unwrap().flat(), adapter.flat());
        assert!(with(own + 1.0).unwrap_err().to_string().contains("not the embedding of this base model"));
    }

    #[test]
    fn all_linear_is_written_as_last_names_and_a_part_of_the_layers_as_paths() {
        let model = tiny::model(Architecture::Llama);
        let targets = |targets| written_targets(&Adapter::new(&model, &options(targets), 1).unwrap()).0;
        assert_eq!(
            targets(TargetModules::AllLinear),
            ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
        );
        let some = TargetModules::Named(vec!["layers.1.mlp.up_proj".into(), "q_proj".into()]);
        assert_eq!(targets(some)[1..3], ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]);
        let one = LoraOptions { layers_to_transform: vec![1], ..options(TargetModules::Named(vec!["up_proj".into()])) };
        let written = written_targets(&Adapter::new(&model, &one, 1).unwrap());
        assert_eq!(written, (vec!["up_proj".to_string()], json!([1])));
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
            ("trainable_token_indices", json!([1]), "`trainable_token_indices` is set: trained tokens"),
            ("ensure_weight_tying", json!(true), "`ensure_weight_tying` is set"),
            ("init_lora_weights", json!("pissa_niter_4"), "`init_lora_weights` is pissa_niter_4, which changes"),
            ("rank_pattern", json!({"q_proj": "8"}), "`rank_pattern` has \"8\" for `q_proj`"),
            ("layers_to_transform", json!(["1"]), "`layers_to_transform` holds something"),
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
        // Patterns keep the order of the file, since the first that matches counts.
        let ranks = config("rank_pattern", json!({"z": 8, "a": 4})).unwrap().rank_pattern;
        assert_eq!(ranks, [("z".to_string(), 8), ("a".to_string(), 4)]);
        assert_eq!(config("layers_to_transform", json!(3)).unwrap().layers_to_transform, [3]);
        assert_eq!(config("init_lora_weights", json!("olora")).unwrap().init, LoraInit::Olora);
    }
}

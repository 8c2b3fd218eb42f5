//! The fixtures' models beside transformers and PEFT: whole logits, log-probabilities, and gradients of every adapter
//! matrix, in float32. `tests/fixtures/README.md` says where the numbers come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hone_data::gguf::{Gguf, Value as GgufValue};
use hone_data::pack::{MicroBatch, Segment};
use hone_data::tokenize::IGNORE_INDEX;
use safetensors::SafeTensors;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::loss::{Targets, token_losses};
use crate::model::{Adapter, Batch, Config, Decoder, Error, GgufExport, GgufType};
use crate::{peft, tensors};

/// Kernels add in another order than the reference; values are of the order of 1.
const TOLERANCE: f64 = 1e-4;

const MODELS: [&str; 16] = [
    "llama",
    "llama_tied",
    "llama_bias",
    "llama_rope_linear",
    "llama_rope_dynamic",
    "llama_rope_llama3",
    "llama_rope_yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "gemma",
    "gemma2",
    "gemma2_uncapped",
    "phi3",
    "phi3_longrope",
];
const ADAPTERS: [&str; 19] = [
    "llama_all_linear",
    "llama_qv",
    "llama_bias_all_linear",
    "mistral_qv",
    "qwen2_rslora",
    "qwen3_all_linear",
    "smollm3_all_linear",
    "gemma_all_linear",
    "gemma2_all_linear",
    "phi3_qkv",
    "phi3_longrope_all_linear",
    "llama_patterns",
    "qwen3_layers",
    "qwen2_dora",
    "yarn_embedding",
    "yarn_dora_embedding",
    "llama3_saved",
    "mistral_pissa",
    "llama_olora",
];
/// What llama.cpp has no words for: dynamic rope, scores without a cap, and a scale of scores that is not a head's width.
const NOT_FOR_GGUF: [&str; 3] = ["llama_rope_dynamic", "gemma2", "gemma2_uncapped"];
const GGUF_FILES: [&str; 6] = ["llama", "qwen2", "smollm3", "gemma", "gemma2", "phi3_longrope"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn load(path: &Path) -> Decoder {
    Decoder::load(path, Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap()
}

/// What the reference says about a model.
struct Scores {
    documents: Vec<Vec<i64>>,
    logprobs: Vec<f64>,
    logits_document: usize,
    tensors: Vec<(String, Tensor)>,
}

impl Scores {
    fn read(name: &str) -> Scores {
        let path = fixtures().join("scores").join(name);
        let json: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let bytes = std::fs::read(path.with_extension("safetensors")).unwrap();
        let rows = |key: &str| json[key].as_array().unwrap().clone();
        Scores {
            documents: rows("documents").iter().map(|row| serde_json::from_value(row.clone()).unwrap()).collect(),
            logprobs: rows("logprobs")
                .iter()
                .flat_map(|row| row.as_array().unwrap().clone())
                .map(|x| x.as_f64().unwrap())
                .collect(),
            logits_document: json["logits_document"].as_u64().unwrap() as usize,
            tensors: tensors::read(&SafeTensors::deserialize(&bytes).unwrap()).unwrap(),
        }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors.iter().find(|(other, _)| other == name).unwrap().1
    }

    /// All documents in one micro-batch, every token but the first of each a target.
    fn packed(&self) -> MicroBatch {
        let mut batch = MicroBatch::default();
        for (index, ids) in self.documents.iter().enumerate() {
            batch.input_ids.extend(ids);
            batch.position_ids.extend(0..ids.len() as i64);
            batch.segments.push(Segment { len: ids.len() as i64, prefix: None, document: index });
            batch.targets.extend(ids.iter().skip(1).copied().chain([IGNORE_INDEX]));
            batch.num_targets += ids.len() as u64 - 1;
            batch.examples.push(index);
        }
        batch
    }
}

fn close(name: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.size(), want.size(), "{name}");
    let error = (got - want).abs().max().double_value(&[]);
    assert!(error <= tolerance, "{name}: off by {error}");
}

fn check(name: &str, model: &Decoder, adapter: Option<&Adapter>) {
    let scores = Scores::read(name);
    let document = Batch::single(&scores.documents[scores.logits_document], Device::Cpu);
    let logits = tch::no_grad(|| model.logits(&model.forward(&document, adapter, None), adapter));
    close(&format!("{name}: logits"), &logits, scores.tensor("logits"), TOLERANCE);

    let packed = scores.packed();
    let hidden = model.forward(&Batch::of(&packed, Device::Cpu), adapter, None);
    let nll = token_losses(model, adapter, &hidden, &Targets::new(&packed, Device::Cpu)).nll;
    let want = -Tensor::from_slice(&scores.logprobs).to_kind(Kind::Float);
    close(&format!("{name}: log-probabilities"), &nll.detach(), &want, TOLERANCE);

    if let Some(adapter) = adapter {
        nll.mean(Kind::Float).backward();
        for (parameter, gradient) in adapter.named_gradients() {
            let want = scores.tensor(&format!("grad.{parameter}"));
            let size = want.abs().max().double_value(&[]);
            close(&format!("{name}: gradient of {parameter}"), &gradient, want, 1e-4 * size.max(1e-2));
        }
    }
}

#[test]
fn every_family_and_rope_type_equals_transformers() {
    for name in MODELS {
        check(name, &load(&fixtures().join("models").join(name)), None);
    }
}

#[test]
fn gguf_files_equal_their_dequantised_load() {
    for name in GGUF_FILES {
        check(&format!("{name}_gguf"), &load(&fixtures().join("gguf").join(format!("{name}.gguf"))), None);
    }
}

/// Writes a fixture's model, float32, with its tokenizer.
fn write_gguf(name: &str, path: &Path) -> Result<(), Error> {
    let folder = fixtures().join("models").join(name);
    let config = Config::from_folder(&folder).unwrap();
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    let weights: Vec<(String, Tensor)> = files.flat_map(|file| Tensor::read_safetensors(file).unwrap()).collect();
    let shapes: Vec<(String, Vec<i64>)> = weights.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
    let tokenizer = hone_data::tokenizer::gguf_metadata(&folder, config.vocab_size as u64).unwrap();
    let export = GgufExport { name, config: &config, tokenizer, weights: GgufType::F32 };
    export.write(path, &shapes, |wanted| {
        Ok(weights.iter().find(|(name, _)| name == wanted).unwrap().1.to_kind(Kind::Float))
    })
}

#[test]
fn a_model_written_as_gguf_equals_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS.into_iter().filter(|name| !NOT_FOR_GGUF.contains(name)) {
        let path = folder.path().join(format!("{name}.gguf"));
        write_gguf(name, &path).unwrap();
        check(name, &load(&path), None);
    }
    for (name, what) in
        NOT_FOR_GGUF.into_iter().zip(["rope type `dynamic`", "query_pre_attn_scalar", "query_pre_attn_scalar"])
    {
        let error = write_gguf(name, &folder.path().join("no.gguf")).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("Hugging Face folder"), "{name}: {error}");
    }
    assert!(!folder.path().join("no.gguf").exists());
}

/// The files of the fixtures were written by Python's gguf package.
#[test]
fn a_written_gguf_has_the_keys_and_tensors_of_another_writer() {
    let folder = tempfile::tempdir().unwrap();
    for name in GGUF_FILES.into_iter().filter(|name| !NOT_FOR_GGUF.contains(name)) {
        let path = folder.path().join(format!("{name}.gguf"));
        write_gguf(name, &path).unwrap();
        let theirs = Gguf::open(&fixtures().join("gguf").join(format!("{name}.gguf"))).unwrap();
        let ours = Gguf::open(&path).unwrap();
        for (key, value) in &theirs.metadata {
            // Phi-3's 0 says that there is no window; left out, it says the same.
            if *value != GgufValue::U64(0) || ours.metadata.contains_key(key) {
                assert_eq!(ours.metadata.get(key), Some(value), "{name}: {key}");
            }
        }
        let tensors =
            |gguf: &Gguf| gguf.tensors.iter().map(|t| (t.name.clone(), t.dims.clone())).collect::<BTreeMap<_, _>>();
        assert_eq!(tensors(&ours), tensors(&theirs), "{name}");
    }
}

#[test]
fn adapters_and_their_gradients_equal_peft() {
    for name in ADAPTERS {
        let folder = fixtures().join("adapters").join(name);
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join(peft::CONFIG)).unwrap()).unwrap();
        let model = load(&fixtures().join("models").join(config["base_model_name_or_path"].as_str().unwrap()));
        check(name, &model, Some(&peft::load(&folder, &model, 0.0).unwrap()));
    }
}

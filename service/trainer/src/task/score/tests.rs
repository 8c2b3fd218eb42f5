//! Scores beside those of transformers and PEFT.

use std::path::PathBuf;

use serde_json::Value;
use tch::{Device, Kind};

use super::*;
use crate::model::{Architecture, tiny};

const CPU: Compute = Compute { device: Device::Cpu, kind: Kind::Float };

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A fixture of scores: the documents and what transformers says of them.
struct Expected {
    documents: Documents,
    logprobs: Vec<Vec<f64>>,
    nll: f64,
}

fn expected(path: &Path) -> Expected {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let value: Value = serde_json::from_slice(&text).unwrap();
    Expected {
        documents: serde_json::from_value(serde_json::json!({"documents": value["documents"]})).unwrap(),
        logprobs: serde_json::from_value(value["logprobs"].clone()).unwrap(),
        nll: value["nll"].as_f64().unwrap(),
    }
}

fn assert_same(name: &str, got: &Scores, want: &Expected, tolerance: f64) {
    assert!((got.nll - want.nll).abs() < tolerance, "{name}: nll {} against {}", got.nll, want.nll);
    assert_eq!(got.logprobs.len(), want.logprobs.len(), "{name}");
    for (document, (got, want)) in got.logprobs.iter().zip(&want.logprobs).enumerate() {
        assert_eq!(got.len(), want.len(), "{name}, document {document}");
        for (token, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error < tolerance, "{name}, document {document}, token {token}: {got} against {want}");
        }
    }
}

/// Every model, adapter and GGUF file of the fixtures: where it lies, by the name of its scores.
fn place(name: &str) -> (PathBuf, Option<PathBuf>) {
    let fixtures = root().join("tests/fixtures");
    let adapter = fixtures.join("adapters").join(name);
    if let Some(gguf) = name.strip_suffix("_gguf") {
        return (fixtures.join(format!("gguf/{gguf}.gguf")), None);
    }
    if !adapter.is_dir() {
        return (fixtures.join("models").join(name), None);
    }
    let config: Value = serde_json::from_slice(&std::fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
    let base = config["base_model_name_or_path"].as_str().unwrap();
    let base = Path::new(base).file_name().unwrap();
    (fixtures.join("models").join(base), Some(adapter))
}

#[test]
fn scores_of_every_fixture_equal_those_of_transformers_and_peft() {
    let mut names: Vec<String> = std::fs::read_dir(root().join("tests/fixtures/scores"))
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".json")?.to_string()))
        .collect();
    names.sort();
    assert_eq!(names.len(), 41, "16 models, 19 adapters and 6 GGUF files: {names:?}");
    for name in names {
        let want = expected(&root().join(format!("tests/fixtures/scores/{name}.json")));
        let (model, adapter) = place(&name);
        let got = score(&model, adapter.as_deref(), &want.documents, CPU).unwrap();
        assert_same(&name, &got, &want, 1e-4);
    }
}

#[test]
fn the_real_quantised_model_scores_real_text_as_transformers_does() {
    let want = expected(&root().join("tests/fixtures/gguf_nll.json"));
    let model = root().join(".cache/model/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(model.is_file(), "{} is missing: run `python3 scripts/fetch.py model`", model.display());
    let got = score(&model, None, &want.documents, CPU).unwrap();
    assert_same("SmolLM2", &got, &want, 1e-3);
}

#[test]
fn packing_documents_changes_nothing() {
    let model = tiny::model(Architecture::Qwen3);
    let document = |len: u32, seed: u32| (0..len).map(|i| (i * 7 + seed) % 53).collect::<Vec<_>>();
    let lens = [5, 1, 60, 0, 2, 60, 33, 1];
    let documents: Vec<_> = lens.iter().zip(1..).map(|(len, seed)| document(*len, seed)).collect();
    let together = score_documents(&model, None, &Documents { documents: documents.clone() }).unwrap();
    for (document, row) in documents.into_iter().zip(&together.logprobs) {
        assert_eq!(row.len(), document.len().saturating_sub(1));
        if row.is_empty() {
            continue;
        }
        let alone = score_documents(&model, None, &Documents { documents: vec![document] }).unwrap();
        for (together, alone) in row.iter().zip(&alone.logprobs[0]) {
            assert!((together - alone).abs() < 1e-4, "{together} against {alone}");
        }
    }
}

#[test]
fn ids_that_are_no_tokens_are_named() {
    let model = tiny::model(Architecture::Llama);
    let check = |documents: Vec<Vec<u32>>, message: &str| {
        let error = score_documents(&model, None, &Documents { documents }).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    check(vec![vec![1, 2], vec![3, 53]], "document 1, token 1: token id 53 is outside the model's vocabulary of 53");
    check(vec![], "nothing to score");
    check(vec![vec![], vec![4]], "nothing to score");
}

#[test]
fn a_file_that_is_no_list_of_documents_is_told_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.json");
    for text in ["", "[[1, 2]]", "{\"documents\": [[1, \"x\"]]}", "{\"documents\": [[1.5]]}", "{\"documents\": [[-1]]}"]
    {
        std::fs::write(&path, text).unwrap();
        let error = read_documents(&path).unwrap_err().to_string();
        assert!(error.contains("ids.json") && error.contains("[[token ids]]"), "{error}");
    }
    let error = read_documents(&folder.path().join("absent")).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}

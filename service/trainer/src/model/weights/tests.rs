//! Model folders that are whole, sharded, cut, or wrong.

use std::path::Path;

use super::*;
use crate::model::{Architecture, Decoder, tiny};

fn load(folder: &Path) -> Result<Decoder, String> {
    Decoder::load(folder, Kind::Float, Device::Cpu, &mut |_, _| {}).map_err(|error| error.to_string())
}

/// A tiny model in a folder, changed before it is written.
fn folder(change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny::config(Architecture::Llama);
    let mut tensors = tiny::tensors(&config, 1);
    change(&mut tensors);
    tiny::write(folder.path(), &config, &tensors);
    folder
}

#[test]
fn a_tensor_that_is_missing_or_has_another_shape_or_type_is_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let replace = |with: Option<Tensor>| {
        folder(|tensors| {
            let place = tensors.iter().position(|(other, _)| other == name).unwrap();
            let _ = tensors.remove(place);
            tensors.extend(with.map(|tensor| (name.to_string(), tensor)));
        })
    };
    let error = load(replace(None).path()).unwrap_err();
    assert!(error.contains(&format!("tensor {name} is missing")), "{error}");
    let error = load(replace(Some(tiny::random(&[40, 23], 1))).path()).unwrap_err();
    assert!(
        error.contains(&format!("tensor {name} has shape [40, 23], the configuration asks for [40, 24]")),
        "{error}"
    );
    let error = load(replace(Some(tiny::random(&[40, 24], 1).to_kind(Kind::Int64))).path()).unwrap_err();
    assert!(error.contains(&format!("tensor {name} is stored as I64; supported are F32, F16 and BF16")), "{error}");
}

#[test]
fn a_weight_that_is_no_number_is_told_by_its_tensor() {
    for (name, weight) in
        [("model.norm.weight", f64::NAN), ("model.layers.0.self_attn.q_proj.weight", f64::NEG_INFINITY)]
    {
        let folder = folder(|tensors| {
            let (_, tensor) = tensors.iter_mut().find(|(other, _)| other == name).unwrap();
            let _ = tensor.view(-1).get(3).fill_(weight);
        });
        let error = load(folder.path()).unwrap_err();
        assert!(error.contains(&format!("tensor {name} has weights that are NaN or infinite")), "{error}");
    }
}

#[test]
fn a_file_that_ends_too_early_is_told_by_tensor_and_offset() {
    let folder = folder(|_| {});
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    for (len, message) in [(4, "the header's length"), (100, "the header needs"), (whole.len() - 1, "at offset")] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = load(folder.path()).unwrap_err();
        assert!(error.contains("truncated") && error.contains(message), "{error}");
    }
    std::fs::write(&path, [0xff; 64]).unwrap();
    assert!(load(folder.path()).unwrap_err().contains("which no file's is"));
    std::fs::write(&path, [&8u64.to_le_bytes()[..], b"not json"].concat()).unwrap();
    assert!(load(folder.path()).unwrap_err().contains("its header is not JSON"));
}

#[test]
fn a_header_that_lies_is_refused_before_anything_is_allocated() {
    let folder = folder(|_| {});
    let check = |shape: &str, offsets: &str, message: &str| {
        let header = format!(r#"{{"a": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}"#);
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
        let error = load(folder.path()).unwrap_err();
        assert!(error.contains(message), "{shape} at {offsets}: {error}");
    };
    check("[4294967296, 4294967296]", "[0, 0]", "impossible sizes");
    check("[4611686018427387904]", "[0, 8]", "impossible sizes");
    check("[2]", "[8, 0]", "impossible sizes");
    check("[2]", "[0, 18446744073709551615]", "impossible sizes");
    check("[2]", "[9223372036854775800, 9223372036854775808]", "truncated");
    check("[2]", "[-8, 0]", "the description of tensor a is broken");
    check("[-2]", "[0, 8]", "the description of tensor a is broken");
    check("[1000000000]", "[0, 8]", "is stored in 8 bytes");
    check("[0, 9223372036854775808]", "[0, 0]", "is missing");
}

#[test]
fn shards_are_found_by_their_index_which_cannot_point_elsewhere() {
    let config = tiny::config(Architecture::Llama);
    let tensors = tiny::tensors(&config, 1);
    let folder = folder(|_| {});
    let whole = load(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (first, second) = tensors.split_at(tensors.len() / 2);
    for (name, part) in names.iter().zip([first, second]) {
        Tensor::write_safetensors(part, folder.path().join(name)).unwrap();
    }
    let write_index = |second_name: &str| {
        let entry = |tensor: &(String, Tensor), name: &str| (tensor.0.clone(), serde_json::json!(name));
        let map: serde_json::Map<_, _> =
            first.iter().map(|t| entry(t, names[0])).chain(second.iter().map(|t| entry(t, second_name))).collect();
        let index = serde_json::json!({"weight_map": map}).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    };
    write_index(names[1]);
    let batch = crate::model::Batch::single(&[1, 2, 3], Device::Cpu);
    let sharded = load(folder.path()).unwrap();
    assert_eq!(sharded.forward(&batch, None, None), whole.forward(&batch, None, None));
    write_index("../secret.safetensors");
    assert!(load(folder.path()).unwrap_err().contains("`../secret.safetensors`, which is not beside it"));
    write_index("gone.safetensors");
    assert!(load(folder.path()).unwrap_err().contains("gone.safetensors"));
}

#[test]
fn a_place_without_a_model_says_what_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(error.contains("neither config.json nor a GGUF file") && error.contains("a model is a folder"), "{error}");
    for name in ["a.gguf", "b.gguf"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    assert!(load(folder.path()).unwrap_err().contains("2 GGUF files; name the one to use"));
    assert!(load(&folder.path().join("nowhere")).unwrap_err().contains("nowhere"));
}

#[test]
fn progress_ends_with_all_bytes() {
    let folder = folder(|_| {});
    let mut told = Vec::new();
    Decoder::load(folder.path(), Kind::Float, Device::Cpu, &mut |done, total| told.push((done, total))).unwrap();
    assert!(told.is_sorted());
    let (done, total) = told.last().unwrap();
    assert_eq!(done, total);
}

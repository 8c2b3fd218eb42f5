//! Trained weights beside finite differences, and beside the frozen model that they start as.

use std::path::Path;

use hone_data::pack::{MicroBatch, Segment};
use hone_data::tokenize::IGNORE_INDEX;
use tch::Device;

use super::super::{Architecture, Batch, tiny};
use super::*;
use crate::loss::{Targets, token_losses};

fn micro_batch() -> MicroBatch {
    MicroBatch {
        input_ids: vec![3, 1, 4, 1, 5, 9, 2],
        position_ids: vec![0, 1, 2, 3, 0, 1, 2],
        segments: vec![Segment { len: 4, prefix: None, document: 0 }, Segment { len: 3, prefix: None, document: 1 }],
        targets: vec![IGNORE_INDEX, 4, 1, IGNORE_INDEX, 9, 2, IGNORE_INDEX],
        num_targets: 4,
        examples: vec![0, 1],
    }
}

fn loss(model: &Decoder) -> Tensor {
    let batch = micro_batch();
    let hidden = model.forward(&Batch::of(&batch, Device::Cpu), None, None);
    token_losses(model, None, &hidden, &Targets::new(&batch, Device::Cpu)).nll.sum(Kind::Float)
}

fn write(folder: &Path, architecture: Architecture, is_tied: bool) {
    let mut config = tiny::config(architecture);
    config["tie_word_embeddings"] = is_tied.into();
    tiny::write(folder, &config, &tiny::tensors(&config, 1));
}

#[test]
fn becoming_trained_changes_nothing_and_every_weight_gets_a_gradient() {
    for architecture in Architecture::ALL {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), architecture, false);
        let frozen = tiny::load(folder.path());
        let model = tiny::load(folder.path());
        let full = FullWeights::new(&model);
        assert_eq!(full.flat().numel() as i64, frozen.num_parameters(), "{architecture:?}");
        let ours = loss(&model);
        assert_eq!(ours.double_value(&[]), loss(&frozen).double_value(&[]), "{architecture:?}");
        ours.backward();
        for (name, gradient) in full.named(full.flat_grad()) {
            assert!(gradient.abs().max().double_value(&[]) > 0.0, "{architecture:?} {name}");
        }
        let mut names: Vec<_> = full.named(full.flat()).into_iter().map(|(name, _)| name).collect();
        let mut expected: Vec<_> = frozen.named_tensors().into_iter().map(|(name, _)| name).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
    }
}

/// Along a random direction through all weights at once, the change of the loss is what the gradient says; where the head is
/// tied, both its uses are in it.
#[test]
fn gradients_are_those_of_the_loss() {
    for (architecture, is_tied) in [
        (Architecture::Llama, true),
        (Architecture::Qwen2, false),
        (Architecture::Qwen3, true),
        (Architecture::Gemma2, true),
        (Architecture::Phi3, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), architecture, is_tied);
        let model = tiny::load(folder.path());
        let full = FullWeights::new(&model);
        loss(&model).backward();
        let direction = tiny::random(&full.flat().size(), 5);
        let expected = (full.flat_grad() * &direction).sum(Kind::Double).double_value(&[]);
        let start = full.flat().copy();
        let at = |step: f64| {
            full.flat().shallow_clone().copy_(&(&start + &direction * step));
            tch::no_grad(|| loss(&model).double_value(&[]))
        };
        let step = 2e-4;
        let found = (at(step) - at(-step)) / (2.0 * step);
        assert!((found - expected).abs() < 5e-3 * expected.abs().max(1.0), "{architecture:?}: {found} {expected}");
    }
}

/// What is written to the flat vector is what the model computes with, and its weights lie there, matrices first.
#[test]
fn the_vector_holds_the_model() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), Architecture::Qwen2, true);
    let model = tiny::load(folder.path());
    let full = FullWeights::new(&model);
    let before = loss(&model).double_value(&[]);
    let _ = full.flat().shallow_clone().g_mul_scalar_(0.5);
    assert_ne!(loss(&model).double_value(&[]), before);
    for (name, tensor) in full.named(full.flat()) {
        let own = model.named_tensors().into_iter().find(|(other, _)| *other == name).unwrap().1;
        assert_eq!((own.data_ptr(), own.size()), (tensor.data_ptr(), tensor.size()), "{name}");
        let place = (tensor.data_ptr() as usize - full.flat().data_ptr() as usize) / size_of::<f32>();
        assert_eq!(tensor.dim() > 1, (place as i64) < full.num_matrix_values(), "{name}");
    }
}

/// Activations in bfloat16 come from weights that are rounded on the way; the gradient is of the float32 weights.
#[test]
fn bfloat16_rounds_on_the_way_and_not_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), Architecture::Llama, true);
    let (path, kind) = (folder.path(), Kind::BFloat16);
    let rounded = Decoder::load(path, kind, Device::Cpu, &mut |_, _| {}).unwrap();
    let model = Decoder::load_to_train(path, kind, Device::Cpu, &mut |_, _| {}).unwrap();
    let full = FullWeights::new(&model);
    let (expected, found) = (loss(&rounded), loss(&model));
    assert_eq!(found.double_value(&[]), expected.double_value(&[]));
    found.backward();
    assert_eq!((full.flat().kind(), full.flat_grad().kind()), (Kind::Float, Kind::Float));
    assert_eq!(model.kind(), Kind::BFloat16);
    let whole = tiny::load(folder.path()).named_tensors();
    for (name, tensor) in full.named(full.flat()) {
        assert_eq!(tensor, whole.iter().find(|(other, _)| *other == name).unwrap().1, "{name}");
    }
}

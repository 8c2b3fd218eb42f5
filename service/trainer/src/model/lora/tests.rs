//! Adapters beside merged weights and finite differences; names and targets as in PEFT.

use super::*;
use crate::model::{Architecture, Batch, tiny};

const IDS: [i64; 7] = [4, 8, 15, 16, 23, 42, 1];

fn options(target_modules: TargetModules) -> LoraOptions {
    LoraOptions { rank: 3, alpha: 6.0, dropout: 0.0, target_modules, use_rslora: false }
}

fn named(entries: &[&str]) -> TargetModules {
    TargetModules::Named(entries.iter().map(ToString::to_string).collect())
}

/// An adapter whose B is not zero.
fn trained(model: &Decoder, options: &LoraOptions) -> Adapter {
    let adapter = Adapter::new(model, options, 7).unwrap();
    let values = tiny::random(&[adapter.num_parameters()], 9) * 0.3;
    adapter.flat().shallow_clone().copy_(&values);
    adapter
}

fn run(model: &Decoder, adapter: Option<&Adapter>) -> Tensor {
    model.forward(&Batch::new(&IDS, &[0, 1, 2, 3, 0, 1, 2], &[4, 3], Device::Cpu), adapter, None)
}

fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
    let error = (got - want).abs().max().double_value(&[]);
    assert!(error <= tolerance, "off by {error}");
}

#[test]
fn a_new_adapter_changes_nothing_and_a_trained_one_can_be_left_out() {
    let model = tiny::model(Architecture::Llama);
    let base = run(&model, None);
    let options = options(TargetModules::AllLinear);
    close(&run(&model, Some(&Adapter::new(&model, &options, 1).unwrap())), &base, 1e-6);
    let adapter = trained(&model, &options);
    assert!((run(&model, Some(&adapter)) - &base).abs().max().double_value(&[]) > 0.01);
    assert_eq!(run(&model, None), base);
}

#[test]
fn equals_a_model_with_the_update_merged_into_its_weights() {
    for target in [TargetModules::AllLinear, named(&["q_proj", "v_proj"]), named(&["up_proj"])] {
        for use_rslora in [false, true] {
            let config = tiny::config(Architecture::Qwen2);
            let tensors = tiny::tensors(&config, 1);
            let folder = tempfile::tempdir().unwrap();
            tiny::write(folder.path(), &config, &tensors);
            let model = tiny::load(folder.path());
            let options = LoraOptions { use_rslora, ..options(target.clone()) };
            let scale = if use_rslora { 6.0 / 3f64.sqrt() } else { 2.0 };
            let adapter = trained(&model, &options);
            let adapters = adapter.named_tensors();
            let merged: Vec<_> = tensors
                .iter()
                .map(|(name, weight)| {
                    let of = |matrix: &str| {
                        let name = peft_name(name.trim_end_matches(".weight"), matrix);
                        adapters.iter().find(|(other, _)| *other == name).map(|(_, tensor)| tensor)
                    };
                    let merged = of("A").zip(of("B")).map(|(a, b)| weight + b.matmul(a) * scale);
                    (name.clone(), merged.unwrap_or_else(|| weight.shallow_clone()))
                })
                .collect();
            tiny::write(folder.path(), &config, &merged);
            close(&run(&model, Some(&adapter)), &run(&tiny::load(folder.path()), None), 1e-4);
        }
    }
}

#[test]
fn gradients_add_up_in_the_flat_buffer_and_equal_finite_differences() {
    let model = tiny::model(Architecture::Qwen3);
    let adapter = trained(&model, &options(TargetModules::AllLinear));
    let slope = tiny::random(&[7, 24], 3);
    let loss = || (run(&model, Some(&adapter)) * &slope).sum(Kind::Float);
    loss().backward();
    let once = adapter.flat_grad().copy();
    loss().backward();
    close(adapter.flat_grad(), &(&once * 2.0), 1e-4);
    adapter.zero_grad();
    assert_eq!(adapter.flat_grad().abs().max().double_value(&[]), 0.0);
    // Along a random direction of all parameters: (f(x + h d) - f(x - h d)) / 2 h = g · d.
    let direction = tiny::random(&[adapter.num_parameters()], 5);
    let step = 1e-3;
    let at = |step: f64| {
        let _ = adapter.flat().shallow_clone().g_add_(&(&direction * step));
        let loss = tch::no_grad(loss).double_value(&[]);
        let _ = adapter.flat().shallow_clone().g_sub_(&(&direction * step));
        loss
    };
    let difference = (at(step) - at(-step)) / (2.0 * step);
    let want = (once * direction).sum(Kind::Float).double_value(&[]);
    assert!((difference - want).abs() < 0.02 * want.abs().max(1.0), "{difference} against {want}");
}

#[test]
fn names_are_those_of_peft_and_all_a_come_first() {
    let model = tiny::model(Architecture::Llama);
    let adapter = Adapter::new(&model, &options(named(&["q_proj", "down_proj"])), 1).unwrap();
    let tensors = adapter.named_tensors();
    assert_eq!(tensors.len(), 12);
    assert_eq!(tensors[0].0, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    assert_eq!(tensors[0].1.size(), [3, 24]);
    assert_eq!(tensors[7].0, "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight");
    assert_eq!(tensors[7].1.size(), [24, 3]);
    let a: usize = tensors[..6].iter().map(|(_, tensor)| tensor.numel()).sum();
    assert_eq!(adapter.num_a(), a as i64);
    assert_eq!(adapter.modules().next(), Some("model.layers.0.self_attn.q_proj"));
    assert_eq!(adapter.modules().count(), 6);
}

#[test]
fn initial_values_depend_on_seed_and_name_alone() {
    let model = tiny::model(Architecture::Llama);
    let first = |targets, seed| {
        tch::manual_seed(seed as i64 + 100);
        Adapter::new(&model, &options(targets), seed).unwrap().named_tensors().remove(0).1.copy()
    };
    let a = first(TargetModules::AllLinear, 1);
    assert_eq!(a, first(named(&["q_proj"]), 1));
    assert_ne!(a, first(TargetModules::AllLinear, 2));
    let bound = 1.0 / 24f64.sqrt();
    assert!(a.abs().max().double_value(&[]) <= bound);
    assert!(a.abs().max().double_value(&[]) > 0.9 * bound && a.mean(Kind::Float).double_value(&[]).abs() < 0.3 * bound);
}

#[test]
fn weights_go_out_and_in_again() {
    let model = tiny::model(Architecture::Mistral);
    let options = options(TargetModules::AllLinear);
    let (from, to) = (trained(&model, &options), Adapter::new(&model, &options, 3).unwrap());
    let tensors = from.named_tensors();
    to.load(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    assert_eq!(from.flat(), to.flat());
    assert_eq!(run(&model, Some(&from)), run(&model, Some(&to)));

    let load = |tensors: &[(String, Tensor)]| {
        to.load(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap_err().to_string()
    };
    assert!(load(&tensors[1..]).contains("layers.0.self_attn.q_proj.lora_A.weight is missing"));
    let mut other = from.named_tensors();
    other[0].1 = other[0].1.narrow(0, 0, 2);
    assert!(load(&other).contains("has shape [2, 24], expected [3, 24]"));
    other[0].0 = "base_model.model.x.lora_A.weight".to_string();
    assert!(load(&other).contains("x.lora_A.weight belongs to no adapted module"));
}

#[test]
fn targets_follow_the_rules_of_peft() {
    let model = tiny::model(Architecture::Llama);
    let pattern = |pattern: &str| TargetModules::Pattern(pattern.to_string());
    let count = |target: TargetModules| {
        Adapter::new(&model, &options(target), 1)
            .map(|adapter| adapter.modules().count())
            .map_err(|error| error.to_string())
    };
    assert_eq!(count(TargetModules::AllLinear), Ok(21));
    assert_eq!(count(named(&["q_proj", "v_proj"])), Ok(6));
    assert_eq!(count(named(&["layers.1.mlp.up_proj", "no_such"])), Ok(1));
    assert_eq!(count(pattern(r"model\.layers\.[01]\..*_proj")), Ok(14));
    assert_eq!(count(pattern(r".*\.(?!k_)._proj")), Ok(9));
    // Part of a name is no match, and neither is part of a path for a pattern.
    for target in [named(&["proj"]), pattern("q_proj")] {
        let message = count(target).unwrap_err();
        assert!(message.contains("q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"), "{message}");
    }
    assert!(count(named(&["q_proj", "lm_head"])).unwrap_err().contains("`lm_head` cannot have an adapter"));
    assert!(count(pattern("(")).unwrap_err().contains("no regular expression"));
}

#[test]
fn a_rank_that_cannot_be_is_refused() {
    let model = tiny::model(Architecture::Llama);
    for rank in [0, 17] {
        let error = Adapter::new(&model, &LoraOptions { rank, ..options(TargetModules::AllLinear) }, 1).unwrap_err();
        assert!(error.to_string().contains("must lie in 1 to 16"), "{error}");
    }
}

#[test]
fn dropout_follows_its_seed_and_is_off_without_one() {
    let model = tiny::model(Architecture::Llama);
    let adapter = trained(&model, &LoraOptions { dropout: 0.5, ..options(TargetModules::AllLinear) });
    let plain = trained(&model, &options(TargetModules::AllLinear));
    let batch = Batch::single(&IDS, Device::Cpu);
    let with = |seed| model.forward(&batch, Some(&adapter), seed);
    assert_eq!(with(None), model.forward(&batch, Some(&plain), None));
    assert_eq!(with(Some(1)), with(Some(1)));
    assert_ne!(with(Some(1)), with(Some(2)));
    assert_ne!(with(Some(1)), with(None));
}

#[test]
fn the_spec_of_a_job_says_all_linear_in_a_list() {
    let spec = hone_job::spec::Lora::default();
    assert_eq!(LoraOptions::from(&spec).target_modules, TargetModules::AllLinear);
    let spec = hone_job::spec::Lora { target_modules: vec!["q_proj".into()], ..spec };
    assert_eq!(LoraOptions::from(&spec).target_modules, named(&["q_proj"]));
}

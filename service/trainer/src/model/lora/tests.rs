//! Adapters beside merged weights and finite differences; names and targets as in PEFT.

use tch::Device;

use super::*;
use crate::model::{Architecture, Batch, tiny};

const IDS: [i64; 7] = [4, 8, 15, 16, 23, 42, 1];

fn options(target_modules: TargetModules) -> LoraOptions {
    LoraOptions { rank: 3, alpha: 6.0, target_modules, ..LoraOptions::default() }
}

fn named(entries: &[&str]) -> TargetModules {
    TargetModules::Named(entries.iter().map(ToString::to_string).collect())
}

/// An adapter whose B is not zero, and whose lengths and copies are not those of the base model.
fn trained(model: &Decoder, options: &LoraOptions) -> Adapter {
    let adapter = Adapter::new(model, options, 7).unwrap();
    for (i, (name, tensor)) in adapter.named_tensors().into_iter().enumerate() {
        let noise = tiny::random(&tensor.size(), 9 + i as i64) * 0.3;
        let low_rank = name.contains("lora_") && !name.ends_with("magnitude_vector");
        tensor.shallow_clone().copy_(&if low_rank && !options.init.is_taken_off() { noise } else { &tensor + noise });
    }
    adapter
}

/// Every feature at once: ranks and scales of their own, DoRA, the embedding, a head trained whole.
fn everything() -> LoraOptions {
    LoraOptions {
        rank_pattern: vec![("k_proj".into(), 2), ("layers.0.*".into(), 5)],
        alpha_pattern: vec![("[qk]_proj".into(), 1.5)],
        modules_to_save: vec!["lm_head".into()],
        use_dora: true,
        ..options(named(&["q_proj", "k_proj", "v_proj", "up_proj", "embed_tokens"]))
    }
}

/// Log-probabilities, so that the head takes part.
fn logps(model: &Decoder, adapter: Option<&Adapter>) -> Tensor {
    model.logits(&run(model, adapter), adapter).log_softmax(-1, Kind::Float)
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
                    let of = |part: Part| {
                        let name = layout::name(name.trim_end_matches(".weight"), part);
                        adapters.iter().find(|(other, _)| *other == name).map(|(_, tensor)| tensor)
                    };
                    let merged = of(Part::A).zip(of(Part::B)).map(|(a, b)| weight + b.matmul(a) * scale);
                    (name.clone(), merged.unwrap_or_else(|| weight.shallow_clone()))
                })
                .collect();
            tiny::write(folder.path(), &config, &merged);
            close(&run(&model, Some(&adapter)), &run(&tiny::load(folder.path()), None), 1e-4);
        }
    }
}

/// W + s B A with rows of length m, from the file's tensors.
fn merged(weight: &Tensor, a: &Tensor, b: &Tensor, m: &Tensor, scale: f64) -> Tensor {
    let sum = weight + b.matmul(a) * scale;
    let norm = sum.square().sum_dim_intlist(1, true, Kind::Float).sqrt();
    sum * m.unsqueeze(1) / norm
}

#[test]
fn every_feature_at_once_equals_a_model_with_all_of_it_merged() {
    let config = tiny::config(Architecture::Qwen2);
    let tensors = tiny::tensors(&config, 1);
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path(), &config, &tensors);
    let model = tiny::load(folder.path());
    let adapter = trained(&model, &everything());
    let own: BTreeMap<String, Tensor> = adapter.named_tensors().into_iter().collect();
    let find = |path: &str, part: Part| own.get(&layout::name(path, part));
    let new = |(name, weight): &(String, Tensor)| {
        let path = name.trim_end_matches(".weight");
        let alpha = if path.ends_with("q_proj") || path.ends_with("k_proj") { 1.5 } else { 6.0 };
        let of = |a: Part, b: Part| find(path, a).zip(find(path, b)).zip(find(path, Part::Magnitude));
        let weight = match (of(Part::A, Part::B), of(Part::EmbeddingA, Part::EmbeddingB), find(path, Part::Whole)) {
            (Some(((a, b), m)), _, _) => merged(weight, a, b, m, alpha / a.size()[0] as f64),
            (_, Some(((a, b), m)), _) => merged(&weight.tr(), a, b, m, alpha / 3.0).tr().contiguous(),
            (_, _, whole) => whole.unwrap_or(weight).shallow_clone(),
        };
        (name.clone(), weight)
    };
    tiny::write(folder.path(), &config, &tensors.iter().map(new).collect::<Vec<_>>());
    let plain = tiny::load(folder.path());
    close(&logps(&model, Some(&adapter)), &logps(&plain, None), 1e-4);
    let mut frozen = trained(&model, &everything());
    frozen.freeze(&model);
    assert_eq!(logps(&model, Some(&frozen)), logps(&model, Some(&adapter)));
    assert!((logps(&model, Some(&adapter)) - logps(&model, None)).abs().max().double_value(&[]) > 0.1);
    assert_eq!(own[&layout::name("model.layers.0.self_attn.v_proj", Part::A)].size(), [5, 24]);
    assert_eq!(own[&layout::name("model.layers.0.self_attn.k_proj", Part::A)].size(), [2, 24]);
}

#[test]
fn whatever_an_adapter_starts_with_it_changes_nothing_yet() {
    use LoraInit::{Default, Gaussian, Olora, Orthogonal, Pissa};
    let model = tiny::model(Architecture::Qwen2);
    let base = logps(&model, None);
    for init in [Default, Gaussian, Orthogonal, Pissa, Olora] {
        for use_dora in [false, true] {
            let options =
                LoraOptions { rank: 4, init, use_dora, use_rslora: true, ..options(TargetModules::AllLinear) };
            let adapter = Adapter::new(&model, &options, 1).unwrap();
            close(&logps(&model, Some(&adapter)), &base, 1e-5);
            let b = &adapter.named_tensors()[21].1;
            assert_eq!(b.abs().max().double_value(&[]) > 0.0, init != Default && init != Gaussian, "{init:?}");
        }
    }
    close(&logps(&model, Some(&Adapter::new(&model, &everything(), 1).unwrap())), &base, 1e-5);
    assert_eq!(logps(&model, None), base);
}

#[test]
fn pissa_takes_the_largest_components_and_olora_those_of_the_decomposition() {
    let model = tiny::model(Architecture::Llama);
    let linear = model.stacks().nth(1).unwrap();
    let products = [LoraInit::Pissa, LoraInit::Olora].map(|init| {
        let options = LoraOptions { init, ..options(named(&["layers.0.self_attn.o_proj"])) };
        let tensors = Adapter::new(&model, &options, 1).unwrap().named_tensors();
        tensors[1].1.matmul(&tensors[0].1)
    });
    // The best approximation of rank 3 misses the other singular values, by Eckart and Young.
    let (u, s, v) = linear.weight.svd(true, true);
    let missed = s.narrow(0, 3, s.size()[0] - 3).square().sum(Kind::Float).sqrt().double_value(&[]);
    let error = |product: &Tensor| (&linear.weight - product * 2.0).norm().double_value(&[]);
    assert!((error(&products[0]) - missed).abs() < 1e-5 * missed);
    let best = (u.narrow(1, 0, 3) * s.narrow(0, 0, 3)).matmul(&v.narrow(1, 0, 3).tr());
    close(&(&products[0] * 2.0), &best, 1e-5);
    // Q_r R_r reproduces the first r columns of W, since R is upper triangular.
    close(&products[1].narrow(1, 0, 3), &linear.weight.narrow(1, 0, 3), 1e-5);
}

#[test]
fn random_starts_have_the_spread_they_promise() {
    let model = tiny::model(Architecture::Llama);
    let start = |init, rank| {
        let options = LoraOptions { rank, init, ..options(named(&["up_proj", "embed_tokens"])) };
        Adapter::new(&model, &options, 3).unwrap().named_tensors()
    };
    let spread = |tensor: &Tensor| tensor.std(true).double_value(&[]);
    let gaussian = start(LoraInit::Gaussian, 8);
    assert!((spread(&gaussian[0].1) - 0.125).abs() < 0.02, "{}", spread(&gaussian[0].1));
    let embedding = gaussian.iter().position(|(name, _)| name.ends_with("lora_embedding_A")).unwrap();
    assert_eq!(gaussian[embedding].1.abs().max().double_value(&[]), 0.0);
    assert!((spread(&gaussian[embedding + 1].1) - 1.0).abs() < 0.15);
    let orthogonal = start(LoraInit::Orthogonal, 4);
    let (a, b) = (&orthogonal[0].1, &orthogonal[3].1);
    assert!(spread(a) > 0.01 && spread(b) > 0.01);
    close(&b.matmul(a), &Tensor::zeros([40, 24], (Kind::Float, Device::Cpu)), 1e-6);
    let odd = LoraOptions { init: LoraInit::Orthogonal, ..options(named(&["up_proj"])) };
    assert!(Adapter::new(&model, &odd, 1).unwrap_err().to_string().contains("needs an even one"));
}

#[test]
fn an_adapter_with_its_start_taken_off_is_plain_lora_of_twice_the_rank_and_comes_back() {
    let model = tiny::model(Architecture::Qwen2);
    for (init, use_dora) in [(LoraInit::Pissa, false), (LoraInit::Olora, true)] {
        let options = LoraOptions {
            init,
            use_dora,
            use_rslora: true,
            rank_pattern: vec![("k_proj".into(), 2)],
            ..options(named(&["q_proj", "k_proj", "embed_tokens"]))
        };
        let adapter = trained(&model, &options);
        let (portable, tensors) = adapter.portable();
        assert_eq!((portable.rank, portable.rank_pattern[0].1), (6, 4));
        let given = || tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        let plain = Adapter::empty(&model, &portable).unwrap();
        plain.load(given()).unwrap();
        close(&logps(&model, Some(&plain)), &logps(&model, Some(&adapter)), 1e-5);
        assert!(plain.stacks.iter().flatten().all(|stack| stack.start.is_none()));

        let back = Adapter::empty(&model, &portable.halved(init)).unwrap();
        back.load_doubled(given()).unwrap();
        assert_eq!(back.flat(), adapter.flat());
        assert_eq!(logps(&model, Some(&back)), logps(&model, Some(&adapter)));
        assert!(back.load(given()).unwrap_err().to_string().contains("has shape"));
    }
}

#[test]
fn dora_with_dropout_makes_the_base_result_of_the_dropped_input_too_as_peft_does() {
    let model = tiny::model(Architecture::Qwen2);
    let dora = LoraOptions { dropout: 0.4, use_dora: true, ..options(named(&["k_proj"])) };
    let adapter = trained(&model, &dora);
    let (linear, stack) = (model.stacks().next().unwrap(), adapter.stack(0).unwrap());
    let x = tiny::random(&[5, 24], 4);
    let drop = hone_ops::Dropout { probability: 0.4, seed: crate::mix::mix(9, linear.index as u64) as i64 };
    let dropped = hone_ops::dropout(&x, drop);
    let tensors: BTreeMap<String, Tensor> = adapter.named_tensors().into_iter().collect();
    let find = |part: Part| &tensors[&layout::name("model.layers.0.self_attn.k_proj", part)];
    let (a, b, m) = (find(Part::A), find(Part::B), find(Part::Magnitude));
    let weight = linear.weight.narrow(0, 32, 16);
    let norm = (&weight + b.matmul(a) * 2.0).square().sum_dim_intlist(1, false, Kind::Float).sqrt();
    let gain = m / norm;
    // result + (m / n - 1) W x' + (m / n) s B A x', with x' the dropped input.
    let base = x.linear(&linear.weight, linear.bias.as_ref());
    let change = dropped.matmul(&weight.tr()) * (&gain - 1.0) + dropped.matmul(&a.tr()).matmul(&b.tr()) * &gain * 2.0;
    let got = stack.forward(linear, &x, Some(9));
    close(&got.narrow(1, 32, 16), &(base.narrow(1, 32, 16) + change), 1e-5);
    close(&got.narrow(1, 0, 32), &base.narrow(1, 0, 32), 1e-5);
    assert!((&got - stack.forward(linear, &x, None)).abs().max().double_value(&[]) > 0.01);
}

/// The length n is held constant in DoRA's backward pass, so finite differences hold for the lengths m alone.
#[test]
fn gradients_of_lengths_embedding_and_head_equal_finite_differences() {
    let model = tiny::model(Architecture::Qwen3);
    let adapter = trained(&model, &everything());
    let slope = tiny::random(&[7, 53], 3);
    let loss = || (logps(&model, Some(&adapter)) * &slope).sum(Kind::Float);
    loss().backward();
    for part in ["magnitude_vector", "lm_head.weight"] {
        let views = adapter.named_tensors().into_iter().zip(adapter.named_gradients());
        let views: Vec<_> =
            views.filter(|((name, _), _)| name.ends_with(part)).map(|((_, x), (_, g))| (x, g)).collect();
        assert!(!views.is_empty(), "{part}");
        let directions: Vec<Tensor> = views.iter().map(|(x, _)| tiny::random(&x.size(), 5)).collect();
        let move_by = |step: f64| {
            for ((x, _), direction) in views.iter().zip(&directions) {
                let _ = x.shallow_clone().g_add_(&(direction * step));
            }
            let loss = tch::no_grad(loss).double_value(&[]);
            for ((x, _), direction) in views.iter().zip(&directions) {
                let _ = x.shallow_clone().g_sub_(&(direction * step));
            }
            loss
        };
        let difference = (move_by(1e-3) - move_by(-1e-3)) / 2e-3;
        let dot =
            |((_, g), direction): (&(Tensor, Tensor), &Tensor)| (g * direction).sum(Kind::Float).double_value(&[]);
        let want: f64 = views.iter().zip(&directions).map(dot).sum();
        assert!((difference - want).abs() < 0.02 * want.abs().max(1.0), "{part}: {difference} against {want}");
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
fn what_is_no_low_rank_matrix_of_a_linear_layer_comes_last() {
    let model = tiny::model(Architecture::Llama);
    let adapter = Adapter::new(&model, &everything(), 1).unwrap();
    let tensors = adapter.named_tensors();
    let len = |end: &str| -> i64 {
        tensors.iter().filter(|(name, _)| name.ends_with(end)).map(|(_, tensor)| tensor.numel() as i64).sum()
    };
    assert_eq!(adapter.num_a(), len("lora_A.weight"));
    assert_eq!(adapter.num_b(), len("lora_B.weight") + len("lora_magnitude_vector"));
    let names: Vec<&str> = tensors.iter().map(|(name, _)| name.trim_start_matches("base_model.model.")).collect();
    let last = ["lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B"]
        .map(|end| format!("model.embed_tokens.{end}"));
    assert_eq!(names[names.len() - 4..], [last[0].as_str(), &last[1], &last[2], "lm_head.weight"]);
    assert_eq!(adapter.modules().last(), Some("model.embed_tokens"));
    assert_eq!(adapter.saved_modules().collect::<Vec<_>>(), ["lm_head"]);
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
    for target in [named(&["q_proj", "lm_head"]), pattern(".*")] {
        assert!(count(target).unwrap_err().contains("`lm_head` cannot have an adapter"));
    }
    assert!(count(pattern("(")).unwrap_err().contains("no regular expression"));
    assert_eq!(count(named(&["embed_tokens"])), Ok(1));
    assert_eq!(count(pattern(r"model\.embed_tokens|.*\.q_proj")), Ok(4));
}

#[test]
fn exclusions_layers_and_whole_modules_follow_the_rules_of_peft() {
    let model = tiny::model(Architecture::Llama);
    let paths = |options: LoraOptions| -> Result<Vec<String>, String> {
        let adapter = Adapter::new(&model, &options, 1).map_err(|error| error.to_string())?;
        let short = |path: &str| path.trim_start_matches("model.layers.").to_string();
        Ok(adapter.modules().map(short).collect())
    };
    let q = || options(named(&["q_proj"]));
    let layers = |layers: &[i64]| LoraOptions { layers_to_transform: layers.to_vec(), ..q() };
    assert_eq!(paths(layers(&[2, 0])).unwrap(), ["0.self_attn.q_proj", "2.self_attn.q_proj"]);
    assert!(paths(layers(&[3])).unwrap_err().contains("layers_to_transform 3: the model has layers 0 to 2"));
    // A module named by its whole path is meant in whatever layer it is; the embedding is in none.
    let whole = named(&["model.layers.1.self_attn.q_proj", "k_proj", "embed_tokens"]);
    let some = LoraOptions { layers_to_transform: vec![0], ..options(whole) };
    assert_eq!(paths(some).unwrap(), ["0.self_attn.k_proj", "1.self_attn.q_proj"]);
    let pattern = |pattern: &str| LoraOptions { layers_pattern: vec![pattern.into()], ..layers(&[1]) };
    assert_eq!(paths(pattern("layers")).unwrap(), ["1.self_attn.q_proj"]);
    assert!(paths(pattern("blocks")).unwrap_err().contains("no module matches [\"q_proj\"] in the layers [1]"));

    let without = |exclude_modules| LoraOptions { exclude_modules, ..q() };
    assert_eq!(paths(without(named(&["1.self_attn.q_proj", "proj"]))).unwrap().len(), 2);
    let excluded = TargetModules::Pattern(r"model\.layers\.[02]\..*".into());
    assert_eq!(paths(without(excluded)).unwrap(), ["1.self_attn.q_proj"]);
    assert!(paths(without(named(&["q_proj"]))).unwrap_err().contains("without [\"q_proj\"]"));

    // What is trained whole has no adapter, whatever else is said.
    let saved = LoraOptions {
        modules_to_save: vec!["head".into(), "embed_tokens".into()],
        ..options(named(&["q_proj", "embed_tokens", "lm_head"]))
    };
    assert_eq!(paths(saved.clone()).unwrap().len(), 3);
    let adapter = Adapter::new(&model, &saved, 1).unwrap();
    assert_eq!(adapter.saved_modules().collect::<Vec<_>>(), ["model.embed_tokens", "lm_head"]);
    let norm = LoraOptions { modules_to_save: vec!["norm".into()], ..q() };
    assert!(paths(norm).unwrap_err().contains("modules_to_save `norm`: only the embedding and the head"));
}

#[test]
fn the_first_pattern_that_matches_gives_rank_and_alpha() {
    let model = tiny::model(Architecture::Llama);
    let options = LoraOptions {
        rank_pattern: vec![(r"layers\.0\..*".into(), 4), ("q_proj".into(), 2), ("_proj".into(), 9)],
        alpha_pattern: vec![("[qv]_proj".into(), 1.0)],
        ..options(named(&["q_proj", "k_proj", "v_proj"]))
    };
    let adapter = Adapter::new(&model, &options, 1).unwrap();
    let sizes: Vec<_> = options.sizes(adapter.modules()).iter().map(|(_, rank, alpha)| (*rank, *alpha)).collect();
    assert_eq!(sizes[..3], [(4, 1.0), (4, 6.0), (4, 1.0)]);
    assert_eq!(sizes[3..6], [(2, 1.0), (3, 6.0), (3, 1.0)]);
    let scales: Vec<f64> = adapter.all_modules().map(|module| module.scale).collect();
    assert_eq!(scales[..4], [0.25, 1.5, 0.25, 0.5]);
    let bad = LoraOptions { rank_pattern: vec![("(".into(), 1)], ..options };
    assert!(Adapter::new(&model, &bad, 1).unwrap_err().to_string().contains("rank_pattern `(` is no regular"));
}

#[test]
fn a_rank_that_cannot_be_is_refused() {
    let model = tiny::model(Architecture::Llama);
    for rank in [0, 17] {
        let error = Adapter::new(&model, &LoraOptions { rank, ..options(TargetModules::AllLinear) }, 1).unwrap_err();
        assert!(error.to_string().contains(&format!("rank {rank} of model.layers.0.self_attn.")), "{error}");
        assert!(error.to_string().contains("must lie in 1 to"), "{error}");
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

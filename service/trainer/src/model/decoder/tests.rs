//! The decoder beside its formulas written out, packed beside separate, cached beside whole.

use super::*;
use crate::model::Architecture;
use crate::model::tiny;

const LENS: [i64; 5] = [9, 6, 6, 3, 1];

fn packed() -> (Vec<i64>, Vec<i64>) {
    let total: i64 = LENS.iter().sum();
    let ids = (0..total).map(|i| (i * 31 + 7) % 53).collect();
    (ids, LENS.iter().flat_map(|&len| 0..len).collect())
}

fn close(got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.size(), want.size());
    let error = (got - want).abs().max().double_value(&[]);
    assert!(error <= tolerance, "off by {error}");
}

#[test]
fn packed_documents_equal_separate_ones_in_every_family() {
    for architecture in Architecture::ALL {
        let model = tiny::model(architecture);
        let (ids, positions) = packed();
        let packed = model.forward(&Batch::new(&ids, &positions, &LENS, Device::Cpu), None, None);
        let mut start = 0;
        for len in LENS {
            let document = &ids[start as usize..(start + len) as usize];
            close(
                &packed.narrow(0, start, len),
                &model.forward(&Batch::single(document, Device::Cpu), None, None),
                2e-5,
            );
            start += len;
        }
    }
}

#[test]
fn a_changed_document_leaves_the_others_as_they_were_to_the_bit() {
    for architecture in Architecture::ALL {
        let model = tiny::model(architecture);
        let (mut ids, positions) = packed();
        let run = |ids: &[i64]| model.forward(&Batch::new(ids, &positions, &LENS, Device::Cpu), None, None);
        let before = run(&ids);
        let (start, len) = (9, 6);
        ids[start as usize] = (ids[start as usize] + 1) % 53;
        let after = run(&ids);
        assert_eq!(before.narrow(0, 0, start), after.narrow(0, 0, start));
        let rest = start + len;
        let others = before.size()[0] - rest;
        assert_eq!(before.narrow(0, rest, others), after.narrow(0, rest, others));
        // And the whole document that changed has changed: each of its tokens sees the first (Mistral's in two layers).
        assert!(
            (before - after).narrow(0, start, len).abs().sum_dim_intlist(1, false, Kind::Float).min().double_value(&[])
                > 0.0
        );
    }
}

#[test]
fn the_future_is_not_seen_and_a_window_ends() {
    let model = tiny::model(Architecture::Mistral);
    let ids: Vec<i64> = (0..20).map(|i| i % 53).collect();
    let run = |ids: &[i64]| model.forward(&Batch::single(ids, Device::Cpu), None, None);
    let before = run(&ids);
    let mut changed = ids.clone();
    changed[5] = 40;
    let moved = (before - run(&changed)).abs().sum_dim_intlist(1, false, Kind::Float);
    let moved = Vec::<f32>::try_from(&moved).unwrap();
    // Three layers with a window of 4 carry a token 3 · 3 places on.
    for (position, moved) in moved.iter().enumerate() {
        assert_eq!(*moved > 0.0, (5..=14).contains(&position), "position {position}");
    }
}

#[test]
fn the_cache_gives_what_the_whole_text_gives() {
    for architecture in Architecture::ALL {
        let model = tiny::model(architecture);
        let ids: Vec<i64> = (0..17).map(|i| (i * 5 + 3) % 53).collect();
        let want = model.forward(&Batch::single(&ids, Device::Cpu), None, None);
        // Token by token, at once, and in uneven pieces.
        for pieces in [vec![1; 17], vec![17], vec![7, 1, 1, 5, 3]] {
            let mut cache = Cache::new(&model, 20);
            let mut start = 0;
            for len in pieces {
                let got = model.forward_cached(&ids[start..start + len], &mut cache, None);
                close(&got, &want.narrow(0, start as i64, len as i64), 2e-5);
                start += len;
            }
            assert_eq!(cache.len(), 17);
        }
    }
}

#[test]
fn a_truncated_cache_goes_on_from_there() {
    let model = tiny::model(Architecture::Llama);
    let mut cache = Cache::new(&model, 10);
    let _ = model.forward_cached(&[1, 2, 3, 4, 5], &mut cache, None);
    cache.truncate(3);
    let got = model.forward_cached(&[9], &mut cache, None);
    let want = model.forward(&Batch::single(&[1, 2, 3, 9], Device::Cpu), None, None);
    close(&got, &want.narrow(0, 3, 1), 2e-5);
}

/// Llama's formulas, written out for one document with nothing shared, cached or fused.
fn plain(tensors: &[(String, Tensor)], config: &Config, ids: &[i64]) -> Tensor {
    let get = |name: &str| &tensors.iter().find(|(other, _)| other == name).unwrap().1;
    let norm = |x: &Tensor, name: &str| {
        x * (x.square().mean_dim(-1, true, Kind::Float) + config.rms_norm_eps).rsqrt() * get(name)
    };
    let len = ids.len() as i64;
    let frequencies: Vec<f32> = config.rope.inverse_frequencies(config.head_dim).iter().map(|&x| x as f32).collect();
    let angles =
        Tensor::arange(len, (Kind::Float, Device::Cpu)).unsqueeze(1) * Tensor::from_slice(&frequencies).unsqueeze(0);
    let (cos, sin) = (angles.cos().repeat([1, 2]), angles.sin().repeat([1, 2]));
    // [L, heads, D] -> [heads, L, D]
    let rotate = |x: Tensor| {
        let x = x.transpose(0, 1);
        let halves = x.chunk(2, -1);
        &x * &cos + Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1) * &sin
    };
    let mut hidden = get("model.embed_tokens.weight").index_select(0, &Tensor::from_slice(ids));
    for layer in 0..config.num_hidden_layers {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let linear = |x: &Tensor, name: &str| {
            let y = x.matmul(&get(&at(&format!("{name}.weight"))).tr());
            let bias = tensors.iter().find(|(other, _)| *other == at(&format!("{name}.bias")));
            bias.map_or_else(|| y.shallow_clone(), |(_, bias)| &y + bias)
        };
        let x = norm(&hidden, &at("input_layernorm.weight"));
        let heads = |name: &str| linear(&x, name).view([len, -1, config.head_dim]);
        let head_norm = |x: Tensor, name: &str| if config.family.qk_norm { norm(&x, &at(name)) } else { x };
        let q = rotate(head_norm(heads("self_attn.q_proj"), "self_attn.q_norm.weight"));
        let repeats = config.num_attention_heads / config.num_key_value_heads;
        let repeat = |x: Tensor| x.repeat_interleave_self_int(repeats, Some(0), None);
        let k = repeat(rotate(head_norm(heads("self_attn.k_proj"), "self_attn.k_norm.weight")));
        let v = repeat(heads("self_attn.v_proj").transpose(0, 1));
        let places = Tensor::arange(len, (Kind::Int64, Device::Cpu));
        let distance = places.unsqueeze(1) - places.unsqueeze(0);
        let unseen = distance.lt(0).logical_or(&distance.ge(config.windows[layer as usize].unwrap_or(len)));
        let scores = q.matmul(&k.transpose(1, 2)) / (config.head_dim as f64).sqrt();
        let scores = scores.masked_fill(&unseen, f64::NEG_INFINITY).softmax(-1, Kind::Float);
        let attended = scores.matmul(&v).transpose(0, 1).reshape([len, -1]);
        hidden += linear(&attended, "self_attn.o_proj");
        let x = norm(&hidden, &at("post_attention_layernorm.weight"));
        hidden += linear(&(linear(&x, "mlp.gate_proj").silu() * linear(&x, "mlp.up_proj")), "mlp.down_proj");
    }
    norm(&hidden, "model.norm.weight")
}

#[test]
fn every_family_equals_its_formulas() {
    for architecture in Architecture::ALL {
        let config = tiny::config(architecture);
        let tensors = tiny::tensors(&config, 4);
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path(), &config, &tensors);
        let model = tiny::load(folder.path());
        let ids: Vec<i64> = (0..11).map(|i| (i * 7 + 1) % 53).collect();
        let want = plain(&tensors, model.config(), &ids);
        let got = model.forward(&Batch::single(&ids, Device::Cpu), None, None);
        close(&got, &want, 2e-5);
        close(&model.logits(&got, None), &want.matmul(&model.lm_head_weight(None).tr()), 2e-5);
    }
}

#[test]
fn bfloat16_stays_near_float32() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny::config(Architecture::Qwen3);
    tiny::write(folder.path(), &config, &tiny::tensors(&config, 2));
    let run = |kind| {
        let model = Decoder::load(folder.path(), kind, Device::Cpu, &mut |_, _| {}).unwrap();
        let (ids, positions) = packed();
        model.forward(&Batch::new(&ids, &positions, &LENS, Device::Cpu), None, None)
    };
    let (half, full) = (run(Kind::BFloat16), run(Kind::Float));
    assert_eq!(half.kind(), Kind::BFloat16);
    let error = (half.to_kind(Kind::Float) - &full).norm().double_value(&[]) / full.norm().double_value(&[]);
    assert!(error < 0.03, "relative error {error}");
}

#[test]
fn counts_its_parameters() {
    for architecture in Architecture::ALL {
        let tensors = tiny::tensors(&tiny::config(architecture), 1);
        let want: usize = tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
        assert_eq!(tiny::model(architecture).num_parameters(), want as i64, "{architecture:?}");
    }
}

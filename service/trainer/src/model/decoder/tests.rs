//! The decoder beside its formulas written out, packed beside separate, cached beside whole.

use std::f64::consts::PI;

use super::*;
use crate::model::{Activation, Architecture, Scaling, tiny};

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
        // Token by token, at once, and in uneven pieces. Phi-3 turns all anew in a text of more than 8 tokens.
        for pieces in [vec![1; 17], vec![17], vec![7, 1, 1, 5, 3]] {
            let mut cache = Cache::new(&model, 20);
            let mut start = 0;
            for len in pieces {
                let got = model.forward_cached(&mut [(&ids[start..start + len], &mut cache)], None);
                let want = model.forward(&Batch::single(&ids[..start + len], Device::Cpu), None, None);
                close(&got, &want.narrow(0, start as i64, len as i64), 2e-5);
                start += len;
            }
            assert_eq!(cache.len(), 17);
        }
    }
}

#[test]
fn texts_that_go_on_together_do_not_see_each_other() {
    for architecture in Architecture::ALL {
        let model = tiny::model(architecture);
        let ids: Vec<i64> = (0..17).map(|i| (i * 5 + 3) % 53).collect();
        let (one, other): (Vec<i64>, Vec<i64>) = (ids[..11].to_vec(), ids.iter().rev().copied().collect());
        let (mut of_one, mut of_other) = (Cache::new(&model, 20), Cache::new(&model, 20));
        // One begins while the other is under way; Phi-3 sees the other anew as it grows beyond 8 tokens.
        let _ = model.forward_cached(&mut [(&other[..7], &mut of_other)], None);
        let pieces = [(0..5, 7..8), (5..6, 8..9), (6..11, 9..17)];
        for (of_first, of_second) in pieces {
            let mut texts = [(&one[of_first.clone()], &mut of_one), (&other[of_second.clone()], &mut of_other)];
            let got = model.forward_cached(&mut texts, None);
            let alone = |ids: &[i64], new: std::ops::Range<usize>| {
                let whole = model.forward(&Batch::single(&ids[..new.end], Device::Cpu), None, None);
                whole.narrow(0, new.start as i64, new.len() as i64)
            };
            close(&got, &Tensor::cat(&[alone(&one, of_first), alone(&other, of_second)], 0), 2e-5);
        }
    }
}

#[test]
fn prompts_are_not_shared_where_the_rotation_follows_from_the_length_of_a_text() {
    for architecture in Architecture::ALL {
        let repeated = architecture == Architecture::Phi3;
        let want = if repeated { Prefixes::Repeated } else { Prefixes::Shared };
        assert_eq!(tiny::model(architecture).prefixes(), want);
    }
}

#[test]
fn a_truncated_cache_goes_on_from_there() {
    let model = tiny::model(Architecture::Llama);
    let mut cache = Cache::new(&model, 10);
    let _ = model.forward_cached(&mut [(&[1, 2, 3, 4, 5], &mut cache)], None);
    cache.truncate(3);
    let got = model.forward_cached(&mut [(&[9], &mut cache)], None);
    let want = model.forward(&Batch::single(&[1, 2, 3, 9], Device::Cpu), None, None);
    close(&got, &want.narrow(0, 3, 1), 2e-5);
}

/// The formulas, written out for one document with nothing shared, cached or fused.
struct Plain<'a> {
    tensors: &'a [(String, Tensor)],
    config: &'a Config,
}

impl Plain<'_> {
    fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let weight = self.find(&format!("{name}.weight")).unwrap();
        let weight = if self.config.family.norm_plus_one { weight + 1.0 } else { weight.shallow_clone() };
        x * (x.square().mean_dim(-1, true, Kind::Float) + self.config.rms_norm_eps).rsqrt() * weight
    }

    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        let y = x.matmul(&self.find(&format!("{name}.weight")).unwrap().tr());
        self.find(&format!("{name}.bias")).map_or(y.shallow_clone(), |bias| &y + bias)
    }

    /// Turns `x [L, heads, D]`.
    fn rotate(&self, x: &Tensor) -> Tensor {
        let (rope, len) = (&self.config.rope, x.size()[0]);
        let frequencies: Vec<f32> = rope.inverse_frequencies(len).iter().map(|&x| x as f32).collect();
        let angles = Tensor::arange(len, (Kind::Float, Device::Cpu)).unsqueeze(1) * Tensor::from_slice(&frequencies);
        let factor = match rope.scaling {
            Scaling::LongRope { attention_factor, .. } => attention_factor,
            _ => 1.0,
        };
        let (cos, sin) = (angles.cos().repeat([1, 2]) * factor, angles.sin().repeat([1, 2]) * factor);
        let (turned, rest) =
            (x.narrow(2, 0, rope.rotary_dim), x.narrow(2, rope.rotary_dim, x.size()[2] - rope.rotary_dim));
        let halves = turned.chunk(2, -1);
        let quarter = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
        Tensor::cat(&[turned * cos.unsqueeze(1) + quarter * sin.unsqueeze(1), rest], -1)
    }

    fn attention(&self, x: &Tensor, prefix: &str, layer: usize) -> Tensor {
        let (c, len) = (self.config, x.size()[0]);
        let (query, key_value) = (c.query_size(), c.key_value_size());
        let qkv = match c.family.fused_projections {
            true => self.linear(x, &format!("{prefix}.qkv_proj")).split_with_sizes([query, key_value, key_value], 1),
            false => ["q_proj", "k_proj", "v_proj"].map(|name| self.linear(x, &format!("{prefix}.{name}"))).into(),
        };
        let heads = |x: &Tensor| x.view([len, -1, c.head_dim]);
        let head_norm = |x: Tensor, name: &str| match c.family.qk_norm {
            true => self.norm(&x, &format!("{prefix}.{name}")),
            false => x,
        };
        let rotate = |x: Tensor| if c.uses_rope[layer] { self.rotate(&x) } else { x };
        // [L, heads, D] -> [H, L, D]
        let spread = |x: Tensor| {
            let repeats = c.num_attention_heads / x.size()[1];
            x.transpose(0, 1).repeat_interleave_self_int(repeats, Some(0), None)
        };
        let q = spread(rotate(head_norm(heads(&qkv[0]), "q_norm")));
        let k = spread(rotate(head_norm(heads(&qkv[1]), "k_norm")));
        let places = Tensor::arange(len, (Kind::Int64, Device::Cpu));
        let distance = places.unsqueeze(1) - places.unsqueeze(0);
        let unseen = distance.lt(0).logical_or(&distance.ge(c.windows[layer].unwrap_or(len)));
        let scores = q.matmul(&k.transpose(1, 2)) / c.query_pre_attn_scalar.sqrt();
        let scores = c.attn_logit_softcapping.map_or(scores.shallow_clone(), |cap| (&scores / cap).tanh() * cap);
        let scores = scores.masked_fill(&unseen, f64::NEG_INFINITY).softmax(-1, Kind::Float);
        let attended = scores.matmul(&spread(heads(&qkv[2]))).transpose(0, 1).reshape([len, -1]);
        self.linear(&attended, &format!("{prefix}.o_proj"))
    }

    fn mlp(&self, x: &Tensor, prefix: &str) -> Tensor {
        let gate_up = match self.config.family.fused_projections {
            true => self.linear(x, &format!("{prefix}.gate_up_proj")).chunk(2, -1),
            false => ["gate_proj", "up_proj"].map(|name| self.linear(x, &format!("{prefix}.{name}"))).into(),
        };
        let gate = match self.config.family.activation {
            Activation::Silu => &gate_up[0] * gate_up[0].sigmoid(),
            Activation::GeluTanh => {
                let inner = (&gate_up[0] + gate_up[0].pow_tensor_scalar(3) * 0.044_715) * (2.0 / PI).sqrt();
                &gate_up[0] * (inner.tanh() + 1.0) * 0.5
            }
        };
        self.linear(&(gate * &gate_up[1]), &format!("{prefix}.down_proj"))
    }

    fn hidden(&self, ids: &[i64]) -> Tensor {
        let (c, family) = (self.config, self.config.family);
        let mut hidden = self.find("model.embed_tokens.weight").unwrap().index_select(0, &Tensor::from_slice(ids));
        if family.scaled_embeddings {
            hidden *= (c.hidden_size as f64).sqrt();
        }
        for layer in 0..c.num_hidden_layers as usize {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let attended = self.attention(&self.norm(&hidden, &at("input_layernorm")), &at("self_attn"), layer);
            let fed = |x: &Tensor, norm: &str| self.mlp(&self.norm(x, &at(norm)), &at("mlp"));
            if family.output_norms {
                hidden += self.norm(&attended, &at("post_attention_layernorm"));
                let fed = fed(&hidden, "pre_feedforward_layernorm");
                hidden += self.norm(&fed, &at("post_feedforward_layernorm"));
            } else {
                hidden += attended;
                let fed = fed(&hidden, "post_attention_layernorm");
                hidden += fed;
            }
        }
        self.norm(&hidden, "model.norm")
    }

    fn logits(&self, hidden: &Tensor) -> Tensor {
        let logits = hidden.matmul(&self.find("lm_head.weight").unwrap().tr());
        self.config.final_logit_softcapping.map_or(logits.shallow_clone(), |cap| (&logits / cap).tanh() * cap)
    }
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
        let plain = Plain { tensors: &tensors, config: model.config() };
        let want = plain.hidden(&ids);
        let got = model.forward(&Batch::single(&ids, Device::Cpu), None, None);
        close(&got, &want, 2e-5);
        close(&model.logits(&got, None), &plain.logits(&want), 2e-5);
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

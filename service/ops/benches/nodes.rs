//! Each node beside the plain formula that its tests hold it to: forward and backward over 2048 tokens, as wide as SmolLM2.
//!
//! ```sh
//! cargo bench -p hone-ops --bench nodes
//! ```

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use hone_ops::{Document, LoraPart};
use tch::{Device, Kind, Tensor};

const TOKENS: i64 = 2048;
const HIDDEN: i64 = 576;
const INTERMEDIATE: i64 = 1536;
const VOCABULARY: i64 = 8192;
const HEADS: i64 = 9;
const KEY_HEADS: i64 = 3;
const HEAD_DIM: i64 = 64;
const RANK: i64 = 16;
const KINDS: [(&str, Kind); 2] = [("float32", Kind::Float), ("bfloat16", Kind::BFloat16)];

/// Values of a spread that weights and activations have, which want gradients.
fn random(size: &[i64], kind: Kind) -> Tensor {
    (Tensor::randn(size, (Kind::Float, Device::Cpu)) * 0.1).to_kind(kind).set_requires_grad(true)
}

/// Times a function with its backward pass into `inputs`.
fn time(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, inputs: &[&Tensor], run: impl Fn() -> Tensor) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let loss = run().sum(Kind::Float);
            black_box(Tensor::run_backward(&[loss], inputs, false, false))
        });
    });
}

fn norms(criterion: &mut Criterion) {
    for (kind_name, kind) in KINDS {
        let mut group = criterion.benchmark_group(format!("rms_norm {kind_name}"));
        let (x, weight) = (random(&[TOKENS, HIDDEN], kind), random(&[HIDDEN], kind).detach());
        time(&mut group, "node", &[&x], || hone_ops::rms_norm(&x, &weight, 1e-5, false));
        time(&mut group, "plain", &[&x], || {
            let wide = x.to_kind(Kind::Float);
            let normed = &wide * (wide.square().mean_dim(-1, true, Kind::Float) + 1e-5).rsqrt();
            normed.to_kind(kind) * &weight
        });
    }
}

fn gated_units(criterion: &mut Criterion) {
    for (kind_name, kind) in KINDS {
        let mut group = criterion.benchmark_group(format!("swiglu {kind_name}"));
        let gate_up = random(&[TOKENS, 2 * INTERMEDIATE], kind);
        time(&mut group, "node", &[&gate_up], || hone_ops::swiglu(&gate_up));
        time(&mut group, "plain", &[&gate_up], || {
            let parts = gate_up.chunk(2, -1);
            parts[0].silu() * &parts[1]
        });
    }
}

fn adapted_layers(criterion: &mut Criterion) {
    for (kind_name, kind) in KINDS {
        let mut group = criterion.benchmark_group(format!("lora_linear {kind_name}"));
        let (x, weight) = (random(&[TOKENS, HIDDEN], kind), random(&[HIDDEN, HIDDEN], kind).detach());
        let (a, b) = (random(&[RANK, HIDDEN], Kind::Float), random(&[HIDDEN, RANK], Kind::Float));
        time(&mut group, "node", &[&x, &a, &b], || {
            hone_ops::lora_linear(&x, &weight, None, &a, &[LoraPart { first_row: 0, b: &b, scale: 2.0 }], None)
        });
        time(&mut group, "plain", &[&x, &a, &b], || {
            let low = x.matmul(&a.to_kind(kind).tr()).matmul(&b.to_kind(kind).tr());
            x.matmul(&weight.tr()) + low * 2.0
        });
    }
}

fn heads(criterion: &mut Criterion) {
    for (kind_name, kind) in KINDS {
        let mut group = criterion.benchmark_group(format!("head {kind_name}"));
        group.sample_size(10);
        let (hidden, weight) = (random(&[TOKENS, HIDDEN], kind), random(&[VOCABULARY, HIDDEN], kind).detach());
        let targets = Tensor::randint(VOCABULARY, [TOKENS], (Kind::Int64, Device::Cpu));
        time(&mut group, "node", &[&hidden], || hone_ops::head_nll(&hidden, &weight, &targets, None, 512).0);
        time(&mut group, "plain", &[&hidden], || {
            let logits = hidden.matmul(&weight.tr()).to_kind(Kind::Float);
            -logits.log_softmax(-1, Kind::Float).gather(1, &targets.unsqueeze(1), false)
        });
    }
}

/// Sixteen documents of 128 tokens, and one of 2048.
fn attention(criterion: &mut Criterion) {
    for (kind_name, kind) in KINDS {
        for len in [128, TOKENS] {
            let mut group = criterion.benchmark_group(format!("attention of {len} {kind_name}"));
            group.sample_size(10);
            let count = TOKENS / len;
            let documents: Vec<Document> = (0..count).map(|i| Document { start: i * len, len, prefix: None }).collect();
            let qkv = random(&[TOKENS, (HEADS + 2 * KEY_HEADS) * HEAD_DIM], kind);
            let angles = Tensor::ones([TOKENS, HEAD_DIM / 2], (kind, Device::Cpu)) * 0.5;
            time(&mut group, "node", &[&qkv], || {
                hone_ops::rotary_attention(&qkv, (&angles, &angles), (HEADS, KEY_HEADS), &documents, None)
            });
            time(&mut group, "plain", &[&qkv], || {
                let sizes = [HEADS, KEY_HEADS, KEY_HEADS].map(|heads| heads * HEAD_DIM);
                let parts = qkv.split_with_sizes(sizes, 1);
                let heads = |x: &Tensor| x.view([count, len, -1, HEAD_DIM]).transpose(1, 2);
                let rotate = |x: &Tensor| {
                    let halves = x.view([TOKENS, -1, HEAD_DIM]).chunk(2, -1);
                    let angle = angles.unsqueeze(1);
                    Tensor::cat(
                        &[&halves[0] * &angle - &halves[1] * &angle, &halves[1] * &angle + &halves[0] * &angle],
                        -1,
                    )
                };
                let (q, k, v) = (heads(&rotate(&parts[0])), heads(&rotate(&parts[1])), heads(&parts[2]));
                Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, true, None, true)
            });
        }
    }
}

criterion_group!(benches, norms, gated_units, adapted_layers, heads, attention);
criterion_main!(benches);

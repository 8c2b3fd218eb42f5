//! What a training step costs, on a model of random weights: tokens per second, the share of the machine's measured rate
//! of matrix multiplication, and with `--ops` where the time goes.
//!
//! ```sh
//! cargo bench -p hone-trainer --bench step -- --shape smollm2 --precision bfloat16 --ops
//! ```
//!
//! docs/performance.md says how floating-point operations are counted.

#![allow(clippy::print_stdout, reason = "a table for the person who runs it")]

use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hone_data::pack::{Prefixes, pack};
use hone_data::tokenize::{Document, Example, IGNORE_INDEX};
use hone_job::spec::Lora;
use hone_trainer::loss::{Targets, token_losses};
use hone_trainer::model::{Adapter, Batch, Decoder, LoraOptions, TrainingOptions};
use hone_trainer::task::{Usage, peak_memory_bytes};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;
use tch::{Device, Kind, Tensor};

#[derive(Debug, Parser)]
struct Arguments {
    /// Which model.
    #[arg(long, value_enum, default_value_t = Shape::Small)]
    shape: Shape,
    /// Type of weights and activations.
    #[arg(long, value_enum, default_value_t = Precision::Float32)]
    precision: Precision,
    /// Steps that are timed; the median counts.
    #[arg(long, default_value_t = 7)]
    steps: usize,
    /// Documents of a step.
    #[arg(long, default_value_t = 16)]
    documents: usize,
    /// Tokens of each document; without it lengths are spread as the functions of Python's library are.
    #[arg(long)]
    length: Option<usize>,
    /// Most tokens that go through the model at once.
    #[arg(long, default_value_t = 4096)]
    tokens_per_micro_batch: usize,
    /// Makes what happens inside layers again in the backward pass.
    #[arg(long)]
    recompute: bool,
    /// Threads of LibTorch [default: its own choice].
    #[arg(long)]
    threads: Option<i32>,
    /// Shows the operators that took longest in one step.
    #[arg(long)]
    ops: bool,
    /// Shows what it costs to look at the machine.
    #[arg(long)]
    machine: bool,
    /// What cargo gives to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shape {
    /// A Llama of 6.5 million parameters.
    Small,
    /// SmolLM2-135M.
    Smollm2,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Precision {
    Float32,
    Bfloat16,
}

impl Precision {
    fn kind(self) -> Kind {
        match self {
            Precision::Float32 => Kind::Float,
            Precision::Bfloat16 => Kind::BFloat16,
        }
    }
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(threads) = arguments.threads {
        tch::set_num_threads(threads);
    }
    let model = model(arguments.shape, arguments.precision.kind());
    let options = LoraOptions::from(&Lora { rank: 16, alpha: 32.0, ..Lora::default() });
    let adapter = Adapter::new(&model, &options, 1).expect("the model takes an adapter");
    let _ = adapter.flat().shallow_clone().normal_(0.0, 0.01);
    // Other documents in every step, so that no size comes twice, as in training.
    let steps: Vec<_> =
        (0..=arguments.steps).map(|step| examples(&arguments, step as u64, model.config().vocab_size)).collect();
    let options =
        TrainingOptions { adapter: Some(&adapter), seed: 1, noise_alpha: 0.0, recomputes: arguments.recompute };
    let step = |examples: &[Example]| step(&model, &adapter, options, examples, arguments.tokens_per_micro_batch);
    step(&steps[0]);
    let mut rates: Vec<(f64, f64)> = steps[1..]
        .iter()
        .map(|examples| {
            let (tokens, seconds) =
                (examples.iter().map(Example::num_tokens).sum::<u64>() as f64, step(examples).as_secs_f64());
            (tokens / seconds, flops(&model, &adapter, examples) / seconds)
        })
        .collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (tokens_per_second, flops_per_second) = rates[rates.len() / 2];
    let rate = gemm_rate(&model);
    println!(
        "{:?} {:?}: {tokens_per_second:.0} tokens/s ({:.0} to {:.0}); {:.0} GFLOP/s of {:.0} measured, {:.0}%; peak memory {} MiB",
        arguments.shape,
        arguments.precision,
        rates[0].0,
        rates[rates.len() - 1].0,
        flops_per_second / 1e9,
        rate / 1e9,
        100.0 * flops_per_second / rate,
        peak_memory_bytes() >> 20
    );
    if arguments.ops {
        show_ops(|| step(&steps[0]));
    }
    if arguments.machine {
        show_machine();
    }
}

/// What a sample of the machine's use takes, of which a run has one in ten seconds.
fn show_machine() {
    let mut usage = Usage::new(Device::Cpu);
    let mut millis: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            let _ = usage.sample();
            1e3 * start.elapsed().as_secs_f64()
        })
        .collect();
    millis.sort_by(f64::total_cmp);
    let (median, most) = (millis[millis.len() / 2], millis[millis.len() - 1]);
    println!("a sample of the machine: {median:.2} ms (at most {most:.2}), {:.4}% of ten seconds", median / 100.0);
}

/// One step without its update: forward and backward over all micro-batches.
fn step(
    model: &Decoder,
    adapter: &Adapter,
    options: TrainingOptions<'_>,
    examples: &[Example],
    tokens_per_micro_batch: usize,
) -> Duration {
    let start = Instant::now();
    adapter.zero_grad();
    let examples: Vec<&Example> = examples.iter().collect();
    for micro_batch in pack(&examples, tokens_per_micro_batch, Prefixes::Shared) {
        let pass = model.forward_to_train(Batch::of(&micro_batch, Device::Cpu), options);
        let losses = token_losses(model, Some(adapter), pass.hidden(), &Targets::new(&micro_batch, Device::Cpu));
        losses.nll.sum(Kind::Float).backward();
        pass.backward();
    }
    start.elapsed()
}

fn show_ops(step: impl Fn() -> Duration) {
    let (all, times) = hone_ops::op_times(&step);
    println!("{:>8}  {:>6}  {:>8}  operator", "ms", "%", "calls");
    for time in times.iter().take(30) {
        let share = 100.0 * time.own.as_secs_f64() / all.as_secs_f64();
        println!("{:>8.1}  {share:>6.1}  {:>8}  {}", 1e3 * time.own.as_secs_f64(), time.calls, time.name);
    }
}

/// Floating-point operations that a step must do: 2 for each multiplication and addition of the frozen layers, forward and
/// for the gradient of the input; 6 for each weight of the adapter; those of the head where there is a target, and of
/// attention as far as documents see.
fn flops(model: &Decoder, adapter: &Adapter, examples: &[Example]) -> f64 {
    let config = model.config();
    let frozen: i64 = model.linears().map(|linear| linear.in_features * linear.out_features).sum();
    let trained = adapter.flat().numel() as f64;
    let head = (config.vocab_size * config.hidden_size) as f64;
    let attention = (config.num_hidden_layers * config.num_attention_heads * config.head_dim) as f64;
    let documents = examples.iter().flat_map(|example| &example.documents);
    documents
        .map(|document| {
            let (tokens, targets) = (document.len() as f64, document.num_targets() as f64);
            let seen = tokens * (tokens + 1.0) / 2.0;
            // Scores and values, 2 each; the backward pass makes scores again and four gradients.
            tokens * (4.0 * frozen as f64 + 6.0 * trained) + 4.0 * targets * head + 14.0 * seen * attention
        })
        .sum()
}

/// Operations per second of a matrix multiplication in the model's type, as hone's layers have it done: the median of
/// several.
fn gemm_rate(model: &Decoder) -> f64 {
    let (m, k, n) = (2048, 1024, 2048);
    let options = (model.kind(), Device::Cpu);
    let (a, b) = (Tensor::ones([m, k], options), Tensor::ones([n, k], options));
    let mut seconds: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            let _ = hone_ops::linear(&a, &b, None);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (2 * m * k * n) as f64 / seconds[seconds.len() / 2]
}

/// A length with a median of 93 and a ninth decile of 370 tokens, as the functions of Python's standard library have:
/// log-normal, by Box and Muller.
fn length(random: &mut ChaCha8Rng) -> usize {
    let mut share = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let (radius, angle) = (share(), share());
    let normal = (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
    (93.0 * (1.08 * normal).exp()).clamp(8.0, 1024.0) as usize
}

/// Documents with a prompt of a third of their length.
fn examples(arguments: &Arguments, seed: u64, vocab_size: i64) -> Vec<Example> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..arguments.documents)
        .map(|row| {
            let len = arguments.length.unwrap_or_else(|| length(&mut random));
            let input_ids: Vec<u32> = (0..len).map(|_| random.next_u32() % vocab_size as u32).collect();
            let label = |n: usize| if n < len / 3 { IGNORE_INDEX } else { i64::from(input_ids[n + 1]) };
            let labels = (0..len - 1).map(label).chain([IGNORE_INDEX]).collect();
            Example {
                documents: vec![Document { input_ids, labels }],
                object: "random".into(),
                row: row as u64,
                is_text: false,
            }
        })
        .collect()
}

fn model(shape: Shape, kind: Kind) -> Decoder {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (vocab, hidden, intermediate, layers, heads, kv_heads) = match shape {
        Shape::Small => (8192, 256, 704, 6, 8, 4),
        Shape::Smollm2 => (49152, 576, 1536, 30, 9, 3),
    };
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 8192,
        "tie_word_embeddings": true, "hidden_act": "silu", "eos_token_id": 0,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("the folder can be written");
    write_weights(folder.path(), hidden, intermediate, layers, vocab, hidden / heads * kv_heads);
    Decoder::load(folder.path(), kind, Device::Cpu, &mut |_, _| {}).expect("the folder is a model")
}

fn write_weights(folder: &Path, hidden: i64, intermediate: i64, layers: i64, vocab: i64, kv: i64) {
    let options = (Kind::Float, Device::Cpu);
    let matrix = |out: i64, input: i64| (Tensor::randn([out, input], options) * 0.02).to_kind(Kind::BFloat16);
    let norm = || Tensor::ones([hidden], options).to_kind(Kind::BFloat16);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_string(), matrix(vocab, hidden)),
        ("model.norm.weight".to_string(), norm()),
    ];
    for layer in 0..layers {
        let mut push = |name: &str, tensor| tensors.push((format!("model.layers.{layer}.{name}.weight"), tensor));
        push("input_layernorm", norm());
        push("post_attention_layernorm", norm());
        push("self_attn.q_proj", matrix(hidden, hidden));
        push("self_attn.k_proj", matrix(kv, hidden));
        push("self_attn.v_proj", matrix(kv, hidden));
        push("self_attn.o_proj", matrix(hidden, hidden));
        push("mlp.gate_proj", matrix(intermediate, hidden));
        push("mlp.up_proj", matrix(intermediate, hidden));
        push("mlp.down_proj", matrix(hidden, intermediate));
    }
    Tensor::write_safetensors(&tensors, folder.join("model.safetensors")).expect("the folder can be written");
}

//! What fresh matrices hold. Every tensor has a generator of its own, seeded by the run's seed and its name, so that its
//! values do not depend on what else is adapted or draws random numbers.

use hone_job::spec::LoraInit;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::layout::{Module, Part, name};

/// A `[rank, in]` and B `[out, rank]` of a linear layer with the frozen `weight [out, in]`, float32.
pub(super) fn linear(init: LoraInit, module: &Module, weight: &Tensor, seed: u64) -> (Tensor, Tensor) {
    let Module { path, inputs, outputs, rank, scale } = module;
    let draw = |part: Part| Draw::new(seed, &name(path, part));
    let zeros = || Tensor::zeros([*outputs, *rank], (Kind::Float, weight.device()));
    match init {
        LoraInit::Default => {
            let bound = 1.0 / (*inputs as f32).sqrt();
            (draw(Part::A).uniform(&[*rank, *inputs], bound), zeros())
        }
        LoraInit::Gaussian => (draw(Part::A).normal(&[*rank, *inputs]) / *rank as f64, zeros()),
        LoraInit::Orthogonal => orthogonal(module, draw(Part::A), draw(Part::B)),
        LoraInit::Pissa => pissa(weight, *rank, *scale),
        LoraInit::Olora => {
            let (q, r) = qr(&weight.to_kind(Kind::Float));
            (r.narrow(0, 0, *rank), q.narrow(1, 0, *rank))
        }
    }
}

/// B `[hidden, rank]` of an embedding; its A is zero.
pub(super) fn embedding(module: &Module, seed: u64) -> Tensor {
    Draw::new(seed, &name(&module.path, Part::EmbeddingB)).normal(&[module.outputs, module.rank])
}

/// With Q orthogonal `[r, r]`: A in the span of its even rows, B in that of its odd ones, so that B A is zero
/// (<https://datta0.github.io/posts/rethink-lora-init/>).
fn orthogonal(module: &Module, mut first: Draw, mut second: Draw) -> (Tensor, Tensor) {
    let Module { inputs, outputs, rank, .. } = module;
    let (q, _) = qr(&first.normal(&[*rank, *rank]));
    let rows = |from: i64| q.slice(0, from, None, 2);
    let a = first.normal(&[*inputs, rank / 2]).matmul(&rows(0)).tr() / 10.0;
    let b = second.normal(&[*outputs, rank / 2]).matmul(&rows(1)) / 10.0;
    (a, b)
}

/// `W = U S Vᵀ`: `A = √(S_r / s) V_rᵀ`, `B = U_r √(S_r / s)`, so that `s B A` is the best approximation of rank r.
fn pissa(weight: &Tensor, rank: i64, scale: f64) -> (Tensor, Tensor) {
    let (u, s, v) = weight.to_kind(Kind::Float).svd(true, true);
    let root = (s.narrow(0, 0, rank) / scale).sqrt();
    (v.narrow(1, 0, rank).tr() * root.unsqueeze(1), u.narrow(1, 0, rank) * root)
}

/// The reduced QR decomposition: Q `[m, k]`, R `[k, n]`, k the smaller of m and n.
fn qr(x: &Tensor) -> (Tensor, Tensor) {
    Tensor::linalg_qr(x, "reduced")
}

/// Random values of one tensor.
struct Draw(ChaCha8Rng);

impl Draw {
    fn new(seed: u64, name: &str) -> Draw {
        let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
        Draw(ChaCha8Rng::from_seed(key.into()))
    }

    /// In [0, 1), in steps of 2⁻²⁴.
    fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in ±bound.
    fn uniform(&mut self, shape: &[i64], bound: f32) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_: i64| bound * (2.0 * self.unit() - 1.0)).collect();
        Tensor::from_slice(&values).view(shape)
    }

    /// Standard normal, by Box and Muller's way.
    fn normal(&mut self, shape: &[i64]) -> Tensor {
        let mut one = || {
            let (u, v) = (f64::from(1.0 - self.unit()), f64::from(self.unit()));
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_: i64| one()).collect();
        Tensor::from_slice(&values).view(shape)
    }
}

//! RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467): hidden states in, the same with unit mean square, times a weight.

use tch::{Kind, Tensor};

/// `weight · cast(x / √(mean(x²) + eps))`; statistics in float32, cast to the input's type, then times the weight.
#[derive(Debug)]
pub(super) struct RmsNorm {
    /// `[E]`, or `[D]` for the norms of queries and keys.
    pub(super) weight: Tensor,
    pub(super) eps: f64,
}

impl RmsNorm {
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let wide = x.to_kind(Kind::Float);
        let mean_square = wide.square().mean_dim(-1, true, Kind::Float);
        (wide * (mean_square + self.eps).rsqrt()).to_kind(x.kind()) * &self.weight
    }
}

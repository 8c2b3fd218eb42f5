//! RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467): hidden states in, the same with unit mean square, times a weight.

use tch::{Kind, Tensor};

/// `weight · cast(x / √(mean(x²) + eps))`: statistics in float32, cast to the input's type, then times the weight.
/// Gemma's is `cast(x / √(mean(x²) + eps) · (1 + weight))`, all of it in float32.
#[derive(Debug)]
pub(super) struct RmsNorm {
    /// `[E]`, or `[D]` for the norms of queries and keys.
    pub(super) weight: Tensor,
    pub(super) eps: f64,
    /// Gemma's formula.
    pub(super) plus_one: bool,
}

impl RmsNorm {
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        if hone_ops::has_rows(x) {
            return hone_ops::rms_norm(x, &self.weight.to_kind(x.kind()), self.eps, self.plus_one);
        }
        let wide = x.to_kind(Kind::Float);
        let mean_square = wide.square().mean_dim(-1, true, Kind::Float);
        let normed = wide * (mean_square + self.eps).rsqrt();
        match self.plus_one {
            true => (normed * (self.weight.to_kind(Kind::Float) + 1.0)).to_kind(x.kind()),
            false => normed.to_kind(x.kind()) * self.weight.to_kind(x.kind()),
        }
    }
}

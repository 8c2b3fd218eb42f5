//! DoRA (Liu et al. 2024, arXiv:2402.09353): `y = (m / n) ⊙ (W x + s B A x) + bias`, with the lengths m trained and
//! `n = ‖W + s B A‖` of each row, which is held constant in the backward pass.
//!
//! n needs no product of the size of W:
//! `n² = ‖W‖² + 2 s rowdot(W Aᵀ, B) + s² rowdot(B (A Aᵀ), B)`, and the first term is known once and for all.

use tch::{Kind, Tensor};

/// The trained lengths of a layer's rows.
#[derive(Debug)]
pub(super) struct Magnitude {
    /// m, a leaf. `[out]`
    m: Tensor,
    /// `‖W‖²` of each row, float32. `[out]`
    squares: Tensor,
}

/// Keeps a row of zeros, whose length is zero, from dividing by it.
const LEAST_SQUARE: f64 = 1e-30;

impl Magnitude {
    /// Of a layer with the frozen `weight [out, in]`.
    pub(super) fn new(m: Tensor, weight: &Tensor) -> Magnitude {
        let squares = weight.to_kind(Kind::Float).square().sum_dim_intlist(1, false, Kind::Float);
        Magnitude { m, squares }
    }

    /// Sets m to the lengths that the rows have, so that the layer is what it is without.
    pub(super) fn initialise(&self, weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) {
        tch::no_grad(|| self.m.shallow_clone().copy_(&self.norms(weight, a, b, scale)));
    }

    /// `m / n`, float32. `a [rank, in]`, `b [out, rank]` -> `[out]`
    pub(super) fn gain(&self, weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Tensor {
        &self.m / self.norms(weight, a, b, scale)
    }

    fn norms(&self, weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Tensor {
        tch::no_grad(|| {
            // In the weight's type: an error in this term is small beside ‖W‖², and a float32 copy of W is not.
            let wa = weight.matmul(&a.to_kind(weight.kind()).tr()).to_kind(Kind::Float);
            let rowdot = |x: Tensor| (x * b).sum_dim_intlist(1, false, Kind::Float);
            let squares =
                &self.squares + rowdot(wa) * (2.0 * scale) + rowdot(b.matmul(&a.matmul(&a.tr()))) * scale.powi(2);
            squares.clamp_min(LEAST_SQUARE).sqrt()
        })
    }
}

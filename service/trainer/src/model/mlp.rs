//! The feed-forward block, SwiGLU (Shazeer 2020, arXiv:2002.05202): `down(silu(gate(x)) · up(x))`.

use tch::Tensor;

use super::linear::{Linear, Pass};

#[derive(Debug)]
pub(super) struct Mlp {
    /// Gate and up projection, stacked: they read the same input.
    pub(super) gate_up_proj: Linear,
    pub(super) down_proj: Linear,
}

impl Mlp {
    /// `x [T, E]` -> `[T, E]`
    pub(super) fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        let gate_up = self.gate_up_proj.forward(x, pass).chunk(2, -1);
        self.down_proj.forward(&(gate_up[0].silu() * &gate_up[1]), pass)
    }
}

//! The feed-forward block, a gated linear unit (Shazeer 2020, arXiv:2002.05202): `down(act(gate(x)) · up(x))`.

use tch::Tensor;

use super::linear::{Linear, Pass};

/// What bends the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`: SwiGLU.
    Silu,
    /// GELU in its approximation by tanh: GeGLU.
    GeluTanh,
}

impl Activation {
    fn of(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Silu => x.silu(),
            Activation::GeluTanh => x.gelu("tanh"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Mlp {
    /// Gate and up projection, stacked: they read the same input.
    pub(super) gate_up_proj: Linear,
    pub(super) down_proj: Linear,
    pub(super) activation: Activation,
}

impl Mlp {
    /// `x [T, E]` -> `[T, E]`
    pub(super) fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        let gate_up = self.gate_up_proj.forward(x, pass);
        let gated = match self.activation {
            Activation::Silu if hone_ops::has_rows(&gate_up) => hone_ops::swiglu(&gate_up),
            activation => {
                let parts = gate_up.chunk(2, -1);
                activation.of(&parts[0]) * &parts[1]
            }
        };
        self.down_proj.forward(&gated, pass)
    }
}

//! Linear layers. Projections that read the same input are stacked into one, so that it is read once.

use tch::Tensor;

use super::lora::Adapter;

/// A linear layer as a checkpoint names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearInfo {
    /// Path of the module, such as `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Inputs.
    pub in_features: i64,
    /// Outputs.
    pub out_features: i64,
}

/// What goes through all layers of one forward pass beside the hidden states.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    /// The adapter that takes part; none is the base model.
    pub(super) adapter: Option<&'a Adapter>,
    /// Decides the adapter's dropout masks; none means no dropout.
    pub(super) dropout_seed: Option<u64>,
}

/// One stacked linear layer: `y = x Wᵀ + bias`, and what the adapter adds.
#[derive(Debug)]
pub(super) struct Linear {
    /// The place of this stack in the model, by which the adapter knows it.
    pub(super) index: usize,
    /// The layers in it, in the order of their rows.
    pub(super) parts: Vec<LinearInfo>,
    /// `[out, in]`
    pub(super) weight: Tensor,
    /// `[out]`
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    /// `x [T, in]` -> `[T, out]`
    pub(super) fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        match pass.adapter.and_then(|adapter| adapter.stack(self.index)) {
            Some(stack) => stack.forward(self, x, pass.dropout_seed),
            // Trained weights are float32, whatever goes through.
            None => {
                let bias = self.bias.as_ref().map(|bias| bias.to_kind(x.kind()));
                hone_ops::linear(x, &self.weight.to_kind(x.kind()), bias.as_ref())
            }
        }
    }
}

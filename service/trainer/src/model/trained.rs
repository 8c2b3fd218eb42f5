//! What a run trains: values in a flat vector, whatever they are part of.

use tch::Tensor;

use super::full::FullWeights;
use super::lora::Adapter;

/// What a run trains. Weights and their gradients are one flat float32 vector each.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a run has one")]
pub enum Trained {
    /// An adapter beside frozen weights.
    Adapter(Adapter),
    /// All weights of the model, which are leaves then.
    Full(FullWeights),
}

impl Trained {
    /// The adapter that takes part in a pass; none where the model's own weights are trained.
    pub fn adapter(&self) -> Option<&Adapter> {
        match self {
            Trained::Adapter(adapter) => Some(adapter),
            Trained::Full(_) => None,
        }
    }

    /// All trained values in one vector, float32: what an optimizer writes to.
    pub fn flat(&self) -> &Tensor {
        match self {
            Trained::Adapter(adapter) => adapter.flat(),
            Trained::Full(full) => full.flat(),
        }
    }

    /// Their gradients, value for value; backward passes add to them until [`Trained::zero_grad`].
    pub fn flat_grad(&self) -> &Tensor {
        match self {
            Trained::Adapter(adapter) => adapter.flat_grad(),
            Trained::Full(full) => full.flat_grad(),
        }
    }

    /// Sets the gradients to zero.
    pub fn zero_grad(&self) {
        let _ = self.flat_grad().shallow_clone().zero_();
    }

    /// Trained values.
    pub fn num_parameters(&self) -> i64 {
        self.flat().numel() as i64
    }

    /// Cuts a vector like [`Trained::flat`] (the optimizer's moments, say) into views by the names in a checkpoint.
    pub fn named(&self, flat: &Tensor) -> Vec<(String, Tensor)> {
        match self {
            Trained::Adapter(adapter) => adapter.named(flat),
            Trained::Full(full) => full.named(flat),
        }
    }
}

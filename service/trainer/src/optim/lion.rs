//! Lion (Chen et al. 2023, arXiv:2302.06675, program 2): the sign of a moment, so that every weight moves by as much.
//!
//! ```text
//! u ← sign(β₁ m + (1 - β₁) g)
//! p ← p - η (u + λ p)
//! m ← β₂ m + (1 - β₂) g
//! ```

use tch::Tensor;

use super::optimizer::{Step, decay};

/// One update; the moment is m.
pub(super) fn update(step: &Step<'_>, m: &mut Tensor, beta1: f64, beta2: f64) {
    let update = (&*m * beta1 + step.gradient * (1.0 - beta1)).sign();
    decay(step);
    let _ = step.weights.shallow_clone().g_sub_(&(update * step.learning_rate));
    let _ = m.g_mul_scalar_(beta2).g_add_(&(step.gradient * (1.0 - beta2)));
}

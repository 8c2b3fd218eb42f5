//! AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101), as `torch.optim.AdamW` computes it.
//!
//! ```text
//! p ← p - η λ p
//! m ← β₁ m + (1 - β₁) g        v ← β₂ v + (1 - β₂) g²
//! p ← p - η / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)
//! ```

use tch::Tensor;

use super::optimizer::{Step, decay};

/// One update; the moments are m and v.
pub(super) fn update(step: &Step<'_>, [m, v]: [&mut Tensor; 2], beta1: f64, beta2: f64, epsilon: f64) {
    let correction1 = 1.0 - beta1.powf(step.number as f64);
    let correction2 = 1.0 - beta2.powf(step.number as f64);
    decay(step);
    let _ = m.lerp_(step.gradient, 1.0 - beta1);
    let _ = v.g_mul_scalar_(beta2).addcmul_(&(step.gradient * (1.0 - beta2)), step.gradient);
    let denominator = (v.sqrt() / correction2.sqrt()) + epsilon;
    let direction = &*m * (-step.learning_rate / correction1);
    let _ = step.weights.shallow_clone().addcdiv_(&direction, &denominator);
}

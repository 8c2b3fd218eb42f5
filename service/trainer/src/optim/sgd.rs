//! Gradient descent with momentum, as `torch.optim.SGD` computes it (without dampening).
//!
//! ```text
//! g ← g + λ p
//! b ← μ b + g                  (g itself without momentum)
//! p ← p - η b                  p ← p - η (g + μ b) with Nesterov's look ahead
//! ```

use tch::Tensor;

use super::optimizer::Step;

/// One update; the moment is b, absent without momentum.
pub(super) fn update(step: &Step<'_>, b: Option<&mut Tensor>, momentum: f64, nesterov: bool) {
    let gradient = match step.weight_decay > 0.0 {
        true => step.gradient + step.weights * step.weight_decay,
        false => step.gradient.shallow_clone(),
    };
    let direction = match b {
        None => gradient,
        Some(b) => {
            let _ = b.g_mul_scalar_(momentum).g_add_(&gradient);
            if nesterov { gradient + &*b * momentum } else { b.shallow_clone() }
        }
    };
    let _ = step.weights.shallow_clone().g_sub_(&(direction * step.learning_rate));
}

//! Clipping by the global norm (Pascanu et al. 2013, arXiv:1211.5063).

use tch::Tensor;

/// Added to the norm before dividing, as `torch.nn.utils.clip_grad_norm_` does.
const EPSILON: f64 = 1e-6;

/// Scales the gradient down to an L2 norm of `max_norm` if it is longer, and gives the norm it had. 0 means no limit.
///
/// A norm that is not finite leaves the gradient as it is: the step is to be skipped.
pub fn clip(gradient: &Tensor, max_norm: f64) -> f64 {
    let norm = gradient.norm().double_value(&[]);
    let factor = max_norm / (norm + EPSILON);
    if max_norm > 0.0 && norm.is_finite() && factor < 1.0 {
        let _ = gradient.shallow_clone().g_mul_scalar_(factor);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_gradient_is_shortened_and_a_short_one_is_left() {
        for (max_norm, want) in [(1.0, [0.6f32, 0.8]), (10.0, [3.0, 4.0]), (0.0, [3.0, 4.0])] {
            let gradient = Tensor::from_slice(&[3f32, 4.0]);
            assert_eq!(clip(&gradient, max_norm), 5.0);
            assert!(gradient.allclose(&Tensor::from_slice(&want), 1e-6, 1e-6, false), "{max_norm}: {gradient:?}");
        }
    }

    #[test]
    fn a_norm_that_is_not_finite_is_told() {
        assert!(clip(&Tensor::from_slice(&[f32::NAN, 1.0]), 1.0).is_nan());
        assert!(clip(&Tensor::from_slice(&[f32::INFINITY, 1.0]), 1.0).is_infinite());
    }
}

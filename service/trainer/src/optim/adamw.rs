//! AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) over one flat vector, as `torch.optim.AdamW` computes it.
//!
//! ```text
//! p ← p - η λ p
//! m ← β₁ m + (1 - β₁) g        v ← β₂ v + (1 - β₂) g²
//! p ← p - η / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)
//! ```

use hone_job::spec;
use tch::{Device, Kind, Tensor};

/// The moments, and the settings.
#[derive(Debug)]
pub struct AdamW {
    options: spec::Optimizer,
    /// m, float32.
    exp_avg: Tensor,
    /// v, float32.
    exp_avg_sq: Tensor,
    /// Updates made: t.
    num_updates: u64,
}

impl AdamW {
    /// No moments yet, for a vector of `len` values on `device`.
    pub fn new(options: &spec::Optimizer, len: i64, device: Device) -> AdamW {
        let zeros = || Tensor::zeros([len], (Kind::Float, device));
        AdamW { options: options.clone(), exp_avg: zeros(), exp_avg_sq: zeros(), num_updates: 0 }
    }

    /// One update of `weights` along `gradient`, both flat.
    pub fn update(&mut self, weights: &Tensor, gradient: &Tensor, learning_rate: f64) {
        let spec::Optimizer { beta1, beta2, epsilon, weight_decay, .. } = self.options;
        self.num_updates += 1;
        let correction1 = 1.0 - beta1.powf(self.num_updates as f64);
        let correction2 = 1.0 - beta2.powf(self.num_updates as f64);
        tch::no_grad(|| {
            let mut weights = weights.shallow_clone();
            if weight_decay > 0.0 {
                let _ = weights.g_mul_scalar_(1.0 - learning_rate * weight_decay);
            }
            let _ = self.exp_avg.lerp_(gradient, 1.0 - beta1);
            let _ = self.exp_avg_sq.g_mul_scalar_(beta2).addcmul_(&(gradient * (1.0 - beta2)), gradient);
            let denominator = (self.exp_avg_sq.sqrt() / correction2.sqrt()) + epsilon;
            let _ = weights.addcdiv_(&(&self.exp_avg * (-learning_rate / correction1)), &denominator);
        });
    }

    /// The first and second moments, flat. Views: a checkpoint copies from them, a resumed run into them.
    pub fn moments(&self) -> [&Tensor; 2] {
        [&self.exp_avg, &self.exp_avg_sq]
    }

    /// Updates made.
    pub fn num_updates(&self) -> u64 {
        self.num_updates
    }

    /// Goes on after so many updates; their moments are to be copied into [`AdamW::moments`].
    pub fn set_num_updates(&mut self, num_updates: u64) {
        self.num_updates = num_updates;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_formulas_written_out_for_single_numbers() {
        let options = spec::Optimizer { weight_decay: 0.1, epsilon: 1e-3, beta2: 0.99, ..spec::Optimizer::default() };
        let gradients = [[0.5f32, -2.0, 0.0], [0.1, 1.0, -1e-4], [-0.3, 0.7, 5.0]];
        let rates = [0.1, 0.05, 0.01];
        let weights = Tensor::from_slice(&[1f32, -1.0, 0.5]);
        let mut adamw = AdamW::new(&options, 3, Device::Cpu);
        let (mut want, mut m, mut v) = ([1f64, -1.0, 0.5], [0f64; 3], [0f64; 3]);
        for (t, (gradient, rate)) in gradients.iter().zip(rates).enumerate() {
            adamw.update(&weights, &Tensor::from_slice(gradient), rate);
            let t = t as i32 + 1;
            for i in 0..3 {
                let g = f64::from(gradient[i]);
                want[i] -= rate * options.weight_decay * want[i];
                m[i] = options.beta1 * m[i] + (1.0 - options.beta1) * g;
                v[i] = options.beta2 * v[i] + (1.0 - options.beta2) * g * g;
                let m_hat = m[i] / (1.0 - options.beta1.powi(t));
                let v_hat = v[i] / (1.0 - options.beta2.powi(t));
                want[i] -= rate * m_hat / (v_hat.sqrt() + options.epsilon);
            }
            for (i, want) in want.iter().enumerate() {
                let got = weights.double_value(&[i as i64]);
                assert!((got - want).abs() < 1e-6, "weight {i} after {t}: {got} against {want}");
            }
        }
    }

    #[test]
    fn a_restored_one_goes_on_to_the_bit() {
        let options = spec::Optimizer::default();
        let gradient = |i: i64| (Tensor::arange(5, (Kind::Float, Device::Cpu)) + i).sin();
        let run = |adamw: &mut AdamW, weights: &Tensor, steps: std::ops::Range<i64>| {
            steps.for_each(|i| adamw.update(weights, &gradient(i), 1e-2));
        };
        let whole = Tensor::ones([5], (Kind::Float, Device::Cpu));
        run(&mut AdamW::new(&options, 5, Device::Cpu), &whole, 0..6);

        let weights = Tensor::ones([5], (Kind::Float, Device::Cpu));
        let mut first = AdamW::new(&options, 5, Device::Cpu);
        run(&mut first, &weights, 0..3);
        let mut second = AdamW::new(&options, 5, Device::Cpu);
        for (from, to) in first.moments().into_iter().zip(second.moments()) {
            to.shallow_clone().copy_(from);
        }
        second.set_num_updates(first.num_updates());
        run(&mut second, &weights, 3..6);
        assert_eq!(weights, whole);
    }
}

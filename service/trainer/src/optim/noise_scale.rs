//! How much of a step's gradient is chance: the gradient noise scale (McCandlish et al. 2018, arXiv:1812.06162).
//!
//! The gradient of a step, G = Σ gₘ over its micro-batches, estimates the gradient of all rows. How far it is off follows from
//! how far the micro-batches differ. Micro-batch m has the share wₘ of the step's weight (targets, or pairs), so that it
//! should contribute wₘ G. The variance of G, summed over its values, is V; that of gₘ is its share of it, wₘ V, so that
//! gₘ - wₘ G has wₘ (1 - wₘ) V. Without bias, then,
//!
//! ```text
//! V = Σ |gₘ - wₘ G|² / (1 - Σ wₘ²)      and the square of the true gradient is      S = |G|² - V
//! ```
//!
//! The noise scale is the number of examples in a step at which both are equal: B = examples · V / S. One step says little;
//! [`NoiseScale`] takes the ratio of sums over many.

use std::collections::VecDeque;

use tch::{Kind, Tensor};

/// What micro-batches add to a gradient, taken apart as they come.
#[derive(Debug)]
pub struct NoiseProbe {
    /// The gradient before the next micro-batch.
    before: Tensor,
    /// Σ wₘ gₘ, with weights that do not sum to 1 yet.
    weighted: Tensor,
    /// Σ |gₘ|², on the device: reading it would wait for everything before.
    squares: Tensor,
    weights: Vec<f64>,
}

/// What one step says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseSample {
    /// Variance of the step's gradient times its examples: that of a step of one example.
    pub noise: f64,
    /// Estimate of the square of the true gradient; may be negative.
    pub signal: f64,
}

impl NoiseProbe {
    /// Before the first micro-batch of a step; the gradient is zero.
    pub fn new(gradient: &Tensor) -> NoiseProbe {
        let squares = Tensor::zeros([], (Kind::Double, gradient.device()));
        NoiseProbe { before: gradient.zeros_like(), weighted: gradient.zeros_like(), squares, weights: Vec::new() }
    }

    /// After a micro-batch of some weight, which has added to the gradient.
    pub fn add(&mut self, gradient: &Tensor, weight: f64) {
        tch::no_grad(|| {
            let own = gradient - &self.before;
            self.squares += own.dot(&own).to_kind(Kind::Double);
            let _ = self.weighted.g_add_(&(own * weight));
            self.before.copy_(gradient);
        });
        self.weights.push(weight);
    }

    /// After the last one, and before the gradient is clipped. One micro-batch says nothing.
    pub fn end(self, gradient: &Tensor, num_examples: u64) -> Option<NoiseSample> {
        let sum: f64 = self.weights.iter().sum();
        if self.weights.iter().filter(|weight| **weight > 0.0).count() < 2 {
            return None;
        }
        let dot = |one: &Tensor, other: &Tensor| one.dot(other).to_kind(Kind::Double);
        let read = Tensor::stack(&[self.squares, dot(&self.weighted, gradient) / sum, dot(gradient, gradient)], 0);
        let [squares, weighted, whole] = [0, 1, 2].map(|index| read.double_value(&[index]));
        let shares: f64 = self.weights.iter().map(|weight| (weight / sum).powi(2)).sum();
        let variance = (squares - 2.0 * weighted + whole * shares) / (1.0 - shares);
        let sample = NoiseSample { noise: variance * num_examples as f64, signal: whole - variance };
        (sample.noise.is_finite() && sample.signal.is_finite()).then_some(sample)
    }
}

/// The noise scale over the newest steps.
#[derive(Debug, Default)]
pub struct NoiseScale {
    samples: VecDeque<NoiseSample>,
}

/// What the newest steps say together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseEstimate {
    /// Examples in a step at which noise and signal are equal; none while the signal is not told apart from 0.
    pub scale: Option<f64>,
    /// Its standard error, from how the steps differ.
    pub standard_error: f64,
    /// Steps that it is taken from.
    pub steps: u64,
}

impl NoiseScale {
    /// Steps that are looked back on: the scale grows as a run goes on.
    pub const WINDOW: usize = 64;
    /// Fewest steps that say anything.
    pub const FEWEST: usize = 16;
    /// A signal is told apart from 0 when it is so many of its standard errors above it.
    const CLEAR: f64 = 2.0;

    /// Takes in a step.
    pub fn observe(&mut self, sample: NoiseSample) {
        if self.samples.len() == Self::WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// What the steps say, once there are a few.
    pub fn estimate(&self) -> Option<NoiseEstimate> {
        let count = self.samples.len() as f64;
        if self.samples.len() < Self::FEWEST {
            return None;
        }
        let sum = |of: &dyn Fn(&NoiseSample) -> f64| self.samples.iter().map(of).sum::<f64>();
        let (noise, signal) = (sum(&|one| one.noise), sum(&|one| one.signal));
        let scale = noise / signal;
        let spread = |deviation: &dyn Fn(&NoiseSample) -> f64| {
            (sum(&|one| deviation(one).powi(2)) * count / (count - 1.0)).sqrt()
        };
        // Cochran 1977, Sampling Techniques, 6.4: the error of a ratio of sums is that of the residuals' sum.
        let standard_error = spread(&|one| one.noise - scale * one.signal) / signal.abs();
        let signal_error = spread(&|one| one.signal - signal / count);
        let is_clear = signal > Self::CLEAR * signal_error && noise > 0.0;
        Some(NoiseEstimate { scale: is_clear.then_some(scale), standard_error, steps: self.samples.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::mix::mix;

    /// Normal numbers that are the same each time (Box & Muller 1958).
    fn normals(seed: u64, count: usize) -> Tensor {
        let uniform = |word: u64| ((mix(seed, word) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let normal = |n: usize| {
            let (one, other) = (uniform(2 * n as u64), uniform(2 * n as u64 + 1));
            ((-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()) as f32
        };
        Tensor::from_slice(&(0..count).map(normal).collect::<Vec<_>>())
    }

    /// A step whose examples have gradients `truth` and noise of a size, cut into micro-batches of so many examples.
    fn step(seed: u64, truth: &Tensor, noise: f64, cut: &[u64]) -> NoiseSample {
        let examples: u64 = cut.iter().sum();
        let gradient = Tensor::zeros([truth.numel() as i64], (Kind::Float, Device::Cpu));
        let mut probe = NoiseProbe::new(&gradient);
        let mut number = 0;
        for &size in cut {
            for _ in 0..size {
                let own = truth + normals(mix(seed, number), truth.numel()) * noise;
                let _ = gradient.shallow_clone().g_add_(&(own / examples as f64));
                number += 1;
            }
            probe.add(&gradient, size as f64);
        }
        probe.end(&gradient, examples).unwrap()
    }

    #[test]
    fn the_scale_of_known_noise_is_found_however_steps_are_cut() {
        // 50 values of noise 0.3: a variance of 4.5 an example; the truth has a square of 0.5: the scale is 9.
        let truth = Tensor::from_slice(&[0.1f32; 50]);
        for cut in [&[4, 4, 4, 4][..], &[7, 5, 3, 1], &[1; 16], &[12, 4]] {
            let mut scale = NoiseScale::default();
            assert_eq!(scale.estimate(), None);
            for seed in 0..60 {
                scale.observe(step(seed, &truth, 0.3, cut));
            }
            let found = scale.estimate().unwrap();
            let (value, error) = (found.scale.unwrap(), found.standard_error);
            assert!((value - 9.0).abs() < 3.0 * error && error < 3.0, "{cut:?}: {value} ± {error}");
        }
    }

    #[test]
    fn a_step_is_what_its_formula_says() {
        // Two examples of one value: 1 and 3, each a micro-batch; their mean is 2, its variance 1, the square of the truth 3.
        let gradient = Tensor::from_slice(&[0f32]);
        let mut probe = NoiseProbe::new(&gradient);
        for value in [1.0, 3.0] {
            let _ = gradient.shallow_clone().g_add_scalar_(value / 2.0);
            probe.add(&gradient, 1.0);
        }
        assert_eq!(probe.end(&gradient, 2), Some(NoiseSample { noise: 2.0, signal: 3.0 }));
        let mut alone = NoiseProbe::new(&gradient);
        alone.add(&gradient, 1.0);
        assert_eq!(alone.end(&gradient, 1), None, "one micro-batch differs from no other");
    }

    #[test]
    fn a_gradient_that_is_all_noise_has_no_scale() {
        let truth = Tensor::zeros([50], (Kind::Float, Device::Cpu));
        let mut scale = NoiseScale::default();
        (0..60).for_each(|seed| scale.observe(step(seed, &truth, 0.3, &[4, 4, 4, 4])));
        assert_eq!(scale.estimate().unwrap().scale, None);
    }

    #[test]
    fn old_steps_are_forgotten() {
        let mut scale = NoiseScale::default();
        let sample = |noise: f64| NoiseSample { noise, signal: 1.0 };
        (0..200).for_each(|_| scale.observe(sample(5.0)));
        (0..NoiseScale::WINDOW).for_each(|_| scale.observe(sample(8.0)));
        let found = scale.estimate().unwrap();
        assert_eq!((found.scale, found.standard_error, found.steps), (Some(8.0), 0.0, NoiseScale::WINDOW as u64));
    }
}

//! Rotary position embedding: positions in, cosines and sines out; and the rotation of queries and keys by them.
//!
//! Su et al. 2021, arXiv:2104.09864, in the layout of Hugging Face checkpoints: dimension i is paired with i + D/2.
//! Frequencies follow transformers' `modeling_rope_utils.py`. Tensor shapes: T tokens, D head dim.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

/// How fast each pair of dimensions turns.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// What changes it for longer contexts.
    pub scaling: Scaling,
}

/// Changes of the frequencies for contexts longer than the model was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// None.
    Default,
    /// All frequencies divided (position interpolation).
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Long wavelengths divided, short ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context of the first training, in tokens.
        original_max_position_embeddings: f64,
    },
    /// Interpolation by wavelength with a ramp over dimensions (arXiv:2309.00071).
    Yarn {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Multiplies cosine and sine.
        attention_factor: f64,
        /// Turns in the original context above which a pair is kept.
        beta_fast: f64,
        /// Turns below which a pair is divided.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
        /// Context of the first training, in tokens.
        original_max_position_embeddings: f64,
    },
    /// A divisor for each pair, as GGUF files store it (Llama 3.1 and later).
    Factors(Vec<f64>),
}

impl Scaling {
    /// YaRN's factor on cosine and sine when the configuration gives none: `0.1 ln(factor) + 1`, or a ratio of two such.
    pub fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
        let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        match (mscale, mscale_all_dim) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => scale(one) / scale(all),
            _ => scale(1.0),
        }
    }

    fn attention_factor(&self) -> f64 {
        match self {
            Scaling::Yarn { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }
}

impl Rope {
    /// What makes the parameters unusable, if anything.
    pub(super) fn problem(&self) -> Option<String> {
        let positive: &[(&str, f64)] = match &self.scaling {
            Scaling::Default => &[],
            Scaling::Linear { factor } => &[("factor", *factor)],
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => &[
                ("factor", *factor),
                ("low_freq_factor", *low_freq_factor),
                ("high_freq_factor - low_freq_factor", high_freq_factor - low_freq_factor),
                ("original_max_position_embeddings", *original_max_position_embeddings),
            ],
            Scaling::Yarn { factor, beta_fast, beta_slow, original_max_position_embeddings, .. } => &[
                ("factor", *factor),
                ("beta_fast", *beta_fast),
                ("beta_slow", *beta_slow),
                ("original_max_position_embeddings", *original_max_position_embeddings),
            ],
            Scaling::Factors(factors) => &[("the least factor", factors.iter().copied().fold(f64::INFINITY, f64::min))],
        };
        if !(self.theta > 1.0 && self.theta.is_finite()) {
            return Some(format!("rope_theta is {}; it must be above 1", self.theta));
        }
        let bad = positive.iter().find(|(_, value)| !(*value > 0.0 && value.is_finite()))?;
        Some(format!("rope scaling: {} is {}; it must be positive", bad.0, bad.1))
    }

    /// Radians by which each pair turns for one position. `[D/2]`
    pub fn inverse_frequencies(&self, head_dim: i64) -> Vec<f64> {
        let dim = head_dim as f64;
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / dim));
        match &self.scaling {
            Scaling::Default => plain.collect(),
            Scaling::Linear { factor } => plain.map(|inverse| inverse / factor).collect(),
            Scaling::Factors(factors) => plain.zip(factors).map(|(inverse, factor)| inverse / factor).collect(),
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => plain
                .map(|inverse| {
                    let turns = original_max_position_embeddings * inverse / TAU;
                    let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    (1.0 - kept) * inverse / factor + kept * inverse
                })
                .collect(),
            Scaling::Yarn { factor, beta_fast, beta_slow, truncate, original_max_position_embeddings, .. } => {
                let dimension = |turns: f64| {
                    dim * (original_max_position_embeddings / (turns * TAU)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                plain
                    .enumerate()
                    .map(|(i, inverse)| {
                        let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        inverse / factor * divided + inverse * (1.0 - divided)
                    })
                    .collect()
            }
        }
    }
}

/// Makes the tables of a batch.
#[derive(Debug)]
pub(super) struct Rotary {
    /// float32 `[1, D/2]`
    inverse_frequencies: Tensor,
    attention_factor: f64,
    kind: Kind,
}

/// Cosine and sine of each token's angles, in the activations' type. `[T, D/2]` each
#[derive(Debug)]
pub(super) struct Tables {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    pub(super) fn new(rope: &Rope, head_dim: i64, kind: Kind, device: Device) -> Rotary {
        let frequencies: Vec<f32> = rope.inverse_frequencies(head_dim).iter().map(|&value| value as f32).collect();
        Rotary {
            inverse_frequencies: Tensor::from_slice(&frequencies).unsqueeze(0).to_device(device),
            attention_factor: rope.scaling.attention_factor(),
            kind,
        }
    }

    /// Angles and their functions are float32, cast last.
    pub(super) fn tables(&self, position_ids: &Tensor) -> Tables {
        let angles = position_ids.to_kind(Kind::Float).unsqueeze(1) * &self.inverse_frequencies;
        Tables {
            cos: (angles.cos() * self.attention_factor).to_kind(self.kind),
            sin: (angles.sin() * self.attention_factor).to_kind(self.kind),
        }
    }
}

impl Tables {
    /// Turns the heads of `x [T, heads, D]`: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), halves of D.
    pub(super) fn rotate(&self, x: &Tensor) -> Tensor {
        let (cos, sin) = (self.cos.unsqueeze(1), self.sin.unsqueeze(1));
        let halves = x.chunk(2, -1);
        let (first, second) = (&halves[0], &halves[1]);
        Tensor::cat(&[first * &cos - second * &sin, second * &cos + first * &sin], -1)
    }
}

#[cfg(test)]
mod tests;

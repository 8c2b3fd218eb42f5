//! Rotary position embedding: positions in, cosines and sines out; and the rotation of queries and keys by them.
//!
//! Su et al. 2021, arXiv:2104.09864, in the layout of Hugging Face checkpoints: dimension i is paired with i + D/2.
//! Frequencies follow transformers' `modeling_rope_utils.py`. Some depend on how long a text is; that is each document's own
//! length, so that a pack never changes them. Tensor shapes: T tokens, D head dim, R the part of it that is turned.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

/// How fast each pair of dimensions turns.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Dimensions of each head that are turned, the first ones; even, mostly all.
    pub rotary_dim: i64,
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
    /// A longer text raises the base, so that the longest wavelengths reach over it ("dynamic NTK").
    Dynamic {
        /// How far a text of one more context's length stretches the base.
        factor: f64,
        /// Texts up to here change nothing, in tokens.
        max_position_embeddings: f64,
    },
    /// A divisor for each pair, one set for short texts and one for long ones (arXiv:2402.13753; Phi-3).
    LongRope {
        /// Divisors in texts of up to the original context.
        short_factor: Vec<f64>,
        /// Divisors in longer ones.
        long_factor: Vec<f64>,
        /// Multiplies cosine and sine.
        attention_factor: f64,
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

    /// LongRoPE's factor on cosine and sine when the configuration gives none: `√(1 + ln factor / ln original)`.
    pub fn longrope_attention_factor(factor: f64, original_max_position_embeddings: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_max_position_embeddings.ln()).sqrt() }
    }

    fn attention_factor(&self) -> f64 {
        match self {
            Scaling::Yarn { attention_factor, .. } | Scaling::LongRope { attention_factor, .. } => *attention_factor,
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
            Scaling::Yarn {
                factor, attention_factor, beta_fast, beta_slow, original_max_position_embeddings, ..
            } => &[
                ("factor", *factor),
                ("attention_factor", *attention_factor),
                ("beta_fast", *beta_fast),
                ("beta_slow", *beta_slow),
                ("original_max_position_embeddings", *original_max_position_embeddings),
            ],
            Scaling::Dynamic { factor, max_position_embeddings } => &[
                ("factor", *factor),
                ("max_position_embeddings", *max_position_embeddings),
                ("the number of turned dimensions above 2", (self.rotary_dim - 2) as f64),
            ],
            Scaling::LongRope { short_factor, long_factor, attention_factor, original_max_position_embeddings } => &[
                ("the least short_factor", least(short_factor)),
                ("the least long_factor", least(long_factor)),
                ("attention_factor", *attention_factor),
                ("original_max_position_embeddings", *original_max_position_embeddings),
            ],
            Scaling::Factors(factors) => &[("the least factor", least(factors))],
        };
        if !(self.theta > 1.0 && self.theta.is_finite()) {
            return Some(format!("rope_theta is {}; it must be above 1", self.theta));
        }
        if let Some(len) =
            self.factor_lists().iter().map(|list| list.len() as i64).find(|len| *len != self.rotary_dim / 2)
        {
            return Some(format!("rope scaling: {len} factors for {} pairs of dimensions", self.rotary_dim / 2));
        }
        let bad = positive.iter().find(|(_, value)| !(*value > 0.0 && value.is_finite()))?;
        Some(format!("rope scaling: {} is {}; it must be positive", bad.0, bad.1))
    }

    fn factor_lists(&self) -> Vec<&Vec<f64>> {
        match &self.scaling {
            Scaling::LongRope { short_factor, long_factor, .. } => vec![short_factor, long_factor],
            Scaling::Factors(factors) => vec![factors],
            _ => Vec::new(),
        }
    }

    /// Whether the frequencies follow from the length of the text.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.scaling, Scaling::Dynamic { .. } | Scaling::LongRope { .. })
    }

    /// Radians by which each pair turns for one position, in a text of `len` tokens. `[R/2]`
    pub fn inverse_frequencies(&self, len: i64) -> Vec<f64> {
        let dim = self.rotary_dim as f64;
        let series = |theta: f64| (0..self.rotary_dim / 2).map(move |i| theta.powf(-2.0 * i as f64 / dim));
        let plain = series(self.theta);
        match &self.scaling {
            Scaling::Default => plain.collect(),
            Scaling::Dynamic { factor, max_position_embeddings: most } => {
                let stretch = factor * (len as f64).max(*most) / most - (factor - 1.0);
                series(self.theta * stretch.powf(dim / (dim - 2.0))).collect()
            }
            Scaling::LongRope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                let long = len as f64 > *original_max_position_embeddings;
                let factors = if long { long_factor } else { short_factor };
                plain.zip(factors).map(|(inverse, factor)| inverse / factor).collect()
            }
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

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Makes the tables of a batch.
#[derive(Debug)]
pub(super) struct Rotary {
    rope: Rope,
    /// float32 `[1, R/2]`; none when they depend on the length of a text.
    inverse_frequencies: Option<Tensor>,
    kind: Kind,
    device: Device,
}

/// Cosine and sine of each token's angles, in the activations' type. `[T, R/2]` each
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Rotary {
    pub(super) fn new(rope: &Rope, kind: Kind, device: Device) -> Rotary {
        let inverse_frequencies = (!rope.depends_on_length()).then(|| frequencies(rope, 0).to_device(device));
        Rotary { rope: rope.clone(), inverse_frequencies, kind, device }
    }

    /// Angles and their functions are float32, cast last. `lengths` are tokens in a row and the length of the texts that
    /// they belong to, covering the T positions.
    pub(super) fn tables(&self, position_ids: &Tensor, lengths: impl IntoIterator<Item = (i64, i64)>) -> Tables {
        let inverse = match &self.inverse_frequencies {
            Some(inverse) => inverse.shallow_clone(),
            None => {
                let rows =
                    lengths.into_iter().map(|(tokens, len)| frequencies(&self.rope, len).expand([tokens, -1], false));
                Tensor::cat(&rows.collect::<Vec<_>>(), 0).to_device(self.device)
            }
        };
        let angles = position_ids.to_kind(Kind::Float).unsqueeze(1) * inverse;
        let factor = self.rope.scaling.attention_factor();
        Tables { cos: (angles.cos() * factor).to_kind(self.kind), sin: (angles.sin() * factor).to_kind(self.kind) }
    }
}

/// float32 `[1, R/2]`
fn frequencies(rope: &Rope, len: i64) -> Tensor {
    let frequencies: Vec<f32> = rope.inverse_frequencies(len).iter().map(|&value| value as f32).collect();
    Tensor::from_slice(&frequencies).unsqueeze(0)
}

impl Tables {
    /// Turns the heads of `x [T, heads, D]`: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), halves of the first R
    /// dimensions; the others stay.
    pub(super) fn rotate(&self, x: &Tensor) -> Tensor {
        let (cos, sin) = (self.cos.unsqueeze(1), self.sin.unsqueeze(1));
        let (half, dim) = (cos.size()[2], x.size()[2]);
        let parts = x.split_with_sizes([half, half, dim - 2 * half], -1);
        let (first, second) = (&parts[0], &parts[1]);
        let turned = [first * &cos - second * &sin, second * &cos + first * &sin];
        match dim - 2 * half {
            0 => Tensor::cat(&turned, -1),
            _ => Tensor::cat(&[&turned[0], &turned[1], &parts[2]], -1),
        }
    }
}

#[cfg(test)]
mod tests;

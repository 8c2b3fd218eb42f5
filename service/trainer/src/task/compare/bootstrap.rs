//! How sure a difference is: the rows are drawn again, with replacement, and the figure taken of each sample; its 2.5th and
//! 97.5th percentiles are the ends of the interval (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).
//! Both models are measured on the same draws, so what makes a row easy or hard for both cancels.

use hone_job::score::Interval;

use crate::mix::mix;

/// Most samples.
const MOST_SAMPLES: usize = 10_000;
/// Fewest samples, of many rows.
const FEWEST_SAMPLES: usize = 1_000;
/// Draws that all samples of an interval may take, within these bounds.
const DRAWS: usize = 20_000_000;
/// Share of the samples that lie below an interval, and above it.
const TAIL: f64 = 0.025;

/// Draws samples; the same ones for the same number of rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bootstrap {
    seed: u64,
}

impl Bootstrap {
    pub(super) fn new(seed: u64) -> Bootstrap {
        Bootstrap { seed }
    }

    /// `Σ numerators / Σ denominators` over rows, each of which has one of both, with its interval.
    pub(super) fn ratio(self, rows: &[(f64, f64)]) -> Interval {
        let sum = |mut taken: &mut dyn Iterator<Item = (f64, f64)>| {
            let (above, below) = (&mut taken).fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
            above / below
        };
        let difference = sum(&mut rows.iter().copied());
        let count = rows.len();
        let num_samples = (DRAWS / count.max(1)).clamp(FEWEST_SAMPLES, MOST_SAMPLES);
        let sample = |number: usize| {
            let state = mix(self.seed, number as u64);
            let draw = |n: usize| rows[((u128::from(mix(state, n as u64)) * count as u128) >> 64) as usize];
            sum(&mut (0..count).map(draw))
        };
        let mut samples: Vec<f64> = (0..num_samples).map(sample).collect();
        samples.sort_unstable_by(f64::total_cmp);
        let place = (num_samples as f64 * TAIL) as usize;
        Interval { difference, low: samples[place], high: samples[num_samples - 1 - place] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_wide_as_the_standard_error_says() {
        // 400 rows of variance 1/12 around 1/2: 1.96 standard errors of the mean are 0.0283.
        let rows: Vec<_> = (0..400).map(|n| ((f64::from(n) + 0.5) / 400.0, 1.0)).collect();
        let Interval { difference, low, high } = Bootstrap::new(1).ratio(&rows);
        assert!((difference - 0.5).abs() < 1e-12);
        let expected = 1.96 * (1.0f64 / 12.0 / 400.0).sqrt();
        for half in [difference - low, high - difference] {
            assert!((half / expected - 1.0).abs() < 0.06, "{half} beside {expected}");
        }
    }

    #[test]
    fn rows_weigh_by_their_denominator_and_what_never_varies_has_no_width() {
        let rows = [(2.0, 1.0), (30.0, 15.0), (8.0, 4.0)];
        assert_eq!(Bootstrap::new(3).ratio(&rows), Interval { difference: 2.0, low: 2.0, high: 2.0 });
        let uneven = Bootstrap::new(3).ratio(&[(0.0, 1.0), (30.0, 9.0)]);
        assert_eq!((uneven.difference, uneven.low), (3.0, 0.0));
    }

    #[test]
    fn a_seed_gives_one_interval() {
        let rows: Vec<_> = (0..50).map(|n| (f64::from(n * n % 17), 1.0)).collect();
        assert_eq!(Bootstrap::new(5).ratio(&rows), Bootstrap::new(5).ratio(&rows));
        assert_ne!(Bootstrap::new(5).ratio(&rows), Bootstrap::new(6).ratio(&rows));
    }

    /// Nineteen of twenty intervals hold the truth, give or take what their number allows.
    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let value = |trial: u64, n: u64| (mix(mix(9, trial), n) >> 11) as f64 / (1u64 << 53) as f64;
        let trials = 200;
        let holds = |trial: &u64| {
            let rows: Vec<_> = (0..60).map(|n| (value(*trial, n), 1.0)).collect();
            let Interval { low, high, .. } = Bootstrap::new(*trial).ratio(&rows);
            low <= 0.5 && 0.5 <= high
        };
        let held = (0..trials).filter(holds).count();
        assert!((180..=198).contains(&held), "{held} of {trials}");
    }
}

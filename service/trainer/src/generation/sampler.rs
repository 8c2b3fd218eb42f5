//! One token after another: what is likely next in, one of it out.

use std::collections::BTreeSet;

use hone_job::spec::Sampling;

use crate::mix::mix;

/// So many of the likeliest tokens are sorted before all are.
const FEW: usize = 512;

/// Chooses the tokens of one text.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    sampling: Sampling,
    /// Seed of this text.
    seed: u64,
    /// Tokens that stand in the prompt or the text, where that matters.
    seen: BTreeSet<u32>,
    /// Tokens chosen so far.
    chosen: u64,
}

impl Sampler {
    /// For the text that a prompt begins. Of texts with the same seed each has a number.
    pub(super) fn new(sampling: &Sampling, number: u64, prompt: &[u32]) -> Sampler {
        let matters = sampling.repetition_penalty != 1.0;
        let seen = if matters { prompt.iter().copied().collect() } else { BTreeSet::new() };
        Sampler { sampling: sampling.clone(), seed: mix(sampling.seed, number), seen, chosen: 0 }
    }

    /// The next token of a text whose likely ones have `logits`, one for each token there is.
    pub(super) fn choose(&mut self, logits: &mut [f32]) -> u32 {
        self.penalise(logits);
        let token = match self.sampling.temperature {
            0.0 => likeliest(logits),
            temperature => self.draw(logits, temperature),
        };
        self.chosen += 1;
        if self.sampling.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        token
    }

    fn penalise(&self, logits: &mut [f32]) {
        let penalty = self.sampling.repetition_penalty as f32;
        for &token in &self.seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    fn draw(&self, logits: &[f32], temperature: f64) -> u32 {
        let kept = self.kept(logits, temperature);
        let sum: f64 = kept.iter().map(|(_, weight)| weight).sum();
        // 53 bits of chance, in [0, 1).
        let mut point = (mix(self.seed, self.chosen) >> 11) as f64 / (1u64 << 53) as f64 * sum;
        for (token, weight) in &kept {
            point -= weight;
            if point < 0.0 {
                return *token;
            }
        }
        // What rounding left over.
        kept.last().map_or(0, |(token, _)| *token)
    }

    /// Tokens that may be taken, with their probabilities over that of the likeliest, in an order that is the same each time.
    fn kept(&self, logits: &[f32], temperature: f64) -> Vec<(u32, f64)> {
        let Sampling { top_k, top_p, min_p, .. } = self.sampling;
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let weight = |logit: f32| ((f64::from(logit) - largest) / temperature).exp();
        let mut kept: Vec<(u32, f64)> =
            logits.iter().enumerate().map(|(token, logit)| (token as u32, weight(*logit))).collect();
        if top_k > 0 && (top_k as usize) < kept.len() {
            // Those as likely as the last one that is kept are kept too, as in transformers.
            let mut weights: Vec<f64> = kept.iter().map(|(_, weight)| *weight).collect();
            let (_, least, _) = weights.select_nth_unstable_by(top_k as usize - 1, |one, other| other.total_cmp(one));
            let least = *least;
            kept.retain(|(_, weight)| *weight >= least);
        }
        if top_p < 1.0 {
            keep_top_p(&mut kept, top_p);
        }
        kept.retain(|(_, weight)| *weight >= min_p);
        kept
    }
}

/// The first of the likeliest tokens.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// Keeps the likeliest tokens, until those before one have a share of `top_p` or more.
fn keep_top_p(kept: &mut Vec<(u32, f64)>, top_p: f64) {
    let sum: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let order = |one: &(u32, f64), other: &(u32, f64)| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0));
    let count = |sorted: &[(u32, f64)]| {
        let mut before = 0.0;
        sorted.iter().position(|(_, weight)| {
            let is_enough = before >= top_p * sum;
            before += weight;
            is_enough
        })
    };
    // Of a hundred thousand tokens few are likely: the others are sorted only where they are needed.
    if kept.len() > FEW {
        kept.select_nth_unstable_by(FEW - 1, order);
        kept[..FEW].sort_unstable_by(order);
        if let Some(count) = count(&kept[..FEW]) {
            return kept.truncate(count);
        }
    }
    kept.sort_unstable_by(order);
    if let Some(count) = count(kept) {
        kept.truncate(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(&sampling, 0, &[2, 2, 5])
    }

    fn sampling() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    fn tokens(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        let temperature = sampling.temperature;
        let mut kept: Vec<u32> = sampler(sampling).kept(logits, temperature).iter().map(|(token, _)| *token).collect();
        kept.sort_unstable();
        kept
    }

    /// Logits of the probabilities 0.4, 0.3, 0.15, 0.1, 0.05.
    fn known() -> [f32; 5] {
        [0.1f32, 0.4, 0.05, 0.3, 0.15].map(f32::ln)
    }

    #[test]
    fn what_is_unlikely_is_left_out_as_each_rule_says() {
        let all = [0, 1, 2, 3, 4];
        assert_eq!(tokens(sampling(), &known()), all);
        assert_eq!(tokens(Sampling { top_k: 2, ..sampling() }, &known()), [1, 3]);
        assert_eq!(tokens(Sampling { top_k: 9, ..sampling() }, &known()), all);
        assert_eq!(tokens(Sampling { top_k: 1, ..sampling() }, &[3.0, 1.0, 3.0]), [0, 2], "ties stay");
        assert_eq!(tokens(Sampling { top_p: 0.39, ..sampling() }, &known()), [1], "one is always left");
        assert_eq!(tokens(Sampling { top_p: 0.6, ..sampling() }, &known()), [1, 3]);
        assert_eq!(tokens(Sampling { top_p: 0.75, ..sampling() }, &known()), [1, 3, 4]);
        assert_eq!(tokens(Sampling { min_p: 0.3, ..sampling() }, &known()), [1, 3, 4], "0.3 of 0.4 is 0.12");
        // The temperature comes first: at 0.5 probabilities are squared, 0.16 of 0.2875 in all.
        assert_eq!(tokens(Sampling { top_p: 0.55, temperature: 0.5, ..sampling() }, &known()), [1]);
        assert_eq!(tokens(Sampling { top_p: 0.58, temperature: 0.5, ..sampling() }, &known()), [1, 3]);
    }

    #[test]
    fn a_few_of_many_tokens_are_the_same_few() {
        let logits: Vec<f32> = (0..5000u64).map(|n| (mix(3, n) >> 40) as f32 / 1e6).collect();
        for top_p in [0.01, 0.3, 0.9, 0.999_999] {
            let mut plain: Vec<(u32, f64)> = sampler(sampling()).kept(&logits, 1.0);
            plain.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
            let sum: f64 = plain.iter().map(|(_, weight)| weight).sum();
            let mut before = 0.0;
            plain.retain(|(_, weight)| {
                before += weight;
                before - weight < top_p * sum
            });
            let mut plain: Vec<u32> = plain.iter().map(|(token, _)| *token).collect();
            plain.sort_unstable();
            assert_eq!(tokens(Sampling { top_p, ..sampling() }, &logits), plain, "{top_p}");
        }
    }

    #[test]
    fn draws_are_as_frequent_as_they_are_likely() {
        let mut sampler = sampler(sampling());
        let mut counts = [0u32; 5];
        for _ in 0..20_000 {
            counts[sampler.choose(&mut known()) as usize] += 1;
        }
        for (count, logit) in counts.iter().zip(known()) {
            let expected = f64::from(logit.exp());
            let error = (expected * (1.0 - expected) / 20_000.0).sqrt();
            assert!((f64::from(*count) / 20_000.0 - expected).abs() < 4.0 * error, "{counts:?}");
        }
    }

    #[test]
    fn a_seed_and_a_number_give_one_text() {
        let text = |seed: u64, number: u64| {
            let mut sampler = Sampler::new(&Sampling { seed, ..sampling() }, number, &[]);
            (0..40).map(|_| sampler.choose(&mut known())).collect::<Vec<_>>()
        };
        assert_eq!(text(7, 0), text(7, 0));
        assert_ne!(text(7, 0), text(7, 1));
        assert_ne!(text(7, 0), text(8, 0));
    }

    #[test]
    fn what_stood_before_is_less_likely_again() {
        let penalty = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut sampler = Sampler::new(&penalty, 0, &[1]);
        let logits = || [1.0f32, 1.9, 0.8, -0.1];
        assert_eq!(sampler.choose(&mut logits()), 0, "1.9 became 0.95");
        assert_eq!(sampler.choose(&mut logits()), 1, "1 became 0.5, too");
        let mut below = [-1.0f32, -0.6];
        assert_eq!(Sampler::new(&penalty, 0, &[1]).choose(&mut below), 0, "-0.6 became -1.2");
        assert_eq!(Sampler::new(&Sampling::default(), 0, &[1]).choose(&mut logits()), 1);
    }
}

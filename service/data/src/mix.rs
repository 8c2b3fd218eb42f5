//! Mixing sources: their sizes and weights go in, the order of an epoch comes out.
//!
//! As datasets' `interleave_datasets` with probabilities, but without dice: at each place comes the source that is furthest
//! behind its share, so that every stretch of an epoch holds the shares, not the whole alone. Within a source the examples
//! come in the run's order, pass after pass: what an epoch leaves of a source comes first in the next. All of it follows from
//! sizes, weights, seed and epoch, so that a cursor resumes it.

use hone_job::spec::{Mix, MixUntil, Order};

use crate::order::source_permutation;

/// Most examples of a mixed epoch. A small weight on a large source, with all rows asked for, would make an endless one.
pub const MAX_EPOCH: usize = 1 << 28;

/// Sources mixed by weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// Examples of each source; those of the first come first among all examples.
    sizes: Vec<usize>,
    /// The source at each place of an epoch.
    places: Vec<u16>,
}

/// Why sources cannot be mixed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A source has nothing to give.
    #[error("source {} of data.train has no usable rows, so it cannot be mixed in", .0 + 1)]
    Empty(usize),
    /// An epoch would have no end.
    #[error(
        "an epoch would have {0} examples, more than {MAX_EPOCH}; bring the weights closer to the sizes of the sources"
    )]
    TooLong(u128),
}

impl Mixture {
    /// Mixes sources of these sizes, one for each weight.
    pub fn new(sizes: &[usize], mix: &Mix) -> Result<Self, Error> {
        if let Some(empty) = sizes.iter().position(|size| *size == 0) {
            return Err(Error::Empty(empty));
        }
        let total: f64 = mix.weights.iter().sum();
        let shares: Vec<f64> = mix.weights.iter().map(|weight| weight / total).collect();
        let until_exhausted = sizes.iter().zip(&shares).map(|(size, share)| *size as f64 / share);
        let longest = match mix.until {
            MixUntil::FirstExhausted => until_exhausted.fold(f64::INFINITY, f64::min),
            MixUntil::AllExhausted => until_exhausted.fold(0.0, f64::max),
        };
        if longest > MAX_EPOCH as f64 {
            return Err(Error::TooLong(longest as u128));
        }
        Ok(Self { sizes: sizes.to_vec(), places: places(sizes, &shares, mix.until) })
    }

    /// Examples of an epoch.
    pub fn num_examples(&self) -> usize {
        self.places.len()
    }

    /// Examples that an epoch takes of each source.
    pub fn taken(&self) -> Vec<usize> {
        let mut taken = vec![0; self.sizes.len()];
        self.places.iter().for_each(|&source| taken[usize::from(source)] += 1);
        taken
    }

    /// The examples of an epoch in order, as indices among the examples of all sources.
    pub fn order(&self, order: Order, seed: u64, epoch: u64) -> Vec<u32> {
        let mut first = 0;
        let mut streams: Vec<_> = self
            .sizes
            .iter()
            .zip(self.taken())
            .enumerate()
            .map(|(source, (&size, taken))| {
                let examples = endless(order, seed, source, size, epoch, taken);
                let offset = first;
                first += size as u32;
                examples.map(move |index| offset + index)
            })
            .collect();
        self.places.iter().filter_map(|&source| streams[usize::from(source)].next()).collect()
    }
}

/// The examples of a source without end, from where earlier epochs left it.
fn endless(order: Order, seed: u64, source: usize, size: usize, epoch: u64, taken: usize) -> impl Iterator<Item = u32> {
    let before = u128::from(epoch) * taken as u128;
    let (pass, position) = ((before / size as u128) as u64, (before % size as u128) as usize);
    let passes = (pass..).flat_map(move |pass| source_permutation(order, seed, source as u64 + 1, pass, size));
    passes.skip(position)
}

/// Puts the source that is furthest behind its share at each place, until the first or the last is exhausted.
fn places(sizes: &[usize], shares: &[f64], until: MixUntil) -> Vec<u16> {
    let mut taken = vec![0usize; sizes.len()];
    let mut places = Vec::new();
    loop {
        let behind = |source: usize| shares[source] * (places.len() + 1) as f64 - taken[source] as f64;
        // The first of equals, so that the order never depends on how a library breaks ties.
        let next = (1..sizes.len()).fold(0, |best, source| if behind(source) > behind(best) { source } else { best });
        let is_over = match until {
            MixUntil::FirstExhausted => taken[next] == sizes[next],
            MixUntil::AllExhausted => taken.iter().zip(sizes).all(|(taken, size)| taken >= size),
        };
        if is_over {
            return places;
        }
        taken[next] += 1;
        places.push(next as u16);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::order::{Cursor, Sequence};

    fn mix(weights: &[f64], until: MixUntil) -> Mix {
        Mix { weights: weights.to_vec(), until }
    }

    fn mixture(sizes: &[usize], weights: &[f64], until: MixUntil) -> Mixture {
        Mixture::new(sizes, &mix(weights, until)).unwrap()
    }

    #[test]
    fn an_epoch_ends_with_the_first_or_the_last_exhausted_source() {
        let first = mixture(&[10, 100], &[1.0, 3.0], MixUntil::FirstExhausted);
        assert_eq!(first.taken()[0], 10);
        assert!((30..=33).contains(&first.taken()[1]), "{:?}", first.taken());
        let all = mixture(&[10, 100], &[1.0, 3.0], MixUntil::AllExhausted);
        assert_eq!(all.taken()[1], 100);
        assert!((32..=34).contains(&all.taken()[0]), "{:?}", all.taken());
        assert_eq!(mixture(&[4, 4], &[1.0, 1.0], MixUntil::FirstExhausted).taken(), [4, 4]);
    }

    #[test]
    fn an_order_never_changes() {
        // Checkpoints refer to it: if this fails, old runs no longer resume where they stopped.
        let mixture = mixture(&[4, 6], &[1.0, 2.0], MixUntil::FirstExhausted);
        assert_eq!(mixture.places, [1, 0, 1, 1, 0, 1, 1, 0, 1]);
        assert_eq!(mixture.order(Order::Sequential, 42, 0), [4, 0, 5, 6, 1, 7, 8, 2, 9]);
        assert_eq!(mixture.order(Order::Sequential, 42, 1), [4, 3, 5, 6, 0, 7, 8, 1, 9]);
        assert_ne!(mixture.order(Order::Shuffled, 42, 0), mixture.order(Order::Shuffled, 42, 1));
        assert_ne!(mixture.order(Order::Shuffled, 42, 0), mixture.order(Order::Shuffled, 43, 0));
    }

    #[test]
    fn what_cannot_be_mixed_is_named() {
        let error = |sizes: &[usize], weights: &[f64]| {
            Mixture::new(sizes, &mix(weights, MixUntil::AllExhausted)).unwrap_err().to_string()
        };
        assert!(error(&[3, 0], &[1.0, 1.0]).contains("source 2 of data.train has no usable rows"));
        assert!(error(&[1 << 20, 1], &[1e-3, 1e3]).contains("an epoch would have"));
    }

    fn sources() -> impl Strategy<Value = Vec<(usize, f64)>> {
        prop::collection::vec((1usize..40, 0.1f64..10.0), 1..5)
    }

    proptest! {
        #[test]
        fn no_stretch_from_the_start_takes_more_than_its_share(sources in sources(), all: bool) {
            let (sizes, weights): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
            let until = if all { MixUntil::AllExhausted } else { MixUntil::FirstExhausted };
            let mixture = mixture(&sizes, &weights, until);
            let total: f64 = weights.iter().sum();
            let mut taken = vec![0usize; sizes.len()];
            for (place, &source) in mixture.places.iter().enumerate() {
                let source = usize::from(source);
                taken[source] += 1;
                let share = weights[source] / total * (place + 1) as f64;
                prop_assert!((taken[source] as f64) < share + 1.0 + 1e-6, "{taken:?} at {place}");
            }
            let exhausted = taken.iter().zip(&sizes).filter(|(taken, size)| taken >= size).count();
            let enough = if all { sizes.len() } else { 1 };
            prop_assert!(exhausted >= enough);
            prop_assert!(all || taken.iter().zip(&sizes).all(|(taken, size)| taken <= size));
        }

        #[test]
        fn over_epochs_the_examples_of_a_source_come_equally_often(sources in sources(), all: bool, seed: u64) {
            let (sizes, weights): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
            let until = if all { MixUntil::AllExhausted } else { MixUntil::FirstExhausted };
            let mixture = mixture(&sizes, &weights, until);
            let mut seen = vec![0u64; sizes.iter().sum()];
            for epoch in 0..4 {
                mixture.order(Order::Shuffled, seed, epoch).into_iter().for_each(|index| seen[index as usize] += 1);
            }
            let mut first = 0;
            for size in sizes {
                let seen = &seen[first..first + size];
                prop_assert!(seen.iter().max().unwrap() - seen.iter().min().unwrap() <= 1, "{seen:?}");
                first += size;
            }
        }

        #[test]
        fn a_resumed_run_takes_what_the_unbroken_one_takes(sources in sources(), seed: u64, step in 1usize..20, stop in 0usize..20) {
            let (sizes, weights): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
            let mixture = mixture(&sizes, &weights, MixUntil::FirstExhausted);
            if mixture.num_examples() == 0 {
                return Ok(());
            }
            let start = |cursor| Sequence::mixed(Order::Shuffled, seed, mixture.clone(), cursor);
            let mut unbroken = start(Cursor::default());
            for _ in 0..stop {
                unbroken.next_step(step);
            }
            let mut resumed = start(unbroken.cursor());
            for _ in 0..10 {
                prop_assert_eq!(unbroken.next_step(step), resumed.next_step(step));
            }
        }
    }
}

//! Memory that runs out: what was tried is tried again with less, and the run goes on.
//!
//! LibTorch panics where it gets no memory. First activations are made again in place of kept, which changes no result; then
//! micro-batches are halved, which moves sums by a rounding.

use std::panic::resume_unwind;

use hone_data::tokenize::Example;
use hone_job::event::{Event, Warning};

use super::{Evaluated, Run};
use crate::error::Error;
use crate::optim::NoiseSample;
use crate::task::attempt::{attempt, is_about_memory};
use crate::task::objective::Gradients;
use crate::task::step_clock::StepClock;

impl Run {
    /// Most tokens that go through the model at once.
    pub(super) fn tokens_per_micro_batch(&self) -> u32 {
        self.progress.tokens_per_micro_batch.unwrap_or(self.training().batch.tokens_per_micro_batch)
    }

    /// Adds up the gradients of a step's loss, with as little memory as it takes.
    pub(super) fn gradients_within_memory(
        &mut self,
        indices: &[usize],
        examples: &[Example],
        clock: &mut StepClock,
    ) -> (Gradients, Option<NoiseSample>) {
        loop {
            let panic = match attempt(|| self.gradients(indices, examples, clock)) {
                Ok(found) => return found,
                Err(panic) => panic,
            };
            self.trained.zero_grad();
            let error = Error::from_panic(&*panic);
            if !is_about_memory(&error) {
                resume_unwind(panic);
            }
            let what = format!("step {} ({error})", self.progress.step + 1);
            let longest = longest(examples);
            let goes_on = if self.activations.keep_least() {
                let taken = "activations are made again in the backward pass from now on, as with \
                             batch.activation_checkpointing on";
                self.warn_of_memory(&what, taken);
                true
            } else {
                self.halve_micro_batches(longest, &what)
            };
            if !goes_on {
                resume_unwind(panic);
            }
        }
    }

    /// Evaluates, with as little memory as it takes. One that fails all the same is told of and left out: it has no say in
    /// whether the run goes on.
    pub(super) fn evaluation_within_memory(&mut self) -> Option<Evaluated> {
        loop {
            let error = match attempt(|| self.evaluation()) {
                Ok(Ok(evaluated)) => return Some(evaluated),
                Ok(Err(error)) => error,
                Err(panic) => Error::from_panic(&*panic),
            };
            let place = format!("the evaluation of step {}", self.progress.step);
            let what = format!("{place} ({error})");
            if !is_about_memory(&error) || !self.halve_micro_batches(longest(&self.eval), &what) {
                let message = format!("{place} failed and is left out: {error}; the run goes on without it");
                self.observer.report(Event::Warning(Warning { code: "evaluation_failed".into(), message }));
                return None;
            }
        }
    }

    /// Halves micro-batches where that makes the largest one smaller: an example longer than they are goes alone as it is.
    fn halve_micro_batches(&mut self, longest: u64, what: &str) -> bool {
        let most = self.tokens_per_micro_batch();
        let halves = u64::from(most) > longest.max(1);
        if halves {
            self.progress.tokens_per_micro_batch = Some(most / 2);
            let taken = format!("micro-batches hold {} tokens in place of {most} from now on", most / 2);
            self.warn_of_memory(what, &taken);
        }
        halves
    }

    fn warn_of_memory(&self, what: &str, taken: &str) {
        let message = format!("memory ran out in {what}, which is tried again: {taken}");
        self.observer.report(Event::Warning(Warning { code: "out_of_memory".into(), message }));
    }
}

/// Tokens of the longest example.
fn longest<'a>(examples: impl IntoIterator<Item = &'a Example>) -> u64 {
    examples.into_iter().map(Example::num_tokens).max().unwrap_or(0)
}

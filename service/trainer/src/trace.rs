//! The trace of this process's attempt: spans of what it does, each short, below the one in which the server started it.
//!
//! One place for the process, since a process works on one attempt. Where the collector is not set up, spans go nowhere and
//! cost nothing to speak of.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hone_telemetry::TraceContext;
use tracing::Span;

static ATTEMPT: OnceLock<TraceContext> = OnceLock::new();

/// From now on spans belong to this place in a trace, as W3C's traceparent; a text that is none says nothing.
pub fn belongs_to(traceparent: &str) {
    if let Ok(context) = traceparent.parse() {
        // A second one would be of the same attempt.
        let _ = ATTEMPT.set(context);
    }
}

/// The same span, right below the start of the attempt.
pub fn part(span: Span) -> Span {
    if let Some(attempt) = ATTEMPT.get() {
        attempt.adopt(&span);
    }
    span
}

/// Steps of which each has a span; then one in a while has.
const FIRST_STEPS: u32 = 3;
const WHILE: Duration = Duration::from_secs(30);

/// Chooses the steps that have spans: a day of quick steps comes to some thousand.
#[derive(Debug, Default)]
pub struct Sample {
    taken: u32,
    last: Option<Instant>,
}

impl Sample {
    /// Whether the step that begins has one.
    pub fn takes(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now.duration_since(last) >= WHILE);
        let takes = self.taken < FIRST_STEPS || is_due;
        if takes {
            self.taken = self.taken.saturating_add(1);
            self.last = Some(now);
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_steps_have_spans_and_then_one_in_a_while() {
        let (mut sample, start) = (Sample::default(), Instant::now());
        let taken: Vec<u64> = (0..100).filter(|&second| sample.takes(start + Duration::from_secs(second))).collect();
        assert_eq!(taken, [0, 1, 2, 32, 62, 92]);
    }
}

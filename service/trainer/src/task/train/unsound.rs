//! Updates that are skipped, since loss or gradient is not finite: told with the rows they came from, and given up on past a
//! budget.

use hone_data::tokenize::Example;
use hone_job::event::{Event, Warning};

use super::Run;
use crate::error::Error;
use crate::task::progress::Progress;

/// Updates in a row that may be skipped.
const MAX_SKIPPED_IN_A_ROW: u64 = 5;
/// Share of all steps that may be skipped.
const MAX_SKIPPED_SHARE: f64 = 0.1;

/// Rows that are named; the others are counted.
const MAX_ROWS: usize = 20;

impl Run {
    /// Tells of a step whose update was skipped, or gives the run up.
    pub(super) fn tell_skipped(&self, examples: &[Example]) -> Result<(), Error> {
        let Progress { step, skipped_steps, skipped_in_a_row, .. } = self.progress;
        let rows = rows(examples.iter());
        let too_many = skipped_steps as f64 > MAX_SKIPPED_SHARE * self.total_steps as f64 + MAX_SKIPPED_IN_A_ROW as f64;
        if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW || too_many {
            return Err(Error::NonFinite { step, skipped: skipped_steps, rows });
        }
        let message =
            format!("loss or gradient of step {step} was not finite, and its update was skipped; its rows: {rows}");
        self.observer.report(Event::Warning(Warning { code: "update_skipped".into(), message }));
        Ok(())
    }
}

/// Where examples come from, such as `file:///a.jsonl rows 3, 17; file:///b.jsonl rows 4`.
fn rows<'a>(examples: impl Iterator<Item = &'a Example>) -> String {
    let mut places: Vec<(&str, u64)> = examples.map(|example| (&*example.object, example.row)).collect();
    places.sort_unstable();
    // A long text gives several examples.
    places.dedup();
    let more = places.len().saturating_sub(MAX_ROWS);
    places.truncate(MAX_ROWS);
    let of_object = |places: &[(&str, u64)]| {
        let numbers: Vec<_> = places.iter().map(|(_, row)| row.to_string()).collect();
        format!("{} rows {}", places[0].0, numbers.join(", "))
    };
    let mut objects: Vec<_> = places.chunk_by(|one, other| one.0 == other.0).map(of_object).collect();
    if more > 0 {
        objects.push(format!("and {more} more"));
    }
    objects.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(object: &str, row: u64) -> Example {
        Example { documents: Vec::new(), object: object.into(), row, is_text: false }
    }

    #[test]
    fn rows_are_named_by_object_each_once_and_not_without_end() {
        let examples = [example("b", 4), example("a", 17), example("a", 3), example("a", 3)];
        assert_eq!(rows(examples.iter()), "a rows 3, 17; b rows 4");
        let many: Vec<_> = (1..=25).map(|row| example("a", row)).collect();
        assert!(rows(many.iter()).ends_with("19, 20; and 5 more"));
    }
}

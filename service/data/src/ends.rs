//! Whether rows teach a model to stop: the labels of a row go in, and it is counted by kind of row which of them end a
//! trained stretch without a token that ends an answer. A model trained on such rows goes on writing.

use std::collections::BTreeMap;

use crate::admit::END_WITHIN;
use crate::tokenize::IGNORE_INDEX;

/// Rows of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Rows that take part.
    pub rows: u64,
    /// Those in which a trained stretch ends without an end token.
    pub endless: u64,
}

/// Rows by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends(BTreeMap<&'static str, Count>);

impl Ends {
    /// Counts a row.
    pub fn count(&mut self, kind: &'static str, is_endless: bool) {
        let count = self.0.entry(kind).or_default();
        count.rows += 1;
        count.endless += u64::from(is_endless);
    }

    /// The kinds with rows that teach no end, and how many of how many they are.
    pub fn endless(&self) -> impl Iterator<Item = (&'static str, Count)> {
        self.0.iter().filter(|(_, count)| count.endless > 0).map(|(kind, count)| (*kind, *count))
    }
}

/// Whether a trained stretch of a document ends without an end token; templates may write a line break behind it. Labels
/// are shifted, but a stretch of them is a stretch of tokens all the same. Where no token ends a text, none is missed.
pub fn is_endless(labels: &[i64], stop_ids: &[u32]) -> bool {
    let is_stop = |label: &i64| u32::try_from(*label).is_ok_and(|id| stop_ids.contains(&id));
    let mut stretches = labels.split(|label| *label == IGNORE_INDEX).filter(|stretch| !stretch.is_empty());
    let ends = |stretch: &[i64]| stretch.iter().rev().take(END_WITHIN).any(is_stop);
    !stop_ids.is_empty() && !stretches.all(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: i64 = IGNORE_INDEX;

    #[test]
    fn every_trained_stretch_must_end_with_a_stop_token() {
        let check = |labels: &[i64], expected: bool| assert_eq!(is_endless(labels, &[7, 8]), expected, "{labels:?}");
        check(&[NO, 1, 2, 7, NO], false);
        check(&[1, 2, 8, 3], false);
        check(&[NO, 1, 2, NO], true);
        check(&[1, 7, NO, 2, 3, NO], true);
        check(&[1, 7, NO, 2, 8], false);
        check(&[7, 1, 2, 3, 4], true);
        check(&[NO, NO], false);
        assert!(!is_endless(&[1, 2], &[]), "nothing ends a text of this tokenizer");
    }

    #[test]
    fn rows_are_counted_by_kind() {
        let mut ends = Ends::default();
        for (kind, is_endless) in [("text", false), ("messages", true), ("messages", false), ("messages", true)] {
            ends.count(kind, is_endless);
        }
        let found: Vec<_> = ends.endless().collect();
        assert_eq!(found, [("messages", Count { rows: 3, endless: 2 })]);
    }
}

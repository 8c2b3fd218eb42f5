//! Why there is nothing to train on, told so that the rows can be found.

use std::fmt;

use hone_job::event::{ReasonCount, RowNote};

use crate::{examples, mix, source, template};

/// Why there is nothing to train on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source cannot be read.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The chat template cannot be used at all.
    #[error(transparent)]
    Template(#[from] template::Error),
    /// Rows are not what they should be.
    #[error("{} malformed: {}", rows(*count), Listed(notes, *count))]
    Malformed {
        /// How many.
        count: u64,
        /// The first of them.
        notes: Vec<RowNote>,
    },
    /// Rows are too long and the policy is to fail.
    #[error("{} too long and over_length is fail: {}", rows(*count), Listed(notes, *count))]
    OverLength {
        /// How many.
        count: u64,
        /// The first of them.
        notes: Vec<RowNote>,
    },
    /// Sources cannot be mixed as asked.
    #[error("data.mix: {0}")]
    Mix(#[from] mix::Error),
    /// No row is left.
    #[error("no usable {split} rows: {}", why_none(*rows_read, reasons))]
    NoUsableRows {
        /// `train` or `eval`.
        split: &'static str,
        /// Rows read.
        rows_read: u64,
        /// What became of them.
        reasons: Vec<ReasonCount>,
    },
    /// There is no room for the examples.
    #[error(transparent)]
    Examples(#[from] examples::Error),
    /// Reading ended without an answer.
    #[error("reading the rows broke off: {0}")]
    Interrupted(String),
}

fn rows(count: u64) -> String {
    if count == 1 { "1 row is".to_string() } else { format!("{count} rows are") }
}

/// Rows, each with its place and what is to be said of it.
struct Listed<'a>(&'a [RowNote], u64);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in self.0 {
            write!(f, "\n  {} row {}: {}", note.object, note.row, note.note)?;
        }
        match self.1.saturating_sub(self.0.len() as u64) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

fn why_none(rows_read: u64, reasons: &[ReasonCount]) -> String {
    if rows_read == 0 {
        return "the sources hold no rows".to_string();
    }
    let counts: Vec<String> = reasons
        .iter()
        .map(|reason| {
            let first = reason
                .rows
                .first()
                .map_or(String::new(), |note| format!(" (first: {} row {}: {})", note.object, note.row, note.note));
            format!("{} {}{first}", reason.count, reason.reason)
        })
        .collect();
    format!("of {rows_read} read: {}", counts.join("; "))
}

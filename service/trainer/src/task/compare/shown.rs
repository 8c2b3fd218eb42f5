//! Rows that are worth a look, with their text: the hardest of one model, those in which several differ most.

use hone_data::tokenize::Example;
use hone_data::tokenizer::Tokenizer;
use hone_job::score::{RowScore, ShownRow};

use super::Scored;
use crate::error::Error;
use crate::task::evaluate::finite;
use crate::task::row_text::{RowText, head};

/// The rows to show, those most worth it first.
pub(super) fn choose(scored: &[Scored<'_>], are_pairs: bool, count: usize) -> Vec<usize> {
    let figure = |one: &Scored<'_>, row: usize| if are_pairs { -one.margin(row) } else { one.loss(row) };
    let (first, others) = scored.split_first().expect("a model is scored");
    let worth = |row: usize| match others {
        [] => figure(first, row),
        others => {
            let apart = |other| (figure(other, row) - figure(first, row)).abs();
            others.iter().map(apart).fold(0.0, f64::max)
        }
    };
    let mut rows: Vec<_> = (0..first.rows.len()).map(|row| (worth(row), row)).collect();
    rows.sort_by(|one, other| other.0.total_cmp(&one.0));
    rows.into_iter().take(count).map(|(_, row)| row).collect()
}

/// The chosen rows with their text and what each model makes of them, with answers where they were graded.
pub(super) fn rows(
    chosen: &[usize],
    examples: &[Example],
    scored: &[Scored<'_>],
    are_pairs: bool,
    tokenizer: &Tokenizer,
) -> Result<Vec<ShownRow>, Error> {
    let row = |&index: &usize| {
        let example = &examples[index];
        let text = RowText::of(example, tokenizer)?;
        let score = |one: &Scored<'_>| RowScore {
            name: one.candidate.name.clone(),
            loss: finite(one.loss(index)),
            margin: are_pairs.then(|| finite(one.margin(index))).flatten(),
            answer: one.grades.as_ref().map_or_else(String::new, |grades| head(grades.answers[index].clone())),
        };
        Ok(ShownRow {
            object: example.object.to_string(),
            row: example.row,
            prompt: text.prompt,
            expected: text.expected,
            rejected: text.rejected,
            scores: scored.iter().map(score).collect(),
        })
    };
    chosen.iter().map(row).collect()
}

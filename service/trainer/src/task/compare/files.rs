//! The files of a comparison: the report, and every row with what each model makes of it.

use hone_data::tokenize::Example;
use hone_job::score::ScoreReport;
use serde::Serialize;

use super::Scored;
use crate::task::evaluate::DocumentScore;

/// A line of rows.jsonl.
#[derive(Serialize)]
struct Row<'a> {
    object: &'a str,
    row: u64,
    scores: Vec<Score<'a>>,
}

/// What a model makes of it.
#[derive(Serialize)]
struct Score<'a> {
    name: &'a str,
    /// Sums over the scored tokens of the text, or of the chosen answer.
    #[serde(flatten)]
    first: DocumentScore,
    /// Of a pair, those of the rejected answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<DocumentScore>,
    /// Of choices, those of the wrong answers, in the order of the row.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<DocumentScore>,
    #[serde(flatten)]
    answer: Option<Answer<'a>>,
}

/// What it wrote.
#[derive(Serialize)]
struct Answer<'a> {
    answer: &'a str,
    exact_match: bool,
    contains: bool,
}

/// Names and contents. A number that is not finite is null.
pub(super) fn of(report: &ScoreReport, examples: &[Example], scored: &[Scored<'_>]) -> [(&'static str, Vec<u8>); 2] {
    let json = "records have text keys";
    let mut lines = Vec::new();
    for (index, example) in examples.iter().enumerate() {
        let scores = scored.iter().map(|one| {
            let (first, others) = one.rows[index].split_first().expect("a document is scored");
            let (rejected, others) =
                if let [rejected] = others { (Some(*rejected), Vec::new()) } else { (None, others.to_vec()) };
            let answer = one.grades.as_ref().map(|grades| Answer {
                answer: &grades.answers[index],
                exact_match: grades.is_exact[index],
                contains: grades.contains[index],
            });
            Score { name: &one.candidate.name, first: *first, rejected, others, answer }
        });
        let scores = scores.collect();
        serde_json::to_writer(&mut lines, &Row { object: &example.object, row: example.row, scores }).expect(json);
        lines.push(b'\n');
    }
    [("scores.json", serde_json::to_vec_pretty(report).expect(json)), ("rows.jsonl", lines)]
}

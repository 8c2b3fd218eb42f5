//! What models make of the same rows, for people: a table, the differences, the rows that tell most.

use hone_client::v1;

use crate::human::{count, counted, loss, percent, printable};
use crate::output::Paint;
use crate::report::base_name;
use crate::table::Table;

/// Longest line of a text that is shown, in characters.
const LINE_CHARS: usize = 200;

/// The whole report.
pub(crate) fn text(report: &v1::ScoreReport, paint: Paint) -> String {
    let mut parts = vec![figures(report, paint)];
    parts.extend(report.differences.iter().map(|difference| against(difference, paint)));
    parts.extend(report.rows.iter().map(|row| shown(row, paint)));
    parts.join("\n")
}

fn figures(report: &v1::ScoreReport, paint: Paint) -> String {
    let evaluations: Vec<_> = report.models.iter().filter_map(|model| model.evaluation.as_ref()).collect();
    let are_pairs = evaluations.iter().any(|evaluation| evaluation.preference.is_some());
    let are_graded = evaluations.iter().any(|evaluation| evaluation.answers.is_some());
    let has_choices =
        evaluations.iter().filter_map(|one| one.preference.as_ref()).any(|one| one.accuracy_per_token.is_some());
    let (rows, tokens) = evaluations.first().map_or((0, 0), |first| (first.examples, first.tokens));
    let noun = if are_pairs && !has_choices { "pair" } else { "row" };
    let heading = format!("{} {}, {}", paint.cyan("scored"), counted(rows, noun), counted(tokens, "token"));
    let names: &[&str] = match (are_pairs, has_choices, are_graded) {
        (true, true, _) => &["MODEL", "RIGHT", "RIGHT PER TOKEN", "MARGIN", "LOSS OF RIGHT"],
        (true, false, _) => &["MODEL", "TOLD APART", "MARGIN", "CHOSEN", "REJECTED", "LOSS OF CHOSEN"],
        (false, _, true) => &["MODEL", "EXACT", "CONTAINS", "LOSS", "ACCURACY"],
        (false, _, false) => &["MODEL", "LOSS", "PERPLEXITY", "ACCURACY"],
    };
    let mut table = Table::new(names, &[1, 2, 3, 4, 5][..names.len() - 1]);
    for model in &report.models {
        let evaluation = model.evaluation.clone().unwrap_or_default();
        let own_loss = format!("{} ± {:.4}", loss(evaluation.loss), evaluation.loss_standard_error);
        let name = printable(&model.name);
        let share = |share: f64, error: f64| format!("{} ± {}", percent(share), percent(error));
        match (&evaluation.preference, &evaluation.answers) {
            (Some(rows), _) if has_choices => table.row([
                name,
                share(rows.accuracy, rows.accuracy_standard_error),
                rows.accuracy_per_token.map_or(String::new(), percent),
                format!("{:.3} ± {:.3}", rows.margin, rows.margin_standard_error),
                own_loss,
            ]),
            (Some(pairs), _) => table.row([
                name,
                share(pairs.accuracy, pairs.accuracy_standard_error),
                format!("{:.3} ± {:.3}", pairs.margin, pairs.margin_standard_error),
                format!("{:.2}", pairs.logps_chosen),
                format!("{:.2}", pairs.logps_rejected),
                own_loss,
            ]),
            (None, Some(answers)) => table.row([
                name,
                share(answers.exact_match, answers.exact_match_standard_error),
                share(answers.contains, answers.contains_standard_error),
                own_loss,
                percent(evaluation.token_accuracy),
            ]),
            (None, None) => table.row([
                name,
                own_loss,
                evaluation.perplexity.map_or("not finite".to_owned(), |perplexity| format!("{perplexity:.3}")),
                percent(evaluation.token_accuracy),
            ]),
        }
    }
    format!("{heading}\n{}", table.text("no models"))
}

/// How a model differs from the first.
fn against(found: &v1::ScoreDifference, paint: Paint) -> String {
    let heading = format!("{} against {}:", paint.bold(&printable(&found.name)), printable(&found.baseline));
    let figures = [
        ("loss", &found.loss, true),
        ("token accuracy", &found.token_accuracy, false),
        ("told apart", &found.preference_accuracy, false),
        ("margin", &found.margin, false),
        ("exact", &found.exact_match, false),
        ("contains", &found.contains, false),
    ];
    let mut parts = Vec::new();
    for (name, interval, lower_is_better) in figures {
        let Some(v1::Interval { difference, low, high }) = interval else { continue };
        let text = format!("{name} {difference:+.4} [{low:+.4}, {high:+.4}]");
        parts.push(match (*low > 0.0 || *high < 0.0, (*difference < 0.0) == lower_is_better) {
            (false, _) => text,
            (true, true) => paint.green(&text),
            (true, false) => paint.red(&text),
        });
    }
    let rows = found.wins + found.ties + found.losses;
    let ties = if found.ties > 0 { format!(", {} equal", count(found.ties)) } else { String::new() };
    format!("{heading} {}\n  better on {} of {}{ties}", parts.join("  "), count(found.wins), counted(rows, "row"))
}

fn shown(row: &v1::ShownRow, paint: Paint) -> String {
    let mut lines = vec![paint.dim(&format!("{}:{}", base_name(&row.object), row.row))];
    let texts = [("prompt", &row.prompt), ("expected", &row.expected), ("rejected", &row.rejected)];
    let told = texts.into_iter().filter(|(_, text)| !text.is_empty());
    lines.extend(told.map(|(name, text)| format!("  {} {}", paint.dim(name), in_one_line(text))));
    for score in &row.scores {
        let margin = score.margin.map_or(String::new(), |margin| format!("  margin {margin:.3}"));
        let mut line = format!("  {} {}{margin}", paint.bold(&printable(&score.name)), loss(score.loss));
        if !score.answer.is_empty() {
            line += &format!("  {}", in_one_line(&score.answer));
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The hardest held-out row in full, the places of the others.
pub(crate) fn hardest(found: &v1::HardExamples, paint: Paint) -> String {
    let Some((first, others)) = found.examples.split_first() else { return paint.dim("no hard rows") };
    let figure = |row: &v1::HardExample| {
        let (name, now) = row.margin.map_or(("loss", row.loss), |margin| ("margin", Some(margin)));
        let before = row.before.map_or(String::new(), |before| format!(" (before {before:.3})"));
        format!("{name} {}{before}", now.map_or("not finite".to_owned(), |now| format!("{now:.3}")))
    };
    let place = |row: &v1::HardExample| format!("{}:{}", base_name(&row.object), row.row);
    let mut lines = vec![format!("{} {}  {}", paint.cyan("hardest row"), place(first), figure(first))];
    let texts = [("prompt", &first.prompt), ("expected", &first.expected), ("answer", &first.answer)];
    let told = texts.into_iter().filter(|(_, text)| !text.is_empty());
    lines.extend(told.map(|(name, text)| format!("  {} {}", paint.dim(name), in_one_line(text))));
    let surprise = |one: &v1::Surprise| {
        format!("{:?} for {:?} (token {}, {:.1} nats)", one.preferred, one.expected, one.token, one.nll)
    };
    if let Some(one) = first.surprises.first() {
        lines.push(format!("  {} {}", paint.dim("rather"), printable(&surprise(one))));
    }
    if !others.is_empty() {
        let others: Vec<_> = others.iter().map(|row| format!("{} {}", place(row), figure(row))).collect();
        lines.push(format!("  {} {}", paint.dim("then"), others.join(", ")));
    }
    lines.join("\n")
}

/// What was written, with the first answers.
pub(crate) fn answers(report: &v1::AnswerReport, paint: Paint) -> String {
    let mut parts = vec![counted(report.answers, "answer"), counted(report.answer_tokens, "token")];
    if report.seconds > 0.0 {
        parts.push(format!("{:.0} tokens/s", report.answer_tokens as f64 / report.seconds));
    }
    if report.reached_length > 0 {
        parts.push(format!("{} as long as they may be", count(report.reached_length)));
    }
    let mut lines = vec![format!("{} {}", paint.cyan("written"), parts.join(", "))];
    if report.failed_rows > 0 {
        let text = format!("{} could not be answered; answers.jsonl says why", counted(report.failed_rows, "row"));
        lines.push(paint.red(&text));
    }
    for shown in &report.shown {
        lines.push(paint.dim(&format!("{}:{}", base_name(&shown.object), shown.row)));
        let texts = [("prompt", &shown.prompt), ("expected", &shown.expected), ("answer", &shown.answer)];
        let told = texts.into_iter().filter(|(_, text)| !text.is_empty());
        lines.extend(told.map(|(name, text)| format!("  {} {}", paint.dim(name), in_one_line(text))));
    }
    lines.join("\n")
}

/// A text in a line of bounded length.
fn in_one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = words.chars().take(LINE_CHARS).collect();
    let rest = if line.len() < words.len() { "…" } else { "" };
    printable(&format!("{line}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, preference: Option<v1::PreferenceMetrics>) -> v1::ModelScore {
        let evaluation = v1::EvaluationResult {
            loss: Some(2.25),
            loss_standard_error: 0.05,
            perplexity: Some(9.4877),
            token_accuracy: 0.5,
            examples: 66,
            tokens: 1234,
            preference,
            ..Default::default()
        };
        v1::ModelScore { name: name.into(), uri: String::new(), evaluation: Some(evaluation) }
    }

    #[test]
    fn texts_are_told_by_loss_and_pairs_by_how_they_are_told_apart() {
        let interval = Some(v1::Interval { difference: -0.5, low: -0.75, high: -0.25 });
        let difference = v1::ScoreDifference {
            name: "sft".into(),
            baseline: "base".into(),
            loss: interval,
            wins: 60,
            ties: 1,
            losses: 5,
            ..Default::default()
        };
        let score = v1::RowScore { name: "sft".into(), loss: Some(1.5), margin: None, answer: "Paris\nis it".into() };
        let row = v1::ShownRow {
            object: "s3://b/rows.jsonl".into(),
            row: 7,
            prompt: "Capital of France?".into(),
            expected: "Paris".into(),
            scores: vec![score],
            ..Default::default()
        };
        let report = v1::ScoreReport {
            models: vec![model("base", None), model("sft", None)],
            differences: vec![difference],
            rows: vec![row],
        };
        let expected = "\
scored 66 rows, 1,234 tokens
MODEL             LOSS  PERPLEXITY  ACCURACY
base   2.2500 ± 0.0500       9.488     50.0%
sft    2.2500 ± 0.0500       9.488     50.0%
sft against base: loss -0.5000 [-0.7500, -0.2500]
  better on 60 of 66 rows, 1 equal
rows.jsonl:7
  prompt Capital of France?
  expected Paris
  sft 1.5000  Paris is it";
        assert_eq!(text(&report, Paint { on: false }), expected);

        let pairs = v1::PreferenceMetrics { accuracy: 0.75, margin: 1.5, logps_chosen: -20.0, ..Default::default() };
        let report = v1::ScoreReport { models: vec![model("m", Some(pairs))], ..Default::default() };
        let told = text(&report, Paint { on: false });
        assert!(told.contains("scored 66 pairs") && told.contains("75.0% ± 0.0%"), "{told}");
    }

    #[test]
    fn questions_are_told_by_their_answers_and_choices_by_how_many_are_right() {
        let answers = v1::AnswerMetrics {
            answers: 66,
            exact_match: 0.25,
            exact_match_standard_error: 0.05,
            contains: 0.5,
            contains_standard_error: 0.0625,
        };
        let mut graded = model("m", None);
        graded.evaluation.as_mut().unwrap().answers = Some(answers);
        let told = text(&v1::ScoreReport { models: vec![graded], ..Default::default() }, Paint { on: false });
        assert!(told.contains("EXACT") && told.contains("25.0% ± 5.0%") && told.contains("50.0% ± 6.2%"), "{told}");
        let right = v1::PreferenceMetrics { accuracy: 0.75, accuracy_per_token: Some(0.5), ..Default::default() };
        let report = v1::ScoreReport { models: vec![model("m", Some(right))], ..Default::default() };
        let told = text(&report, Paint { on: false });
        assert!(told.contains("scored 66 rows") && told.contains("RIGHT PER TOKEN"), "{told}");
        assert!(told.contains("75.0% ± 0.0%") && told.contains("50.0%"), "{told}");
    }

    #[test]
    fn answers_are_told_with_what_was_asked_and_what_could_not_be_answered() {
        let shown = v1::ShownAnswer {
            object: "s3://b/rows.jsonl".into(),
            row: 7,
            prompt: "2 + 2?".into(),
            answer: "4".into(),
            ..Default::default()
        };
        let report = v1::AnswerReport {
            answers: 3,
            failed_rows: 1,
            reached_length: 1,
            answer_tokens: 60,
            seconds: 2.0,
            shown: vec![shown],
            ..Default::default()
        };
        let expected = "\
written 3 answers, 60 tokens, 30 tokens/s, 1 as long as they may be
1 row could not be answered; answers.jsonl says why
rows.jsonl:7
  prompt 2 + 2?
  answer 4";
        assert_eq!(answers(&report, Paint { on: false }), expected);
    }

    #[test]
    fn the_hardest_row_is_told_in_full_and_the_others_by_their_place() {
        let row = |number: u64, loss: f64, before: Option<f64>| v1::HardExample {
            object: "s3://b/rows.jsonl".into(),
            row: number,
            prompt: "2 + 2?".into(),
            expected: "4".into(),
            loss: Some(loss),
            before,
            ..Default::default()
        };
        let surprise = v1::Surprise { token: 1, expected: "4".into(), preferred: " 5".into(), nll: 6.25 };
        let first = v1::HardExample { surprises: vec![surprise], ..row(7, 3.5, Some(4.0)) };
        let found = v1::HardExamples { step: 3, examples: vec![first, row(9, 2.0, None)] };
        let expected = "\
hardest row rows.jsonl:7  loss 3.500 (before 4.000)
  prompt 2 + 2?
  expected 4
  rather \" 5\" for \"4\" (token 1, 6.2 nats)
  then rows.jsonl:9 loss 2.000";
        assert_eq!(hardest(&found, Paint { on: false }), expected);
    }
}

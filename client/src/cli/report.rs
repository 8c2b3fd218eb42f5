//! What became of the rows of a split, in lines: totals, reasons with row numbers, lengths as bars.

use hone_client::v1;

use crate::human::{count, counted, percent, printable};
use crate::output::Paint;

/// Width of the longest bar of a histogram, in characters.
const BAR_WIDTH: u64 = 40;

/// The totals of a split, then a line for each reason with the numbers of its first rows.
pub(crate) fn summary(report: &v1::DatasetReport, paint: Paint) -> Vec<String> {
    let width = report.reasons.iter().map(|one| one.reason.chars().count()).max().unwrap_or_default();
    let reason = |one: &v1::ReasonCount| {
        let name = format!("{:<width$}", printable(&one.reason));
        format!("  {}  {}: {}", paint.yellow(&name), counted(one.count, "row"), row_numbers(one))
    };
    let shares = sources(report).into_iter().map(|line| format!("  {line}"));
    std::iter::once(totals(report)).chain(report.reasons.iter().map(reason)).chain(shares).collect()
}

/// The sources that are mixed, a line each.
pub(crate) fn sources(report: &v1::DatasetReport) -> Vec<String> {
    let line = |share: &v1::SourceShare| {
        let taken = counted(share.examples_per_epoch, "example");
        let name = base_name(&share.uri);
        format!("mixed in with weight {}: {taken} an epoch of the {} in {name}", share.weight, count(share.examples))
    };
    report.sources.iter().map(line).collect()
}

/// What became of a split, in a line.
pub(crate) fn totals(report: &v1::DatasetReport) -> String {
    let share = report.trained_tokens as f64 / report.tokens.max(1) as f64;
    format!(
        "{} rows: {} read, {}, {}, {} trained on ({}), longest {}",
        printable(&report.split),
        count(report.rows_read),
        counted(report.examples, "example"),
        counted(report.tokens, "token"),
        count(report.trained_tokens),
        percent(share),
        count(report.longest_tokens),
    )
}

/// Each reason with its first rows and what is to be said of them, a line a row.
pub(crate) fn reasons(report: &v1::DatasetReport, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    for reason in &report.reasons {
        lines.push(format!("{}  {}", paint.yellow(&printable(&reason.reason)), counted(reason.count, "row")));
        for row in &reason.rows {
            let line = format!("  {}:{}  {}", base_name(&row.object), row.row, printable(&row.note));
            lines.push(line.trim_end().to_owned());
        }
        let more = reason.count.saturating_sub(reason.rows.len() as u64);
        if more > 0 {
            lines.push(format!("  and {} more", count(more)));
        }
    }
    lines
}

/// Rows per length, a bar each.
pub(crate) fn histogram(report: &v1::DatasetReport, paint: Paint) -> Vec<String> {
    let buckets = &report.length_histogram;
    let most = buckets.iter().map(|bucket| bucket.rows).max().unwrap_or_default().max(1);
    let label_width = buckets.iter().map(|bucket| count(bucket.up_to_tokens).len()).max().unwrap_or_default();
    let count_width = buckets.iter().map(|bucket| count(bucket.rows).len()).max().unwrap_or_default();
    let line = |bucket: &v1::LengthBucket| {
        let label = count(bucket.up_to_tokens);
        let rows = count(bucket.rows);
        let bar = bar(bucket.rows, most);
        format!("  <= {label:>label_width$}  {rows:>count_width$}  {}", paint.cyan(&bar)).trim_end().to_owned()
    };
    buckets.iter().map(line).collect()
}

/// A bar with a resolution of an eighth of a character; whatever there is at all, shows.
fn bar(value: u64, most: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let scaled = u128::from(value) * u128::from(BAR_WIDTH) * 8 / u128::from(most);
    let eighths = usize::try_from(scaled).unwrap_or_default().max(usize::from(value > 0));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// `3, 17, 44, … of rows.jsonl; 2 of more.jsonl`.
fn row_numbers(reason: &v1::ReasonCount) -> String {
    let mut objects: Vec<(&str, Vec<String>)> = Vec::new();
    for row in &reason.rows {
        match objects.iter_mut().find(|(object, _)| *object == row.object) {
            Some((_, rows)) => rows.push(count(row.row)),
            None => objects.push((&row.object, vec![count(row.row)])),
        }
    }
    let of = |(object, rows): &(&str, Vec<String>)| format!("{} of {}", rows.join(", "), base_name(object));
    let mut text = objects.iter().map(of).collect::<Vec<_>>().join("; ");
    if reason.count > reason.rows.len() as u64 {
        text += if text.is_empty() { "not listed" } else { ", …" };
    }
    text
}

/// The last part of a path or URI.
pub(crate) fn base_name(object: &str) -> String {
    printable(object.trim_end_matches('/').rsplit('/').next().unwrap_or(object))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A split of which some rows were left out.
    pub(crate) fn example() -> v1::DatasetReport {
        let note = |object: &str, row, note: &str| v1::RowNote { object: object.into(), row, note: note.into() };
        v1::DatasetReport {
            split: "train".into(),
            rows_read: 1_003,
            examples: 976,
            tokens: 40_000,
            trained_tokens: 10_000,
            reasons: vec![
                v1::ReasonCount {
                    reason: "over_length_dropped".into(),
                    count: 25,
                    rows: vec![
                        note("s3://b/rows.jsonl", 3, "1530 tokens, at most 1024 fit"),
                        note("s3://b/rows.jsonl", 1017, ""),
                    ],
                },
                v1::ReasonCount {
                    reason: "malformed".into(),
                    count: 2,
                    rows: vec![note("a.jsonl", 1, "no JSON\x07"), note("b.jsonl", 9, "no messages")],
                },
            ],
            length_histogram: vec![
                v1::LengthBucket { up_to_tokens: 32, rows: 900 },
                v1::LengthBucket { up_to_tokens: 64, rows: 75 },
                v1::LengthBucket { up_to_tokens: 1024, rows: 1 },
                v1::LengthBucket { up_to_tokens: 2048, rows: 0 },
            ],
            longest_tokens: 811,
            sources: Vec::new(),
        }
    }

    #[test]
    fn totals_and_reasons_name_their_rows() {
        let expected = [
            "train rows: 1,003 read, 976 examples, 40,000 tokens, 10,000 trained on (25.0%), longest 811",
            "  over_length_dropped  25 rows: 3, 1,017 of rows.jsonl, …",
            "  malformed            2 rows: 1 of a.jsonl; 9 of b.jsonl",
        ];
        assert_eq!(summary(&example(), Paint::plain()), expected);
    }

    #[test]
    fn mixed_sources_say_what_an_epoch_takes_of_them() {
        let share = |uri: &str, weight, examples, examples_per_epoch| v1::SourceShare {
            uri: uri.into(),
            weight,
            examples,
            examples_per_epoch,
        };
        let mixed = v1::DatasetReport {
            sources: vec![share("s3://b/chat.jsonl", 3.0, 1_200, 900), share("file:///d/code", 1.0, 300, 300)],
            reasons: Vec::new(),
            ..example()
        };
        let expected = [
            "  mixed in with weight 3: 900 examples an epoch of the 1,200 in chat.jsonl",
            "  mixed in with weight 1: 300 examples an epoch of the 300 in code",
        ];
        assert_eq!(summary(&mixed, Paint::plain())[1..], expected);
    }

    #[test]
    fn reasons_list_their_rows_with_what_was_found() {
        let expected = [
            "over_length_dropped  25 rows",
            "  rows.jsonl:3  1530 tokens, at most 1024 fit",
            "  rows.jsonl:1017",
            "  and 23 more",
            "malformed  2 rows",
            "  a.jsonl:1  no JSON\\u{7}",
            "  b.jsonl:9  no messages",
        ];
        assert_eq!(reasons(&example(), Paint::plain()), expected);
    }

    #[test]
    fn bars_are_to_scale_and_the_smallest_still_shows() {
        let lines = histogram(&example(), Paint::plain());
        assert_eq!(lines[0], format!("  <=    32  900  {}", "█".repeat(40)));
        assert_eq!(lines[1], format!("  <=    64   75  {}▎", "█".repeat(3)));
        assert_eq!(lines[2], "  <= 1,024    1  ▏");
        assert_eq!(lines[3], "  <= 2,048    0");
    }
}

//! That everything that speaks of metrics speaks of those in the table. What the page shows is tested with the API.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::table::{ALL, Kind};
use super::*;

#[test]
fn names_and_labels_are_such_as_opentelemetry_and_prometheus_take() {
    let mut names = BTreeSet::new();
    for metric in ALL {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_');
        assert!(metric.name.bytes().all(is_name) && names.insert(metric.prometheus_name()), "{}", metric.name);
        assert!(metric.help.ends_with('.') && !metric.unit.is_empty(), "{}", metric.name);
        let bounds = bounds(*metric);
        assert!(
            bounds.is_sorted() && bounds.is_empty() != matches!(metric.kind, Kind::Histogram(_)),
            "{}",
            metric.name
        );
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

#[test]
fn the_page_of_metrics_is_the_table() {
    const BEGINNING: &str = "| metric | Prometheus | kind | labels | what it tells |\n|---|---|---|---|---|\n";
    let rows = ALL.iter().fold(String::new(), |mut rows, metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, prometheus, kind) = (metric.name, metric.prometheus_name(), metric.kind_name());
        writeln!(rows, "| `{name}` | `{prometheus}` | {kind} | {} | {} |", labels.join(", "), metric.help).unwrap();
        rows
    });
    let text = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let (_, table) = text.split_once(BEGINNING).expect("a table of metrics");
    let table = table.split_once("\n\n").map_or(table, |(table, _)| table);
    assert_eq!(table.trim_end(), rows.trim_end(), "docs/metrics.md should have:\n{BEGINNING}{rows}");
}

/// Words of a text that look like metrics of hone.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = |word: &&str| ["hone_", "rpc_server_", "process_"].iter().any(|start| word.starts_with(start));
    words.filter(ours).map(str::to_owned).collect()
}

#[test]
fn alerts_and_dashboard_name_only_metrics_and_labels_of_the_table() {
    let folder = repository().join("k8s/components/otel");
    let series: BTreeSet<String> = ALL
        .iter()
        .flat_map(|metric| {
            let name = metric.prometheus_name();
            match metric.kind {
                Kind::Histogram(_) => ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec(),
                Kind::Counter | Kind::UpDown | Kind::Gauge => vec![name],
            }
        })
        .collect();
    let labels: BTreeSet<String> =
        ALL.iter().flat_map(|metric| metric.labels.iter().map(|label| label.replace('.', "_"))).collect();
    let mut used = BTreeSet::new();
    for file in ["rules.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        for word in named(&text) {
            assert!(series.contains(&word) || labels.contains(&word), "{file} names {word}, which is in no table");
            used.insert(word);
        }
    }
    assert!(used.len() > 15, "{used:?}");
}

//! Whole files through the front door: what is kept, what is counted, what fails and how it says so.

use std::io::Write;

use hone_job::spec::LossOn;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::*;
use crate::storage::Storage;
use crate::tokenizer::tests::byte_tokenizer;

pub(crate) fn file(rows: &[Value]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    for row in rows {
        writeln!(file, "{row}").unwrap();
    }
    file
}

fn sources(train: &NamedTempFile, eval: Option<&NamedTempFile>) -> Sources {
    let location = |file: &NamedTempFile| Storage::open_path(file.path()).unwrap();
    Sources { train: vec![location(train)], eval: eval.map(location).into_iter().collect() }
}

pub(crate) fn options() -> Options {
    let training = hone_job::spec::Training::on(vec!["x".into()]);
    Options { threads: 3, ..Options::new(&training.data, LossOn::Completion) }
}

async fn load(train: &NamedTempFile, eval: Option<&NamedTempFile>, options: Options) -> Result<Dataset, Error> {
    Dataset::load(sources(train, eval), Arc::new(byte_tokenizer(false)), options, Arc::new(|_| {})).await
}

fn texts(count: usize) -> Vec<Value> {
    (0..count).map(|n| json!({"text": format!("row {n}")})).collect()
}

fn accounted(report: &DatasetReport) -> u64 {
    report.examples + report.reasons.iter().map(|reason| reason.count).sum::<u64>()
}

#[tokio::test]
async fn examples_come_in_reading_order_whatever_the_threads() {
    let rows = file(&texts(1000));
    let one = load(&rows, None, Options { threads: 1, ..options() }).await.unwrap();
    let many = load(&rows, None, Options { threads: 7, ..options() }).await.unwrap();
    assert_eq!(one.train, many.train);
    assert!(one.train.iter().enumerate().all(|(n, example)| example.row == n as u64 + 1));
    assert_eq!((one.train_report.rows_read, one.train_report.examples), (1000, 1000));
    assert!(one.eval.is_empty() && one.eval_report.is_none());
}

#[tokio::test]
async fn every_malformed_row_is_named_up_to_a_limit() {
    let mut rows = texts(100);
    for n in (0..100).step_by(2) {
        rows[n] = json!({"text": n});
    }
    let error = load(&file(&rows), None, options()).await.unwrap_err();
    let Error::Malformed { count: 50, notes } = &error else { panic!("{error}") };
    assert_eq!(notes.iter().map(|note| note.row).collect::<Vec<_>>(), (0..20).map(|n| 2 * n + 1).collect::<Vec<_>>());
    let text = error.to_string();
    assert!(text.starts_with("50 rows are malformed:") && text.ends_with("and 30 more"), "{text}");
    assert!(text.contains("row 3: text is a number; expected a text"), "{text}");
}

#[tokio::test]
async fn each_row_is_understood_on_its_own() {
    let rows = file(&[
        json!({"text": "a"}),
        json!({"prompt": "a", "completion": "b"}),
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
    ]);
    assert_eq!(load(&rows, None, options()).await.unwrap().train.len(), 3);
}

#[tokio::test]
async fn long_rows_are_dropped_and_counted_but_never_from_evaluation() {
    let rows = file(&[json!({"text": "short"}), json!({"text": "long".repeat(500)})]);
    let found = load(&rows, Some(&rows), options()).await.unwrap();
    assert_eq!((found.train.len(), found.eval.len()), (1, 2));
    let reason = &found.train_report.reasons[0];
    assert_eq!((reason.reason.as_str(), reason.count, reason.rows[0].row), (reason::OVER_LENGTH_DROPPED, 1, 2));
    assert_eq!(found.train_report.longest_tokens, 2001);
    let fail = Options { over_length: OverLength::Fail, ..options() };
    let error = load(&rows, None, fail).await.unwrap_err().to_string();
    assert!(error.contains("row 2: 2001 tokens; max_length is 1024"), "{error}");
}

#[tokio::test]
async fn nothing_to_train_on_is_an_error_that_says_why() {
    let check = async |rows: &[Value], eval: Option<&[Value]>, expected: &[&str]| {
        let eval = eval.map(file);
        let error = load(&file(rows), eval.as_ref(), options()).await.unwrap_err().to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error:?} should say {expected:?}");
    };
    check(&[], None, &["no usable train rows", "hold no rows"]).await;
    check(&[json!({"text": "x".repeat(2000)})], None, &["of 1 read: 1 over_length_dropped", "row 1: 2001"]).await;
    let asked = json!({"messages": [{"role": "user", "content": "a"}]});
    check(&[asked], None, &["1 no_trainable_token", "is trained on"]).await;
    check(&texts(3), Some(&[]), &["no usable eval rows"]).await;
}

#[tokio::test]
async fn held_out_rows_stay_where_they_are_when_rows_are_added() {
    let held_out = async |count: usize| {
        let options = Options { eval_fraction: 0.2, ..options() };
        let found = load(&file(&texts(count)), None, options).await.unwrap();
        assert_eq!(found.train.len() + found.eval.len(), count);
        assert_eq!(accounted(&found.train_report), count as u64);
        assert_eq!(accounted(found.eval_report.as_ref().unwrap()), found.eval.len() as u64);
        found.eval.into_iter().map(|example| example.row).collect::<Vec<_>>()
    };
    let (few, many) = (held_out(200).await, held_out(300).await);
    assert!((20..60).contains(&few.len()), "{few:?}");
    assert_eq!(few, many.into_iter().filter(|row| *row <= 200).collect::<Vec<_>>());
}

#[tokio::test]
async fn samples_are_bounded_and_what_is_left_out_is_counted() {
    let rows = file(&texts(100));
    let options = Options { max_train_examples: Some(30), max_eval_examples: Some(10), ..options() };
    let found = load(&rows, Some(&rows), options).await.unwrap();
    assert_eq!((found.train.len(), found.eval.len()), (30, 10));
    assert!(found.train.is_sorted_by_key(|example| example.row));
    assert_eq!(accounted(&found.train_report), 100);
}

#[tokio::test]
async fn broken_sources_and_templates_fail_at_once() {
    let rows = file(&texts(1));
    let broken = Options { chat_template: Some("{% if %}".into()), ..options() };
    assert!(matches!(load(&rows, None, broken).await, Err(Error::Template(_))));
    let path = rows.path().to_path_buf();
    let sources = sources(&rows, None);
    drop(rows);
    let loaded = Dataset::load(sources, Arc::new(byte_tokenizer(false)), options(), Arc::new(|_| {})).await;
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()) && error.contains("no rows here"), "{error}");
}

#[tokio::test]
async fn progress_ends_with_the_number_of_rows() {
    let last = Arc::new(Mutex::new(Vec::new()));
    let seen = last.clone();
    let progress: Progress = Arc::new(move |rows| seen.lock().unwrap().push(rows));
    let rows = file(&texts(2500));
    Dataset::load(sources(&rows, None), Arc::new(byte_tokenizer(false)), options(), progress).await.unwrap();
    assert_eq!(*last.lock().unwrap(), [1024, 2048, 2500]);
}

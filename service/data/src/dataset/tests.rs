//! Whole files through the front door: what is kept, what is counted, what fails and how it says so.

use std::io::Write;
use std::sync::Mutex;

use hone_job::spec::{LossOn, MixUntil};
use proptest::prelude::*;
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
    let removed = report.reasons.iter().filter(|one| reason::removes(&one.reason));
    report.examples + removed.map(|reason| reason.count).sum::<u64>()
}

fn count(report: &DatasetReport, reason: &str) -> u64 {
    report.reasons.iter().find(|one| one.reason == reason).map_or(0, |one| one.count)
}

#[tokio::test]
async fn held_out_rows_that_are_like_training_rows_are_told_with_both_places_and_texts() {
    let long = |number: usize, last: &str| {
        let words: Vec<String> = (0..30).map(|place| format!("word{}", number * 100 + place)).collect();
        json!({ "text": format!("{} {last}", words.join(" ")) })
    };
    let train = file(&(0..20).map(|number| long(number, "end")).collect::<Vec<_>>());
    let eval = file(&[long(50, "end"), long(3, "other"), long(7, "end")]);
    let found = load(&train, Some(&eval), options()).await.unwrap();
    let leakage = found.leakage.expect("planted rows are found");
    assert_eq!((leakage.exact_rows, leakage.near_rows, leakage.held_out_rows, leakage.train_rows), (1, 1, 3, 20));
    let places: Vec<_> = leakage.rows.iter().map(|pair| (pair.row, pair.train_row)).collect();
    assert_eq!(places, [(3, 8), (2, 4)]);
    assert!(leakage.rows[1].text.ends_with("other") && leakage.rows[1].train_text.ends_with("end"), "{leakage:?}");
    let report = found.eval_report.unwrap();
    assert_eq!((count(&report, reason::LIKE_TRAINING_ROW), accounted(&report)), (1, 3));
    let note = &report.reasons.iter().find(|one| one.reason == reason::LIKE_TRAINING_ROW).unwrap().rows[0].note;
    assert!(note.contains("% like ") && note.ends_with(" row 4"), "{note}");
    let off = load(&train, Some(&eval), Options { leakage_similarity: 0.0, ..options() }).await.unwrap();
    assert_eq!(off.leakage, None);
}

#[tokio::test]
async fn examples_come_in_reading_order_whatever_the_threads() {
    let rows = file(&texts(1000));
    let one = load(&rows, None, Options { threads: 1, ..options() }).await.unwrap();
    let many = load(&rows, None, Options { threads: 7, ..options() }).await.unwrap();
    let (one_by_one, together) = (one.train.all().unwrap(), many.train.all().unwrap());
    assert_eq!(one_by_one, together);
    assert!(one_by_one.iter().enumerate().all(|(n, example)| example.row == n as u64 + 1));
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
        found.eval.all().unwrap().into_iter().map(|example| example.row).collect::<Vec<_>>()
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
    assert!(found.train.all().unwrap().is_sorted_by_key(|example| example.row));
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

#[tokio::test]
async fn duplicates_are_counted_and_dropped_on_request() {
    let chat = |id: u8| json!({"id": id, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    let rows = file(&[json!({"text": "a"}), chat(1), json!({"text": "b"}), chat(2), json!({"text": "a"}), chat(3)]);
    let kept = load(&rows, None, options()).await.unwrap();
    assert_eq!((kept.train.len(), count(&kept.train_report, reason::DUPLICATE)), (6, 3));
    let found = &kept.train_report.reasons[0];
    let numbers: Vec<u64> = found.rows.iter().map(|note| note.row).collect();
    assert_eq!(numbers, [4, 5, 6]);
    assert!(
        found.rows[0].note.starts_with("the same as file://") && found.rows[0].note.ends_with(" row 2"),
        "{found:?}"
    );
    let dropped = load(&rows, None, Options { drop_duplicates: true, ..options() }).await.unwrap();
    let rows: Vec<u64> = dropped.train.all().unwrap().iter().map(|example| example.row).collect();
    assert_eq!(rows, [1, 2, 3]);
    assert_eq!(count(&dropped.train_report, reason::DUPLICATE_DROPPED), 3);
    assert_eq!(count(&dropped.train_report, reason::DUPLICATE), 0);
    assert_eq!(accounted(&dropped.train_report), 6);
}

#[tokio::test]
async fn evaluation_rows_that_are_trained_on_are_counted_and_stay() {
    let train = file(&texts(10));
    let eval = file(&[json!({"text": "new"}), json!({"text": "row 7"}), json!({"text": "row 7", "id": 2})]);
    let found = load(&train, Some(&eval), Options { drop_duplicates: true, ..options() }).await.unwrap();
    let report = found.eval_report.unwrap();
    assert_eq!((found.eval.len(), report.examples, accounted(&report)), (3, 3, 3));
    let seen = report.reasons.iter().find(|one| one.reason == reason::IN_TRAINING_ROWS).unwrap();
    assert_eq!(seen.rows.iter().map(|note| note.row).collect::<Vec<_>>(), [2, 3]);
    assert!(seen.rows[0].note.ends_with("row 8"), "{seen:?}");
    assert_eq!(count(&report, reason::DUPLICATE), 1);
}

#[tokio::test]
async fn rows_that_teach_no_end_are_counted_by_kind() {
    let rows = file(&[
        json!({"text": "ends with its token"}),
        json!({"input_ids": [3, 4, 5]}),
        json!({"input_ids": [3, 4, 2]}),
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
    ]);
    let endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let found = load(&rows, None, Options { chat_template: Some(endless.into()), ..options() }).await.unwrap();
    let kinds: Vec<_> = found.ends.endless().map(|(kind, count)| (kind, count.endless, count.rows)).collect();
    assert_eq!(kinds, [("messages", 1, 1), ("tokens", 1, 2)]);
    let noted = found.train_report.reasons.iter().find(|one| one.reason == reason::END_NOT_TRAINED).unwrap();
    assert_eq!(noted.rows.iter().map(|note| note.row).collect::<Vec<_>>(), [2, 4]);
    assert!(noted.rows[0].note.starts_with("tokens: "), "{noted:?}");
    assert_eq!(accounted(&found.train_report), 4);
}

#[tokio::test]
async fn mixed_sources_give_their_shares_and_are_reported() {
    let (many, few) =
        (file(&texts(90)), file(&(0..10).map(|n| json!({"text": format!("few {n}")})).collect::<Vec<_>>()));
    let location = |file: &NamedTempFile| Storage::open_path(file.path()).unwrap();
    let load = async |until| {
        let sources = Sources { train: vec![location(&many), location(&few)], eval: vec![] };
        let mix = Some(Mix { weights: vec![2.0, 1.0], until });
        let options = Options { mix, max_train_examples: Some(60), ..options() };
        Dataset::load(sources, Arc::new(byte_tokenizer(false)), options, Arc::new(|_| {})).await.unwrap()
    };
    let found = load(MixUntil::FirstExhausted).await;
    let [of_many, of_few] = &found.train_report.sources[..] else { panic!("{:?}", found.train_report) };
    assert_eq!(of_many.examples + of_few.examples, 60, "what a sample leaves is what is mixed");
    assert_eq!((of_many.weight, of_few.weight), (2.0, 1.0));
    assert!(of_few.uri.ends_with(few.path().file_name().unwrap().to_str().unwrap()), "{of_few:?}");
    assert_eq!(of_few.examples_per_epoch, of_few.examples);
    assert!(of_many.examples_per_epoch.abs_diff(2 * of_few.examples) <= 2, "{of_many:?}");
    assert_eq!(found.epoch_len() as u64, of_many.examples_per_epoch + of_few.examples_per_epoch);
    let taken = found.sequence(Order::Shuffled, 1, Cursor::default()).next_step(found.epoch_len());
    let from_few = taken.iter().filter(|&&index| found.train.place(index).0.as_ref() == of_few.uri).count();
    assert_eq!(from_few as u64, of_few.examples_per_epoch);
    let all = load(MixUntil::AllExhausted).await;
    assert_eq!(all.train_report.sources[0].examples_per_epoch, of_many.examples);
    assert!(all.train_report.sources[1].examples_per_epoch > of_few.examples);
}

#[tokio::test]
async fn a_source_without_rows_cannot_be_mixed_in() {
    let (some, none) = (file(&texts(3)), file(&[json!({"text": "x".repeat(3000)})]));
    let train = [&some, &none].map(|file| Storage::open_path(file.path()).unwrap()).into();
    let mix = Some(Mix { weights: vec![1.0, 1.0], until: MixUntil::default() });
    let sources = Sources { train, eval: vec![] };
    let loaded =
        Dataset::load(sources, Arc::new(byte_tokenizer(false)), Options { mix, ..options() }, Arc::new(|_| {})).await;
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("data.mix: source 2 of data.train has no usable rows"), "{error}");
}

/// Rows of every fate, with repetitions.
fn any_row() -> impl Strategy<Value = Value> {
    (0u8..7, 0u8..12).prop_map(|(kind, n)| match kind {
        0 => json!({"text": format!("text {n}")}),
        1 => json!({"text": "long ".repeat(100 + usize::from(n))}),
        2 => json!({"prompt": format!("p{n}"), "completion": "c"}),
        3 => json!({"messages": [{"role": "user", "content": format!("never answered {n}")}]}),
        4 => json!({"text": n}),
        5 => json!({"input_ids": [3 + n, 4, 5], "completion_mask": [0, n % 2, 1]}),
        _ => json!({"instruction": format!("i{n}"), "output": "o"}),
    })
}

fn examined(rows: &[Value], options: Options) -> Examined {
    let rows = file(rows);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let done = examine(sources(&rows, None), Arc::new(byte_tokenizer(false)), options, Arc::new(|_| {}));
    runtime.block_on(done).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_row_that_is_read_is_accounted_for(
        rows in prop::collection::vec(any_row(), 1..40),
        truncate: bool,
        drop_duplicates: bool,
        eval_fraction in 0.0f64..0.9,
        most in prop::option::of(1u64..10),
    ) {
        let options = Options {
            over_length: if truncate { OverLength::Truncate } else { OverLength::Drop },
            max_length: 200,
            drop_duplicates,
            eval_fraction,
            max_train_examples: most,
            ..options()
        };
        let found = examined(&rows, options);
        let report = found.train.report("train");
        prop_assert_eq!((report.rows_read, accounted(&report)), (rows.len() as u64, rows.len() as u64), "{:?}", report);
        let held_out = count(&report, reason::HELD_OUT);
        if let Some(eval) = found.eval.map(|split| split.report("eval")) {
            prop_assert_eq!((eval.rows_read, accounted(&eval)), (held_out, held_out), "{:?}", eval);
        }
        let repeated = count(&report, reason::DUPLICATE);
        prop_assert!(!drop_duplicates || repeated == 0);
    }

    #[test]
    fn rows_that_are_added_never_move_another_across(
        first in prop::collection::btree_set(0u32..500, 1..40),
        more in prop::collection::btree_set(500u32..1000, 0..40),
        eval_fraction in 0.0f64..0.9,
    ) {
        let text = |n: &u32| json!({"text": n.to_string()});
        let split = |rows: Vec<Value>| {
            let found = examined(&rows, Options { eval_fraction, ..options() });
            let said = |split: Split| -> Vec<Vec<u32>> {
                split.examples.all().unwrap().into_iter().map(|example| example.documents[0].input_ids.clone()).collect()
            };
            (said(found.train), found.eval.map(said).unwrap_or_default())
        };
        let (train, eval) = split(first.iter().map(text).collect());
        // The new rows among the old ones, so that positions change.
        let mut all: Vec<u32> = first.iter().chain(&more).copied().collect();
        all.sort_by_key(|n| n.wrapping_mul(2_654_435_761));
        let (train_of_all, eval_of_all) = split(all.iter().map(text).collect());
        prop_assert!(train.iter().all(|row| train_of_all.contains(row)));
        prop_assert!(eval.iter().all(|row| eval_of_all.contains(row)));
    }
}

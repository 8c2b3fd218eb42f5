//! What a preview says of rows, good and bad: every bad row by object and line, with what was expected.

use hone_client::v1::{self, DataSpec, PreviewDatasetRequest, PreviewDatasetResponse};
use hone_client::{Client, Result};
use hone_tests::{Setup, conversation, fixture_model, uri, write_lines};
use tonic::Code;

async fn preview(client: &Client, model: &str, data: DataSpec) -> Result<PreviewDatasetResponse> {
    let base_model = Some(v1::BaseModel { uri: model.into() });
    let request = PreviewDatasetRequest { base_model, data: Some(data), ..Default::default() };
    client.preview_dataset(request).await
}

fn train_on(rows: impl Into<String>) -> DataSpec {
    DataSpec { train: vec![rows.into()], ..Default::default() }
}

fn reason<'a>(report: &'a v1::DatasetReport, name: &str) -> &'a v1::ReasonCount {
    report.reasons.iter().find(|one| one.reason == name).unwrap_or_else(|| panic!("no {name} in {report:?}"))
}

fn joined(row: &v1::PreviewRow, trained: bool) -> String {
    row.pieces.iter().filter(|piece| piece.trained == trained).map(|piece| piece.text.as_str()).collect()
}

#[tokio::test]
async fn the_first_rows_show_what_is_trained_on() {
    let server = Setup::default().start().await;
    let client = server.client().await;
    let rows = (0..30).map(|number| conversation(&format!("Question {number}?"), &format!("Answer {number}.")));
    let file = write_lines(server.setup().path("rows.jsonl"), rows);
    let dataset = client.upload_dataset(&file).await.unwrap();
    let model = client.upload_model(fixture_model("llama_tied"), "").await.unwrap();
    let found = preview(&client, &model.model_id, train_on(&dataset.dataset_id)).await.unwrap();
    let [report] = &found.reports[..] else { panic!("{:?}", found.reports) };
    assert_eq!((&*report.split, report.rows_read, report.examples), ("train", 30, 30));
    assert_eq!(report.reasons, []);
    assert_eq!(report.length_histogram.iter().map(|bucket| bucket.rows).sum::<u64>(), 30);
    assert!(0 < report.trained_tokens && report.trained_tokens < report.tokens);
    assert_eq!(found.rows.len(), 3, "as many as asked for, three by default");
    for (row, number) in found.rows.iter().zip(0..) {
        assert_eq!(row.row, number + 1);
        assert!(joined(row, true).starts_with(&format!("Answer {number}.")), "{row:?}");
        assert!(joined(row, false).contains(&format!("Question {number}?")), "{row:?}");
    }

    // The same rows and model by URI, with a share held out and another loss.
    let data = DataSpec { eval_fraction: Some(0.3), ..train_on(uri(&file)) };
    let request = PreviewDatasetRequest {
        base_model: Some(v1::BaseModel { uri: uri(fixture_model("llama_tied")) }),
        data: Some(data),
        loss_on: v1::LossOn::All.into(),
        rows: Some(1),
        preference: false,
    };
    let found = client.preview_dataset(request).await.unwrap();
    let splits: Vec<_> = found.reports.iter().map(|report| report.split.as_str()).collect();
    assert_eq!(splits, ["train", "eval"]);
    let [train, eval] = &found.reports[..] else { panic!() };
    assert_eq!(train.examples + eval.examples, 30);
    assert!(eval.examples > 0);
    assert!(joined(&found.rows[0], true).contains("Question"), "every token is trained on");
}

#[tokio::test]
async fn every_bad_row_is_named_with_what_was_expected_and_twenty_are_listed() {
    let server = Setup::default().start().await;
    let client = server.client().await;
    let good = conversation("a?", "b.");
    let mut lines = vec![
        good.clone(),
        "{\"messages\": [".into(),
        "[1, 2]".into(),
        r#"{"question": "a"}"#.into(),
        r#"{"messages": [{"role": "user"}]}"#.into(),
        r#"{"prompt": "a"}"#.into(),
        good.clone(),
    ];
    lines.extend((0..40).map(|_| "nonsense".to_owned()));
    let file = write_lines(server.setup().path("rows.jsonl"), lines);
    let dataset = client.upload_dataset(&file).await.unwrap();
    let model = uri(fixture_model("llama_tied"));
    let found = preview(&client, &model, train_on(&dataset.dataset_id)).await.unwrap();
    let report = &found.reports[0];
    assert_eq!((report.rows_read, report.examples), (47, 2));
    let malformed = reason(report, "malformed");
    assert_eq!((malformed.count, malformed.rows.len()), (45, 20));
    let expected = [
        (2, "expected one JSON object"),
        (3, "expected one JSON object"),
        (4, "columns question; expected {\"messages\": [..]}"),
        (5, "messages[0] has no content; expected {\"role\", \"content\"}"),
        (6, "prompt stands without completion; expected both"),
        (8, "not JSON"),
    ];
    for (note, (row, words)) in malformed.rows.iter().zip(expected) {
        assert_eq!(note.row, row);
        assert!(note.note.contains(words), "{note:?} should say {words:?}");
        assert!(note.object.ends_with("/rows.jsonl"), "{note:?}");
    }
}

#[tokio::test]
async fn rows_that_take_no_part_are_counted_under_their_reason() {
    let server = Setup::default().start().await;
    let client = server.client().await;
    let lines = [
        conversation("short?", "yes."),
        conversation("long?", &"very ".repeat(200)),
        r#"{"messages": [{"role": "user", "content": "nobody answers"}]}"#.into(),
    ];
    let file = write_lines(server.setup().path("rows.jsonl"), lines);
    let model = uri(fixture_model("llama_tied"));
    let data = DataSpec { max_length: Some(100), ..train_on(uri(&file)) };
    let found = preview(&client, &model, data).await.unwrap();
    let report = &found.reports[0];
    assert_eq!((report.rows_read, report.examples), (3, 1));
    for (name, row) in [("over_length_dropped", 2), ("no_trainable_token", 3)] {
        let reason = reason(report, name);
        assert_eq!((reason.count, reason.rows[0].row), (1, row), "{name}");
        assert!(!reason.rows[0].note.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_set_without_rows_or_without_trainable_tokens_says_so() {
    let server = Setup::default().start().await;
    let client = server.client().await;
    let model = uri(fixture_model("llama_tied"));
    let blank = write_lines(server.setup().path("blank.jsonl"), ["", ""]);
    let found = preview(&client, &model, train_on(uri(&blank))).await.unwrap();
    assert_eq!((found.reports[0].rows_read, found.reports[0].examples, found.rows.len()), (0, 0, 0));

    let nobody = r#"{"messages": [{"role": "user", "content": "nobody answers"}]}"#;
    let silent = write_lines(server.setup().path("silent.jsonl"), [nobody; 3]);
    let found = preview(&client, &model, train_on(uri(&silent))).await.unwrap();
    assert_eq!(reason(&found.reports[0], "no_trainable_token").count, 3);
    assert_eq!(found.reports[0].examples, 0);
}

#[tokio::test]
async fn what_cannot_be_previewed_is_refused_by_field() {
    let server = Setup::default().start().await;
    let client = server.client().await;
    let rows = write_lines(server.setup().path("rows.jsonl"), [conversation("a?", "b.")]);
    let model = uri(fixture_model("llama_tied"));
    let nowhere = uri(server.setup().path("nowhere.jsonl"));
    let stranger = format!("ds-{}", "0".repeat(32));
    let cases = [
        ("", train_on(uri(&rows)), Code::InvalidArgument, "base_model"),
        (&*model, DataSpec::default(), Code::InvalidArgument, "train"),
        (&*model, DataSpec { max_length: Some(1), ..train_on(uri(&rows)) }, Code::InvalidArgument, "max_length"),
        (&*model, train_on(&stranger), Code::NotFound, &stranger),
        (&*model, train_on(&nowhere), Code::NotFound, "nowhere.jsonl"),
        (&*uri(server.setup().path("no-model")), train_on(uri(&rows)), Code::NotFound, "no-model"),
    ];
    for (model, data, code, word) in cases {
        let what = format!("{model} {data:?}");
        let error = preview(&client, model, data).await.expect_err(&what);
        assert_eq!(error.code(), Some(code), "{what}: {error}");
        assert!(error.to_string().contains(word), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_preview_that_takes_too_much_memory_ends_alone() {
    let server = Setup::default().flag("--max-preview-memory", "256MiB").start().await;
    let client = server.client().await;
    let rows = write_lines(server.setup().path("rows.jsonl"), [conversation("a?", "b.")]);
    let model = uri(fixture_model("llama_tied"));
    // A list that holds a list twice, sixty deep: its text would have 2^60 elements, and is made before it is measured.
    let template = "{% set n = namespace(l=['x']) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}\
                    {% set text = n.l ~ '' %}{{ text | length }}";
    let data = DataSpec { chat_template: Some(template.into()), ..train_on(uri(&rows)) };
    let error = preview(&client, &model, data).await.expect_err("no machine has the memory");
    let refused = error.rpc().expect("the server answers");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "PREVIEW_TOO_LARGE"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--max-preview-memory")), "{error:?}");
    let found = preview(&client, &model, train_on(uri(&rows))).await.expect("the server goes on");
    assert_eq!(found.rows.len(), 1);
}

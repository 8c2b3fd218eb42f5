//! The same rows through every format and packing, and files that are broken in every way seen so far.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::storage::Storage;

const JSONL: &str = "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\r\n  \n{\"text\": \"c\"}";

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn rows_of(path: &Path) -> Result<Vec<RowResult>, Error> {
    let location = Storage::open_path(path).unwrap();
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || read(&location, &runtime)?.collect()).await.unwrap()
}

async fn rows(bytes: &[u8]) -> Result<Vec<RowResult>, Error> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    rows_of(file.path()).await
}

fn numbered(rows: Vec<RowResult>) -> Vec<(u64, Value)> {
    rows.into_iter().map(|row| row.unwrap()).map(|row| (row.number, row.value)).collect()
}

/// Written by pyarrow, with the JSON that it says its rows are; `make_fixtures.py` made both.
fn parquet_file() -> Vec<u8> {
    fixture("pyarrow.parquet")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/rows").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn jsonl_reads_alike_in_every_packing_and_keeps_line_numbers() {
    let expected = [(1, json!({"text": "a"})), (3, json!({"text": "b"})), (5, json!({"text": "c"}))];
    let zst = zstd::encode_all(JSONL.as_bytes(), 1).unwrap();
    let with_mark = format!("\u{feff}{JSONL}");
    for bytes in [JSONL.as_bytes(), &gz(JSONL.as_bytes()), &zst, with_mark.as_bytes()] {
        assert_eq!(numbered(rows(bytes).await.unwrap()), expected);
    }
    // Several gzip members in one file, as parallel writers make them.
    let two = [gz(b"{\"text\": \"a\"}\n"), gz(b"{\"text\": \"b\"}\n")].concat();
    assert_eq!(rows(&two).await.unwrap().len(), 2);
    assert_eq!(rows(b"").await.unwrap(), []);
}

#[tokio::test]
async fn parquet_reads_as_the_same_json_in_every_packing() {
    let golden: Vec<Value> = serde_json::from_slice(&fixture("pyarrow.json")).unwrap();
    let expected: Vec<_> = golden.into_iter().enumerate().map(|(index, row)| (index as u64 + 1, row)).collect();
    assert!(expected.len() > 2);
    let bytes = parquet_file();
    for packed in [bytes.clone(), gz(&bytes), zstd::encode_all(bytes.as_slice(), 1).unwrap()] {
        assert_eq!(numbered(rows(&packed).await.unwrap()), expected);
    }
}

#[tokio::test]
async fn malformed_lines_are_reported_and_reading_goes_on() {
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(MAX_LINE_BYTES));
    let text = format!("{{\"a\": }}\n[1]\n{long}\n\u{1}\n{{\"text\": \"ok\"}}\n\"x\"");
    let rows = rows(text.as_bytes()).await.unwrap();
    let notes: Vec<(u64, String)> =
        rows.iter().filter_map(|row| row.as_ref().err()).map(|note| (note.row, note.note.clone())).collect();
    assert_eq!(notes.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2, 3, 4, 6]);
    for (note, expected) in
        notes.iter().zip(["not JSON: expected value at column 7", "a list;", "longer than", "not JSON", "a text;"])
    {
        assert!(note.1.contains(expected), "{note:?} should say {expected:?}");
    }
    assert_eq!(rows.iter().filter(|row| row.is_ok()).count(), 1);
}

#[tokio::test]
async fn broken_files_are_errors_that_name_the_object_and_how_far_reading_came() {
    let text: String = (0..50_000u64).map(|n| format!("{{\"text\": \"{}\"}}\n", n * n)).collect();
    let packed = gz(text.as_bytes());
    let error = rows(&packed[..packed.len() / 2]).await.unwrap_err();
    assert!(matches!(error, Error::Read { row: 1.., .. }), "{error}");
    let bytes = parquet_file();
    let error = rows(&bytes[..bytes.len() - 30]).await.unwrap_err();
    assert!(matches!(error, Error::Parquet { row: 0, .. }), "{error}");
    assert!(error.to_string().contains("file://"), "{error}");
}

#[tokio::test]
async fn a_small_file_that_unfolds_to_one_long_line_is_a_remark() {
    let packed = gz(&vec![b'a'; 4 * MAX_LINE_BYTES]);
    assert!(packed.len() < 1 << 20);
    let rows = rows(&packed).await.unwrap();
    assert!(matches!(rows.as_slice(), [Err(note)] if note.note.contains("longer than 16777216 bytes")), "{rows:?}");
}

#[tokio::test]
async fn a_date_that_no_calendar_has_is_a_remark_and_reading_goes_on() {
    let rows = rows(&fixture("days.parquet")).await.unwrap();
    let [Ok(first), Err(note), Ok(last)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&first.value["day"], &last.value["day"]), (&json!("2024-02-29"), &json!("1970-01-01")));
    assert!(note.row == 2 && note.note.contains("a cell has no text"), "{note:?}");
}

/// The corpora of the fuzzers hold more of them.
#[tokio::test]
async fn a_parquet_file_that_lies_is_an_error() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/parquet");
    for (name, message) in [
        ("rows_without_columns", "and no columns"),
        ("footer_of_4_GiB", "not a readable Parquet file"),
        ("8bfedebd009f6519cf9297efc06fca9f9302d107", "a dictionary claims"),
    ] {
        let error = rows_of(&corpus.join(name)).await.unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[tokio::test]
async fn a_folder_gives_its_data_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let source = Storage::open_path(folder.path()).unwrap();
    let error = objects(&source).await.unwrap_err().to_string();
    assert!(error.contains("no object has this name"), "{error}");
    std::fs::write(folder.path().join("README.md"), "x").unwrap();
    let error = objects(&source).await.unwrap_err().to_string();
    assert!(error.contains("README.md") && error.contains(".jsonl"), "{error}");
    for name in ["b.jsonl", "a.parquet", "c.JSONL.gz", "data", "manifest.json"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    let names: Vec<String> =
        objects(&source).await.unwrap().iter().map(|object| object.file_name().to_string()).collect();
    assert_eq!(names, ["a.parquet", "b.jsonl", "c.JSONL.gz", "data"]);
    assert_eq!(objects(&source.join("README.md")).await.unwrap().len(), 1, "a named object is read whatever its name");
}

#[test]
fn what_unfolds_without_end_is_stopped() {
    let mut capped = Capped { reader: io::repeat(0), left: 100 };
    assert_eq!(io::copy(&mut capped, &mut io::sink()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
}

//! How an upload that breaks off ends, and how much of one is held in memory.

use futures::{FutureExt, StreamExt};

use super::*;

#[tokio::test]
async fn an_upload_that_breaks_off_never_looks_complete() {
    let (tx, rx) = channel::<Option<pb::UploadDatasetRequest>>(2);
    let chunk = pb::Dataset::chunk(Bytes::from_static(b"half"));
    tx.send(Some(chunk.clone())).await.expect("room");
    drop(tx);
    let mut sent = Box::pin(messages(rx));
    assert_eq!(sent.next().await, Some(chunk));
    assert_eq!(sent.next().await, Some(pb::UploadDatasetRequest::default()), "a message that the server refuses");
    assert_eq!(sent.next().now_or_never(), None, "and no end of the stream");
}

#[tokio::test]
async fn an_upload_that_is_complete_ends_its_stream() {
    let (tx, rx) = channel::<Option<pb::UploadDatasetRequest>>(2);
    tx.send(None).await.expect("room");
    assert_eq!(messages(rx).count().await, 0);
}

/// A file of so many bytes, which somebody may write to.
fn file(folder: &tempfile::TempDir, size_bytes: u64) -> (LocalFile, std::fs::File) {
    let path = folder.path().join("rows.jsonl");
    let written = std::fs::File::create(&path).expect("a file");
    written.set_len(size_bytes).expect("room");
    (LocalFile::open(&path).expect("a file"), written)
}

#[tokio::test]
async fn a_server_that_takes_parts_of_any_size_gets_none_that_is_larger_than_what_is_to_be_held() {
    let folder = tempfile::tempdir().expect("a folder");
    let client = Client::unconnected();
    let files = vec![file(&folder, MAX_PART_BYTES + 3).0];
    let upload = Upload::new(&client, files, "rows.jsonl".to_owned(), "");
    let mut reader = Reader::of(&upload.files);
    for part_bytes in [1 << 40, u64::MAX] {
        let place = Place { part_bytes, ..Place::default() };
        let part = upload.next_part::<pb::Dataset>(place, &mut reader).await.expect("readable").expect("a part");
        let bytes: u64 = part.iter().filter_map(|(_, sent)| sent.map(|(_, bytes)| bytes)).sum();
        assert!(bytes > 0 && bytes <= MAX_PART_BYTES, "{bytes}");
    }
}

#[tokio::test]
async fn a_file_that_has_grown_by_its_last_part_is_refused_before_that_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let client = Client::unconnected();
    let (file, written) = file(&folder, MAX_PART_BYTES);
    let upload = Upload::new(&client, vec![file], "rows.jsonl".to_owned(), "");
    written.set_len(MAX_PART_BYTES + 1).expect("room");
    let place = Place { part_bytes: MAX_PART_BYTES, ..Place::default() };
    let error = upload.next_part::<pb::Dataset>(place, &mut Reader::of(&upload.files)).await.expect_err("it has grown");
    assert!(error.to_string().contains("changed while it was sent"), "{error}");
}

//! What is taken from a model's folder, and how an upload that breaks off ends.

use super::*;

fn folder_of(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in names {
        std::fs::write(folder.path().join(name), name).expect("a file");
    }
    folder
}

#[test]
fn a_models_folder_gives_what_a_model_needs_in_order_of_names() {
    let folder = folder_of(&[
        "config.json",
        "model-00002.safetensors",
        "model-00001.safetensors",
        "tokenizer.model",
        "chat_template.jinja",
        "pytorch_model.bin",
        ".cache.json",
        "README.md",
    ]);
    std::fs::create_dir(folder.path().join("sub.json")).expect("a folder");
    let files = model_files(folder.path()).expect("a model");
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    let expected =
        ["chat_template.jinja", "config.json", "model-00001.safetensors", "model-00002.safetensors", "tokenizer.model"];
    assert_eq!(names, expected);
    assert_eq!(files[1].size_bytes, "config.json".len() as u64);
}

#[test]
fn what_is_no_model_is_told_by_what_it_lacks() {
    for (names, lacks) in [
        (&["model.safetensors"][..], "config.json"),
        (&["config.json", "pytorch_model.bin"], ".safetensors"),
        (&[], "config.json"),
    ] {
        let folder = folder_of(names);
        let error = model_files(folder.path()).err().expect("no model").to_string();
        assert!(error.contains(lacks), "{error}");
    }
    let folder = folder_of(&["weights.bin", "model.gguf"]);
    let error = model_files(&folder.path().join("weights.bin")).err().expect("no model").to_string();
    assert!(error.contains(".gguf"), "{error}");
    assert_eq!(model_files(&folder.path().join("model.gguf")).expect("a model").len(), 1);
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_looks_complete() {
    use futures::{FutureExt, StreamExt};

    let (tx, rx) = channel::<Option<pb::UploadDatasetRequest>>(2);
    let header = pb::UploadDatasetRequest { part: Some(DatasetPart::Header(pb::UploadDatasetHeader::default())) };
    tx.send(Some(header.clone())).await.expect("room");
    drop(tx);
    let mut sent = Box::pin(messages(rx));
    assert_eq!(sent.next().await, Some(header));
    assert_eq!(sent.next().await, Some(pb::UploadDatasetRequest::default()), "a message that the server refuses");
    assert_eq!(sent.next().now_or_never(), None, "and no end of the stream");
}

#[tokio::test]
async fn an_upload_that_is_complete_ends_its_stream() {
    use futures::StreamExt;

    let (tx, rx) = channel::<Option<pb::UploadDatasetRequest>>(2);
    tx.send(None).await.expect("room");
    assert_eq!(messages(rx).count().await, 0);
}

#[tokio::test]
async fn chunks_are_full_but_the_last() {
    let folder = folder_of(&[]);
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, vec![7; 2 * CHUNK_BYTES + 5]).expect("a file");
    let mut reader = tokio::fs::File::open(&path).await.expect("a file");
    let mut sizes = Vec::new();
    loop {
        match next_chunk(&mut reader).await.expect("a chunk").len() {
            0 => break,
            size => sizes.push(size),
        }
    }
    assert_eq!(sizes, [CHUNK_BYTES, CHUNK_BYTES, 5]);
}

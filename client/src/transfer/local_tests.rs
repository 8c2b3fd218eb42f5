//! What is taken from a model's folder, and how files are read.

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
        let error = model_files(folder.path()).expect_err("no model").to_string();
        assert!(error.contains(lacks), "{error}");
    }
    let folder = folder_of(&["weights.bin", "model.gguf"]);
    let error = model_files(&folder.path().join("weights.bin")).expect_err("no model").to_string();
    assert!(error.contains(".gguf"), "{error}");
    assert_eq!(model_files(&folder.path().join("model.gguf")).expect("a model").len(), 1);
}

/// A file of so many bytes, and another one.
fn two_files(folder: &tempfile::TempDir, num_bytes: usize) -> [LocalFile; 2] {
    let file = |name: &str, content: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        LocalFile::open(&path).expect("a file")
    };
    [file("one.json", vec![7; num_bytes]), file("two.json", vec![8; 3])]
}

#[tokio::test]
async fn files_follow_each_other_in_full_chunks_but_the_last_of_each() {
    let folder = folder_of(&[]);
    let files = two_files(&folder, 2 * CHUNK_BYTES + 5);
    let mut reader = Reader::of(&files);
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next(u64::MAX).await.expect("a chunk") {
        chunks.push((chunk.file, chunk.begins, chunk.bytes.len()));
    }
    assert_eq!(chunks, [(0, true, CHUNK_BYTES), (0, false, CHUNK_BYTES), (0, false, 5), (1, true, 3)]);
    let sizes: Vec<_> = reader.digests().into_iter().map(|(size_bytes, _)| size_bytes).collect();
    assert_eq!(sizes, files.map(|file| file.size_bytes));
}

#[tokio::test]
async fn what_is_skipped_counts_in_the_digest() {
    let folder = folder_of(&[]);
    let files = two_files(&folder, 5);
    let mut whole = Reader::of(&files);
    while whole.next(u64::MAX).await.expect("a chunk").is_some() {}
    let mut rest = Reader::of(&files);
    rest.skip(2).await.expect("it can be read");
    let chunk = rest.next(2).await.expect("a chunk").expect("there is more");
    assert_eq!((chunk.file, chunk.begins, &*chunk.bytes), (0, false, &[7, 7][..]));
    while rest.next(u64::MAX).await.expect("a chunk").is_some() {}
    assert_eq!(rest.digests(), whole.digests());
}

#[tokio::test]
async fn a_file_that_changes_its_size_on_the_way_is_refused() {
    let folder = folder_of(&[]);
    for size in [4, 6] {
        let files = two_files(&folder, 5);
        std::fs::write(&files[0].path, vec![7; size]).expect("a file");
        let mut reader = Reader::of(&files);
        let failed = async {
            while reader.next(u64::MAX).await?.is_some() {}
            Ok::<_, Error>(())
        };
        let error = failed.await.expect_err("it changed").to_string();
        assert!(error.contains("one.json") && error.contains("size changed"), "{error}");
    }
}

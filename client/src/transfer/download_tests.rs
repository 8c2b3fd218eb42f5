//! Files as they arrive: what is whole is kept, anything else is refused with the file's name.

use super::*;

fn listed(name: &str, data: &[u8]) -> pb::CheckpointFile {
    let mut tally = Tally::default();
    tally.add(data);
    let (size_bytes, sha256) = tally.finish();
    pb::CheckpointFile { name: name.into(), size_bytes, sha256 }
}

fn chunk(file: Option<pb::CheckpointFile>, offset: u64, data: &'static [u8]) -> pb::DownloadCheckpointResponse {
    pb::DownloadCheckpointResponse { file, offset, data: data.into() }
}

fn weights() -> pb::CheckpointFile {
    listed("weights", b"abcdef")
}

/// The chunks of a checkpoint that is as it should be.
fn whole() -> Vec<pb::DownloadCheckpointResponse> {
    vec![
        chunk(Some(weights()), 0, b"abc"),
        chunk(None, 3, b"def"),
        chunk(Some(listed("empty", b"")), 0, b""),
        chunk(Some(listed(MANIFEST, b"{}")), 0, b"{}"),
    ]
}

/// What becomes of chunks when the manifest lists `weights` and `empty`: the files in the folder, or the error.
async fn received(chunks: Vec<pb::DownloadCheckpointResponse>) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = pb::Checkpoint { files: vec![weights(), listed("empty", b"")], ..Default::default() };
    let mut incoming = Incoming::new("job-1/step-1", &checkpoint, folder.path().to_owned())?;
    for chunk in chunks {
        incoming.take(chunk, &mut |_| {}).await?;
    }
    incoming.finish().await?;
    let entries = std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut files: Vec<_> = entries.map(|path| (name(&path), std::fs::read(&path).expect("a file"))).collect();
    files.sort();
    Ok(files)
}

async fn refused(chunks: Vec<pb::DownloadCheckpointResponse>, because: &str) {
    let error = received(chunks).await.expect_err(because).to_string();
    assert!(error.starts_with("job-1/step-1: ") && error.contains(because), "{error} should say {because:?}");
}

#[tokio::test]
async fn a_whole_checkpoint_is_written_as_it_was() {
    let files = received(whole()).await.expect("a checkpoint");
    let expected = [("empty", &b""[..]), (MANIFEST, b"{}"), ("weights", b"abcdef")];
    assert_eq!(files, expected.map(|(name, data)| (name.to_owned(), data.to_owned())));
}

#[tokio::test]
async fn a_stream_that_ends_early_is_refused() {
    for (kept, because) in
        [(1, "6 bytes with SHA-256"), (2, "without empty, manifest.json"), (3, "without manifest.json")]
    {
        refused(whole().into_iter().take(kept).collect(), because).await;
    }
}

#[tokio::test]
async fn other_bytes_than_announced_are_refused() {
    let mut chunks = whole();
    chunks[1].data = b"deF".as_slice().into();
    refused(chunks, "weights: 6 bytes with SHA-256").await;
}

#[tokio::test]
async fn more_bytes_than_announced_are_refused_before_they_are_written() {
    let mut chunks = whole();
    chunks[1].data = b"defg".as_slice().into();
    refused(chunks, "weights: more than the announced 6 bytes").await;
}

#[tokio::test]
async fn a_hole_in_a_file_is_refused() {
    let mut chunks = whole();
    chunks[1].offset = 4;
    refused(chunks, "weights: data for byte 4 came at byte 3").await;
}

#[tokio::test]
async fn a_file_that_differs_from_the_manifest_is_refused() {
    let mut chunks = whole();
    chunks[0].file = Some(listed("weights", b"another"));
    refused(chunks, "weights: the manifest says 6 bytes").await;
}

#[tokio::test]
async fn files_that_nobody_announced_are_refused() {
    refused(vec![chunk(Some(listed("more", b"")), 0, b"")], "more: not in the manifest").await;
    let mut chunks = whole();
    chunks.push(chunk(Some(weights()), 0, b"abc"));
    refused(chunks, "weights: not in the manifest, or sent twice").await;
    refused(vec![chunk(None, 0, b"abc")], "data came before the name of its file").await;
}

#[tokio::test]
async fn names_that_lead_out_of_the_folder_are_refused() {
    for name in ["../weights", "/etc/passwd", ".bashrc"] {
        refused(vec![chunk(Some(listed(name, b"")), 0, b"")], "it could leave the folder").await;
        let checkpoint = pb::Checkpoint { files: vec![listed(name, b"")], ..Default::default() };
        assert!(Incoming::new("job-1/step-1", &checkpoint, PathBuf::new()).is_err(), "{name}");
    }
}

#[test]
fn only_an_absent_or_empty_folder_is_written_into() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(refuse_occupied(folder.path()).is_ok());
    assert!(refuse_occupied(&folder.path().join("new")).is_ok());
    std::fs::write(folder.path().join("file"), "").expect("a file");
    let error = refuse_occupied(folder.path()).expect_err("occupied").to_string();
    assert!(error.contains("not empty"), "{error}");
    assert!(refuse_occupied(&folder.path().join("file")).is_err());
}

#[test]
fn an_incomplete_folder_leaves_with_its_download() {
    let home = tempfile::tempdir().expect("a folder");
    let there = || std::fs::read_dir(home.path()).expect("a folder").count();
    let mut folder = PartialFolder::beside(&home.path().join("adapter")).expect("made");
    assert_eq!(there(), 1);
    drop(folder);
    assert_eq!(there(), 0);
    folder = PartialFolder::beside(&home.path().join("adapter")).expect("made");
    folder.keep_as(&home.path().join("adapter")).expect("kept");
    drop(folder);
    assert!(home.path().join("adapter").is_dir());
}

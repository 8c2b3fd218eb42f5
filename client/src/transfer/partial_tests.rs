//! What is kept of a download that was cut, and what is refused.

use super::*;

fn listed(name: &str, data: &[u8]) -> pb::CheckpointFile {
    let mut tally = Tally::default();
    tally.add(data);
    let (size_bytes, sha256) = tally.finish();
    pb::CheckpointFile { name: name.into(), size_bytes, sha256 }
}

fn folder(home: &Path, files: &[pb::CheckpointFile]) -> PartialFolder {
    PartialFolder::beside(&home.join("adapter"), "job-1/step-1", files).expect("a folder")
}

#[tokio::test]
async fn a_part_goes_on_where_an_earlier_download_ended() {
    let home = tempfile::tempdir().expect("a folder");
    let file = listed("weights", b"abcdef");
    let partial = folder(home.path(), std::slice::from_ref(&file));
    let [part] = partial.parts(&file).expect("parts")[..] else { panic!("one part") };
    assert_eq!(part, Part { number: 0, start: 0, end: 6, done: 0 });
    let mut writer = partial.writer(&file, part).expect("a writer");
    assert_eq!(writer.take(0, b"abc").expect("taken"), 3);
    drop((writer, partial));

    let partial = folder(home.path(), std::slice::from_ref(&file));
    let [part] = partial.parts(&file).expect("parts")[..] else { panic!("one part") };
    assert_eq!(part.done, 3);
    let mut writer = partial.writer(&file, part).expect("a writer");
    assert!(!writer.is_whole());
    assert_eq!(writer.take(1, b"bcdefgh").expect("taken"), 3, "what is here and what is too much is left");
    assert!(writer.is_whole());
    partial.verify("job-1/step-1", &file).await.expect("whole");
    partial.keep_as(&home.path().join("adapter"), std::slice::from_ref(&file)).expect("kept");
    let names: Vec<_> = std::fs::read_dir(home.path().join("adapter")).expect("there").flatten().collect();
    assert_eq!(names.len(), 1, "the files alone: {names:?}");
    assert_eq!(std::fs::read(home.path().join("adapter/weights")).expect("a file"), b"abcdef");
}

#[test]
fn a_large_file_has_parts_of_its_own() {
    let home = tempfile::tempdir().expect("a folder");
    let file = pb::CheckpointFile { name: "w".into(), size_bytes: 2 * PART_BYTES + 5, ..Default::default() };
    let partial = folder(home.path(), std::slice::from_ref(&file));
    let parts = partial.parts(&file).expect("parts");
    assert_eq!(
        parts.iter().map(|part| (part.start, part.end - part.start)).collect::<Vec<_>>(),
        [(0, PART_BYTES), (PART_BYTES, PART_BYTES), (2 * PART_BYTES, 5)]
    );
    let mut last = partial.writer(&file, parts[2]).expect("a writer");
    last.take(2 * PART_BYTES, b"12345").expect("taken");
    let done: Vec<_> = partial.parts(&file).expect("parts").iter().map(|part| part.done).collect();
    assert_eq!(done, [0, 0, 5]);
}

#[tokio::test]
async fn other_bytes_than_announced_are_refused_and_fetched_again() {
    let home = tempfile::tempdir().expect("a folder");
    let file = listed("weights", b"abcdef");
    let partial = folder(home.path(), std::slice::from_ref(&file));
    let part = partial.parts(&file).expect("parts")[0];
    partial.writer(&file, part).expect("a writer").take(0, b"abcdeF").expect("taken");
    let error = partial.verify("job-1/step-1", &file).await.expect_err("damaged").to_string();
    assert!(error.starts_with("job-1/step-1: weights: 6 bytes with SHA-256"), "{error}");
    assert_eq!(partial.parts(&file).expect("parts")[0].done, 0);
}

#[test]
fn a_hole_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let file = listed("weights", b"abcdef");
    let partial = folder(home.path(), std::slice::from_ref(&file));
    let part = partial.parts(&file).expect("parts")[0];
    let mut writer = partial.writer(&file, part).expect("a writer");
    assert!(matches!(writer.take(4, b"ef"), Err(Misplaced::Hole { due: 0, found: 4 })));
}

#[test]
fn another_checkpoint_has_another_folder_and_one_download_at_a_time_writes_into_it() {
    let home = tempfile::tempdir().expect("a folder");
    let (one, other) = ([listed("weights", b"a")], [listed("weights", b"b")]);
    let first = folder(home.path(), &one);
    assert_ne!(first.path, folder(home.path(), &other).path);
    let refused = PartialFolder::beside(&home.path().join("adapter"), "job-1/step-1", &one).err().expect("busy");
    assert!(refused.to_string().contains("under way"), "{refused}");
    drop(first);
    folder(home.path(), &one);
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    for name in ["../weights", "/etc/passwd", ".bashrc"] {
        let error = refuse_unsafe("job-1/step-1", &[listed(name, b"")]).expect_err(name).to_string();
        assert!(error.contains("it could leave the folder"), "{error}");
    }
    assert!(refuse_unsafe("job-1/step-1", &[listed("weights", b"")]).is_ok());
}

#[test]
fn sizes_that_no_checkpoint_has_are_refused() {
    let of = |sizes: &[u64]| {
        let file = |&size_bytes| pb::CheckpointFile { name: "w".into(), size_bytes, ..Default::default() };
        refuse_unsafe("job-1/step-1", &sizes.iter().map(file).collect::<Vec<_>>())
    };
    assert!(of(&[MAX_BYTES / 2, MAX_BYTES / 2]).is_ok());
    for sizes in [&[MAX_BYTES, 1][..], &[u64::MAX, 1]] {
        let error = of(sizes).expect_err("too much").to_string();
        assert!(error.contains("refusing its size"), "{error}");
    }
}

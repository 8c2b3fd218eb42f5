//! Local storage for real; S3 only as far as it can go without a server (the rest is in hone-tests).

use std::time::Duration;

use super::*;

fn options(pairs: &[(&str, &str)]) -> StorageOptions {
    StorageOptions::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
}

#[test]
fn settings_come_from_the_environment_and_secrets_do_not_print() {
    let found = options(&[
        ("HONE_S3_ENDPOINT", "http://127.0.0.1:9"),
        ("AWS_DEFAULT_REGION", "eu-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ]);
    assert_eq!(found.s3_region, "eu-1");
    assert!(found.allow_http, "an http endpoint is what was asked for");
    assert!(!format!("{found:?}").contains("hunter2"));
    assert_eq!(options(&[]), StorageOptions::default());
}

#[test]
fn unusable_uris_say_what_is_allowed() {
    let check = |uri: &str, expected: &str| {
        let error = Storage::open(uri, &options(&[("HONE_S3_ENDPOINT", "http://x")])).unwrap_err().to_string();
        assert!(error.contains(uri) && error.contains(expected), "{error:?} should say {expected:?}");
    };
    check("rows.jsonl", "file:// or s3://");
    check("https://example.com/a", "https:// is not supported");
    check("file://host/a", "three slashes");
    check("s3:///a", "bucket");
    check("s3://bucket/a", "AWS_ACCESS_KEY_ID");
}

#[tokio::test]
async fn objects_go_round_through_a_local_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = Storage::open_path(folder.path()).unwrap();
    let object = root.join("a/b c%20é.txt");
    assert!(!object.exists().await.unwrap());
    object.put("hello").await.unwrap();
    assert_eq!(object.get().await.unwrap(), "hello");
    assert_eq!(std::fs::read_to_string(object.local_path().unwrap()).unwrap(), "hello");
    assert_eq!(Storage::open(&object.uri, &options(&[])).unwrap().get().await.unwrap(), "hello", "{}", object.uri);
    root.join("a/a.txt").put("1").await.unwrap();
    let names: Vec<_> = root.list().await.unwrap().into_iter().map(|entry| (entry.name, entry.num_bytes)).collect();
    assert_eq!(names, [("a/a.txt".to_string(), 1), ("a/b c%20é.txt".to_string(), 5)]);
    assert!(!root.exists().await.unwrap(), "a folder is no object");
    assert_eq!(root.join("a").delete_prefix().await.unwrap(), 2);
    assert!(object.get().await.unwrap_err().is_not_found());
    object.delete().await.unwrap();
    let dotted = Storage::open_path(&folder.path().join("not/./there/../yet")).unwrap();
    assert_eq!(dotted.path, root.join("not/yet").path);
    assert_eq!(root.join("/../x/./../y/").path, root.join("x/y").path, "a name never leads out");
}

#[tokio::test]
async fn large_files_go_in_parts_and_are_hashed_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..2 * PART_BYTES + 12345).map(|i| (i % 251) as u8).collect();
    let here = folder.path().join("here");
    std::fs::write(&here, &content).unwrap();
    let object = Storage::open_path(folder.path()).unwrap().join("there");
    let sent = object.put_file(&here).await.unwrap();
    assert_eq!(sent.num_bytes, content.len() as u64);
    assert_eq!(sent.sha256, hex::encode(Sha256::digest(&content)));
    let back = folder.path().join("back");
    assert_eq!(object.get_to_file(&back).await.unwrap(), sent);
    assert_eq!(std::fs::read(back).unwrap(), content);
}

#[tokio::test]
async fn a_store_that_does_not_answer_fails_soon_and_names_uri_and_step() {
    // A port that was free a moment ago: connections to it are refused.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let options =
        options(&[("HONE_S3_ENDPOINT", &endpoint), ("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")]);
    let start = std::time::Instant::now();
    let object = Storage::open("s3://bucket/rows.jsonl", &options).unwrap();
    let error = object.get().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { step: Step::Get, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("s3://bucket/rows.jsonl") && text.contains(&endpoint), "{text}");
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_refused_listing_is_a_refusal_although_it_comes_as_a_generic_error() {
    let body = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code></Error>";
    let root = Storage::open("file:///data", &options(&[])).unwrap();
    let error = root.failure(Step::List, object_store::Error::Generic { store: "S3", source: body.into() });
    assert!(matches!(&error, Error::Refused { reason, .. } if reason == "SignatureDoesNotMatch"), "{error:?}");
}

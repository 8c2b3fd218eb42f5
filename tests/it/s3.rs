//! Storage over a real S3 server, by itself and under the whole system.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use hone_client::{Client, v1};
use hone_data::storage::{Error, Step, Storage};
use hone_tests::{
    Act, Bucket, Ended, Proxy, Script, SeaweedFs, Server, Setup, conversation, events_of, fixture_model, kind, soon,
    weights, write_lines,
};
use object_store::multipart::MultipartStore;
use sha2::{Digest, Sha256};
use v1::model_service_client::ModelServiceClient;

#[tokio::test]
async fn objects_go_round_through_s3() {
    let bucket = SeaweedFs::bucket("round-trip").await;
    let object = bucket.location("a/b c%20é.txt");
    assert!(!object.exists().await.unwrap());
    assert!(object.get().await.unwrap_err().is_not_found());
    object.put("hello").await.unwrap();
    assert_eq!(object.get().await.unwrap(), "hello");
    assert_eq!(Storage::open(&object.uri, &bucket.options()).unwrap().get().await.unwrap(), "hello", "{}", object.uri);
    object.put("other").await.unwrap();
    assert_eq!(object.num_bytes().await.unwrap(), Some(5), "replaced");
    bucket.location("a/a/deep.txt").put("1").await.unwrap();
    let entries = bucket.location("").list().await.unwrap();
    let names: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.num_bytes)).collect();
    assert_eq!(names, [("a/a/deep.txt", 1), ("a/b c%20é.txt", 5)]);
    assert_eq!(bucket.location("a").delete_prefix().await.unwrap(), 2);
    assert!(!object.exists().await.unwrap());
    object.delete().await.unwrap();
}

/// Above 8 MiB a file goes in parts; one part lost, doubled or swapped would change its digest.
#[tokio::test]
async fn large_files_go_in_parts_and_come_back_the_same() {
    let bucket = SeaweedFs::bucket("parts").await;
    let folder = tempfile::tempdir().unwrap();
    let (here, back) = (folder.path().join("here"), folder.path().join("back"));
    let content = weights((20 << 20) + 12345);
    std::fs::write(&here, &content).unwrap();
    let object = bucket.location("large");
    let sent = object.put_file(&here).await.unwrap();
    assert_eq!(sent.sha256, hex::encode(Sha256::digest(&content)));
    assert_eq!(object.num_bytes().await.unwrap(), Some(content.len() as u64));
    assert_eq!(object.get_to_file(&back).await.unwrap(), sent);
    assert!(std::fs::read(back).unwrap() == content);

    // From memory only what is very large goes in parts, since S3 takes no request above 5 GiB.
    let content = weights((64 << 20) + 12345);
    object.put(content.clone()).await.unwrap();
    assert!(object.get().await.unwrap() == content);
    bucket.clear().await;
}

/// The parts of an upload that nobody ended are in no listing, and are paid for until they are aborted.
#[tokio::test]
async fn parts_of_an_upload_that_was_cut_go_with_their_folder() {
    let bucket = SeaweedFs::bucket("cut").await;
    let object = bucket.location("job/weights 100%.bin");
    let mut parts = object.put_in_parts(1).await.unwrap();
    parts.write(weights((8 << 20) + 1).into()).await.unwrap();
    drop(parts);
    let entries = bucket.location("job").list().await.unwrap();
    let [note] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(note.name, "weights 100%.bin.unfinished");
    let content = String::from_utf8(note.location.get().await.unwrap().to_vec()).unwrap();
    let id = content.lines().last().unwrap().to_string();
    let s3 = bucket.client();
    let part = async |number| s3.put_part(&object.path, &id, number, weights(5 << 20).into()).await;
    part(1).await.expect("it is still there");
    assert_eq!(bucket.location("job").delete_prefix().await.unwrap(), 1, "the note");
    assert!(matches!(part(2).await, Err(object_store::Error::NotFound { .. })), "it is gone");
    assert!(bucket.location("").list().await.unwrap().is_empty());

    object.put_in_parts(1).await.unwrap().abort().await;
    let mut parts = object.put_in_parts(1).await.unwrap();
    parts.write(weights(9 << 20).into()).await.unwrap();
    parts.finish().await.unwrap();
    let names: Vec<_> = bucket.location("job").list().await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["weights 100%.bin"], "one that ended leaves no note");
    bucket.clear().await;
}

#[tokio::test]
async fn a_listing_longer_than_a_page_is_whole() {
    let bucket = SeaweedFs::bucket("pages").await;
    let names: Vec<String> = (0..1005).map(|number| format!("row-{number:04}")).collect();
    let puts = names.iter().map(|name| {
        let object = bucket.location(name);
        async move { object.put("x").await }
    });
    let stored: Vec<_> = stream::iter(puts).buffer_unordered(32).collect().await;
    assert!(stored.into_iter().all(|put| put.is_ok()));
    let listed: Vec<_> = bucket.location("").list().await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(listed, names);
    bucket.clear().await;
}

#[tokio::test]
async fn a_wrong_secret_is_refused_by_uri_and_step_and_never_shown() {
    let bucket = SeaweedFs::bucket("refused").await;
    let root = Storage::open(bucket.uri(), &bucket.options_with_wrong_secret()).unwrap();
    let object = root.join("rows.jsonl");
    let failures = [
        (Step::Get, object.get().await.err()),
        (Step::Put, object.put("x").await.err()),
        (Step::List, object.list().await.err()),
        (Step::Delete, object.delete().await.err()),
    ];
    for (expected, error) in failures {
        let error = error.unwrap_or_else(|| panic!("{expected} was allowed"));
        assert!(matches!(&error, Error::Refused { step, .. } if *step == expected), "{error:?}");
        let text = error.to_string();
        for part in [object.uri.as_str(), &format!("cannot {expected}"), "AWS_SECRET_ACCESS_KEY"] {
            assert!(text.contains(part), "{text:?} should say {part:?}");
        }
        assert!(!text.contains("wrong"), "{text}");
    }
}

/// A server whose storage root is the bucket.
fn on(bucket: &Bucket) -> Setup {
    Setup::default().flag("--storage-root", bucket.uri()).environment(bucket.environment())
}

#[tokio::test]
async fn the_whole_system_keeps_its_things_in_s3() {
    let bucket = SeaweedFs::bucket("whole").await;
    let server = on(&bucket).start().await;
    let client = server.client().await;
    assert_eq!(client.server_info().await.unwrap().storage_root, bucket.uri());
    let rows = write_lines(server.setup().path("rows.jsonl"), [conversation("a?", "b.")]);
    let dataset = client.upload_dataset(&rows).await.unwrap();
    assert!(dataset.uri.starts_with(bucket.uri()), "{dataset:?}");
    let model = client.upload_model(fixture_model("llama"), "tiny").await.unwrap();
    let preview = hone_client::v1::PreviewDatasetRequest {
        base_model: Some(hone_client::v1::BaseModel { uri: model.model_id.clone() }),
        data: Some(hone_client::v1::DataSpec { train: vec![dataset.dataset_id.clone()], ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(client.preview_dataset(preview).await.unwrap().reports[0].examples, 1);

    // Weights above 8 MiB go in parts, and are checked by content.
    let weights_bytes = (17 << 20) + 3;
    server.play(Script::of([Act::Running, Act::Steps(2), Act::Checkpoint { weights_bytes }, Act::Succeed]));
    let job = client.create_job(hone_tests::sft(&model.model_id, &dataset.dataset_id)).await.unwrap();
    let told: Vec<_> = events_of(&job).await.iter().map(kind).collect();
    assert_eq!(told.last().unwrap(), "SUCCEEDED", "{told:?}");
    let [checkpoint] = &job.checkpoints().await.unwrap()[..] else { panic!("one checkpoint") };
    assert_eq!(checkpoint.uri, format!("{}/jobs/{}/checkpoints/step-000002", bucket.uri(), job.id()));
    let folder = server.setup().path("download");
    job.download(&checkpoint.checkpoint_id, &folder).await.unwrap();
    assert!(std::fs::read(folder.join("adapter_model.safetensors")).unwrap() == weights(weights_bytes));

    let names: Vec<_> = bucket.location("").list().await.unwrap().into_iter().map(|entry| entry.name).collect();
    for prefix in ["datasets/", "jobs/", "models/"] {
        assert!(names.iter().any(|name| name.starts_with(prefix)), "{names:?}");
    }
    let local = server.setup().data_dir().join("storage");
    assert!(!local.exists(), "nothing is kept on this machine");

    job.delete().await.unwrap();
    client.delete_dataset(&dataset.dataset_id).await.unwrap();
    client.delete_model(&model.model_id).await.unwrap();
    let left: Vec<_> = bucket.location("").list().await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The parts of an upload go on as parts of S3's own, over a cut of the way to the server; what is refused leaves none behind.
#[tokio::test]
async fn uploads_go_to_s3_in_parts_and_over_a_cut() {
    let bucket = SeaweedFs::bucket("uploads").await;
    let server = on(&bucket).start().await;
    let proxy = Proxy::before(server.address()).await;
    let client = Client::connect(proxy.url()).await.unwrap();
    let rows = server.setup().path("rows.jsonl");
    std::fs::write(&rows, format!("{{\"text\": \"{}\"}}\n", "word ".repeat(200)).repeat(48 << 10)).unwrap();
    let mut is_cut = false;
    let mut cut = |progress: hone_client::Progress<'_>| {
        if !is_cut && progress.done_bytes > 40 << 20 {
            proxy.cut();
            is_cut = true;
        }
    };
    let dataset = client.upload_dataset_with(&rows, &mut cut).await.unwrap();
    assert!(is_cut);
    let stored = Storage::open(&dataset.uri, &bucket.options()).unwrap().get().await.unwrap();
    assert!(stored == std::fs::read(&rows).unwrap());
    let names: Vec<_> = bucket.location("datasets").list().await.unwrap().into_iter().map(|entry| entry.name).collect();
    let expected = ["manifest.json", "rows.jsonl"].map(|name| format!("{}/{name}", dataset.dataset_id));
    assert_eq!(names, expected, "and no note of an upload that has not ended");

    // A model that is none: its weights have gone in parts by the time that it is refused.
    let refused = two_files_as_a_model(&server).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(bucket.location("models").list().await.unwrap().is_empty());
    client.delete_dataset(&dataset.dataset_id).await.unwrap();
    bucket.clear().await;
}

/// Sends two GGUF files as one model, which no client of ours does.
async fn two_files_as_a_model(server: &Server) -> Result<(), tonic::Status> {
    use v1::upload_model_request::Part;
    let mut parts = vec![Part::Header(v1::UploadModelHeader::default())];
    for (name, size) in [("a.gguf", 20 << 20), ("b.gguf", 1 << 20)] {
        parts.push(Part::File(v1::ModelFile { name: name.into(), ..Default::default() }));
        parts.extend(weights(size).chunks(1 << 20).map(|chunk| Part::Chunk(chunk.to_vec().into())));
    }
    let messages = parts.into_iter().map(|part| v1::UploadModelRequest { part: Some(part) });
    let mut stub = ModelServiceClient::connect(server.url()).await.unwrap();
    soon("a refusal", stub.upload_model(stream::iter(messages))).await.map(drop)
}

/// One line that says all of `words`, soon.
fn fails_soon(ended: &Ended, since: Instant, words: &[&str]) {
    assert!(!ended.status.success(), "{ended:#?}");
    let last = ended.stderr.trim_end().lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{last:?} should say {word:?}");
    }
    assert!(since.elapsed() < Duration::from_secs(30), "it took {:?}", since.elapsed());
}

#[tokio::test]
async fn a_server_with_a_wrong_secret_names_root_and_step() {
    let bucket = SeaweedFs::bucket("wrong-secret").await;
    let wrong = [("AWS_SECRET_ACCESS_KEY".to_owned(), "hunter2".to_owned())];
    let since = Instant::now();
    let ended = on(&bucket).environment(wrong).run().await;
    fails_soon(&ended, since, &[bucket.uri(), "cannot put", "access was refused", "AWS_SECRET_ACCESS_KEY"]);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_server_whose_store_does_not_answer_says_so_soon() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let environment = [
        variable("HONE_S3_ENDPOINT", &format!("http://{free}")),
        variable("AWS_ACCESS_KEY_ID", "key"),
        variable("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let setup = Setup::default().flag("--storage-root", "s3://bucket/root").environment(environment);
    let since = Instant::now();
    fails_soon(&setup.run().await, since, &["s3://bucket/root", "does not answer", &free.to_string()]);
}

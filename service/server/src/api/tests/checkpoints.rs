//! Checkpoints: listed by their manifests, fetched whole or not at all.

use std::path::PathBuf;

use hone_job::checkpoint::{File, MANIFEST_VERSION, Manifest, id_of_step};
use hone_proto::v1 as pb;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::assert_refused;
use crate::testing::{Harness, soon};

/// A server with a job that has ended, and the folder of its checkpoints.
async fn ended_job() -> (Harness, String, PathBuf) {
    let mut server = Harness::start().await;
    let job_id = server.create().await;
    server.launch().await.exit(crate::executor::Status::Code(1));
    server.events(&job_id).await;
    let folder = server.folder.path().join("storage").join("jobs").join(&job_id).join("checkpoints");
    (server, job_id, folder)
}

fn write(folder: &std::path::Path, job_id: &str, step: u64, weights: &[u8]) {
    let folder = folder.join(id_of_step(step));
    std::fs::create_dir_all(&folder).unwrap();
    let mut files = Vec::new();
    for (name, content) in [("adapter_model.safetensors", weights), ("empty.txt", b"".as_slice())] {
        std::fs::write(folder.join(name), content).unwrap();
        let sha256 = hex::encode(Sha256::digest(content));
        files.push(File { name: name.into(), size_bytes: content.len() as u64, sha256 });
    }
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        job_id: job_id.into(),
        attempt: 1,
        step,
        created_at: "2026-01-02T03:04:05Z".into(),
        spec_sha256: String::new(),
        base_model_fingerprint: String::new(),
        files,
        metrics: [("eval_loss".to_string(), 1.5)].into(),
    };
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

async fn download(server: &Harness, job_id: &str, checkpoint_id: &str) -> Result<Vec<(String, Vec<u8>)>, Status> {
    download_file(server, job_id, checkpoint_id, "").await
}

async fn download_file(
    server: &Harness,
    job_id: &str,
    checkpoint_id: &str,
    file_name: &str,
) -> Result<Vec<(String, Vec<u8>)>, Status> {
    let (job_id, checkpoint_id) = (job_id.to_string(), checkpoint_id.to_string());
    let request =
        pb::DownloadCheckpointRequest { job_id, checkpoint_id, file_name: file_name.into(), ..Default::default() };
    let mut chunks = soon(server.jobs().download_checkpoint(request)).await?.into_inner();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some(chunk) = soon(chunks.message()).await? {
        if let Some(file) = chunk.file {
            files.push((file.name, Vec::new()));
        }
        let (_, content) = files.last_mut().unwrap();
        assert_eq!(chunk.offset, content.len() as u64);
        assert!(chunk.data.len() <= 1 << 20);
        content.extend_from_slice(&chunk.data);
    }
    Ok(files)
}

fn get(job_id: &str, checkpoint_id: &str) -> pb::GetCheckpointRequest {
    pb::GetCheckpointRequest { job_id: job_id.into(), checkpoint_id: checkpoint_id.into() }
}

#[tokio::test]
async fn checkpoints_are_listed_newest_first_and_only_with_a_manifest() {
    let (server, job_id, folder) = ended_job().await;
    let list = |page_size, page_token: &str| {
        let request = pb::ListCheckpointsRequest { job_id: job_id.clone(), page_size, page_token: page_token.into() };
        let mut client = server.jobs();
        async move { soon(client.list_checkpoints(request)).await.unwrap().into_inner() }
    };
    assert_eq!(list(0, "").await, pb::ListCheckpointsResponse::default());
    for step in [5, 20, 1_000_000] {
        write(&folder, &job_id, step, b"weights");
    }
    std::fs::create_dir_all(folder.join("step-000030")).unwrap();
    std::fs::write(folder.join("step-000030").join("adapter_model.safetensors"), "half").unwrap();
    let first = list(2, "").await;
    let ids: Vec<_> = first.checkpoints.iter().map(|checkpoint| checkpoint.checkpoint_id.as_str()).collect();
    assert_eq!(ids, ["step-1000000", "step-000020"]);
    let second = list(2, &first.next_page_token).await;
    assert_eq!((second.checkpoints.len(), second.next_page_token.as_str()), (1, ""));
    let checkpoint = &second.checkpoints[0];
    assert_eq!((checkpoint.step, checkpoint.size_bytes, checkpoint.eval_loss), (5, 7, Some(1.5)));
    assert_eq!(checkpoint.create_time.unwrap().seconds, 1_767_323_045);
    let missing = soon(server.jobs().get_checkpoint(get(&job_id, "step-000030"))).await;
    assert_refused(missing, Code::NotFound, "NOT_FOUND");
    let outside = soon(server.jobs().get_checkpoint(get(&job_id, "../../x"))).await;
    assert_refused(outside, Code::NotFound, "NOT_FOUND");
}

#[tokio::test]
async fn a_checkpoint_comes_in_chunks_with_its_manifest_last() {
    let (server, job_id, folder) = ended_job().await;
    assert_refused(download(&server, &job_id, "").await, Code::NotFound, "NO_CHECKPOINT");
    let weights: Vec<u8> = (0..(5 << 20) / 2).map(|index| (index % 251) as u8).collect();
    write(&folder, &job_id, 1, b"old");
    write(&folder, &job_id, 2, &weights);
    let files = download(&server, &job_id, "").await.unwrap();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["adapter_model.safetensors", "empty.txt", "manifest.json"]);
    assert_eq!(files[0].1, weights);
    assert_eq!(files[2].1, std::fs::read(folder.join("step-000002").join("manifest.json")).unwrap());
}

#[tokio::test]
async fn one_file_of_a_checkpoint_comes_alone() {
    let (server, job_id, folder) = ended_job().await;
    write(&folder, &job_id, 1, b"weights");
    let manifest = std::fs::read(folder.join("step-000001").join("manifest.json")).unwrap();
    let files =
        [("adapter_model.safetensors", b"weights".to_vec()), ("empty.txt", vec![]), ("manifest.json", manifest)];
    for (name, content) in files {
        let found = download_file(&server, &job_id, "step-000001", name).await.unwrap();
        assert_eq!(found, [(name.to_string(), content)]);
    }
    for name in ["other.txt", "../step-000001/empty.txt", "."] {
        assert_refused(download_file(&server, &job_id, "step-000001", name).await, Code::NotFound, "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_damaged_checkpoint_is_data_loss_and_names_the_file() {
    let (server, job_id, folder) = ended_job().await;
    let file = folder.join("step-000001").join("adapter_model.safetensors");
    let damages: [(&str, &dyn Fn()); 4] = [
        ("SHA-256", &|| std::fs::write(&file, "wEights").unwrap()),
        ("has 3 bytes", &|| std::fs::write(&file, "wei").unwrap()),
        ("longer than 7", &|| std::fs::write(&file, "weights and more").unwrap()),
        ("missing", &|| std::fs::remove_file(&file).unwrap()),
    ];
    for (says, damage) in damages {
        write(&folder, &job_id, 1, b"weights");
        damage();
        let refused = download(&server, &job_id, "step-000001").await;
        let status = assert_refused(refused, Code::DataLoss, "CHECKPOINT_DAMAGED");
        assert!(status.message().contains("adapter_model.safetensors") && status.message().contains(says), "{status}");
    }
    std::fs::write(folder.join("step-000001").join("manifest.json"), "{").unwrap();
    assert_refused(download(&server, &job_id, "step-000001").await, Code::DataLoss, "CHECKPOINT_DAMAGED");
}

#[tokio::test]
async fn a_deleted_checkpoint_leaves_no_file_and_a_deleted_job_none_at_all() {
    let (server, job_id, folder) = ended_job().await;
    write(&folder, &job_id, 1, b"a");
    write(&folder, &job_id, 2, b"b");
    let delete = pb::DeleteCheckpointRequest { job_id: job_id.clone(), checkpoint_id: "step-000001".into() };
    soon(server.jobs().delete_checkpoint(delete.clone())).await.unwrap();
    assert!(!folder.join("step-000001").join("adapter_model.safetensors").exists());
    assert_refused(soon(server.jobs().delete_checkpoint(delete)).await, Code::NotFound, "NOT_FOUND");
    soon(server.jobs().get_checkpoint(get(&job_id, "step-000002"))).await.unwrap();
    soon(server.jobs().delete_job(pb::DeleteJobRequest { job_id })).await.unwrap();
    assert!(!folder.join("step-000002").join("manifest.json").exists());
}

#[tokio::test]
async fn a_file_of_a_checkpoint_comes_in_parts() {
    let (server, job_id, folder) = ended_job().await;
    let weights: Vec<u8> = (0..(5 << 20) / 2).map(|index| (index % 251) as u8).collect();
    write(&folder, &job_id, 1, &weights);
    let part = |file_name: &str, offset, length| {
        let (job_id, checkpoint_id, file_name) = (job_id.clone(), "step-000001".to_string(), file_name.to_string());
        let request = pb::DownloadCheckpointRequest { job_id, checkpoint_id, file_name, offset, length };
        let mut jobs = server.jobs();
        async move {
            let mut chunks = soon(jobs.download_checkpoint(request)).await?.into_inner();
            let (mut file, mut content, mut due) = (None, Vec::new(), offset);
            while let Some(chunk) = soon(chunks.message()).await? {
                assert_eq!(chunk.offset, due);
                due += chunk.data.len() as u64;
                file = file.or(chunk.file);
                content.extend_from_slice(&chunk.data);
            }
            Ok::<_, Status>((file.unwrap(), content))
        }
    };
    let size = weights.len() as u64;
    for (offset, length, expected) in [
        (0, 7, &weights[..7]),
        (1_500_000, 1_000_000, &weights[1_500_000..2_500_000]),
        (2_000_000, 0, &weights[2_000_000..]),
        (size - 3, 100, &weights[weights.len() - 3..]),
        (size, 0, &[]),
    ] {
        let (file, found) = part("adapter_model.safetensors", offset, length).await.unwrap();
        assert!(found == expected, "{length} bytes from {offset}");
        assert_eq!((file.size_bytes, file.sha256), (size, hex::encode(Sha256::digest(&weights))));
    }
    let manifest = std::fs::read(folder.join("step-000001").join("manifest.json")).unwrap();
    assert_eq!(part("manifest.json", 5, 4).await.unwrap().1, manifest[5..9]);
    for (file_name, offset, field) in [("", 1, "file_name"), ("adapter_model.safetensors", size + 1, "offset")] {
        assert_eq!(super::told(&part(file_name, offset, 0).await.unwrap_err()).2, [field]);
    }
    assert_refused(part("other", 1, 0).await, Code::NotFound, "NOT_FOUND");
    // What was stored and is no longer whole is told when the part ends early.
    std::fs::write(folder.join("step-000001").join("adapter_model.safetensors"), &weights[..1_600_000]).unwrap();
    assert_refused(part("adapter_model.safetensors", 1_500_000, 0).await, Code::DataLoss, "CHECKPOINT_DAMAGED");
}

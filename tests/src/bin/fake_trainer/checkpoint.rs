//! A checkpoint as a trainer writes it, its weights made up: files first, the manifest last.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::Context;
use hone_data::storage::{Location, Storage, StorageOptions};
use hone_job::checkpoint::{File, MANIFEST, MANIFEST_VERSION, Manifest, id_of_step};
use hone_job::event::CheckpointSaved;
use hone_proto::trainer::v1::Welcome;
use hone_tests::weights;
use sha2::{Digest, Sha256};

/// Writes the checkpoint after `step` below the job's folder.
pub(crate) async fn write(
    welcome: &Welcome,
    attempt: u32,
    step: u64,
    weights_bytes: u64,
) -> anyhow::Result<CheckpointSaved> {
    let job = Storage::open(&welcome.job_uri, &StorageOptions::from_env())?;
    let folder = job.join("checkpoints").join(&id_of_step(step));
    let files = vec![
        put(&folder, "adapter_config.json", br#"{"peft_type": "LORA", "r": 16}"#.to_vec()).await?,
        put(&folder, "adapter_model.safetensors", weights(weights_bytes)).await?,
        put(&folder, "trainer_state.json", format!(r#"{{"step": {step}}}"#).into_bytes()).await?,
    ];
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        job_id: std::env::var("HONE_JOB_ID").context("HONE_JOB_ID is not set")?,
        attempt,
        step,
        created_at: prost_types::Timestamp::from(SystemTime::now()).to_string(),
        spec_sha256: hex::encode(Sha256::digest(&welcome.spec_json)),
        base_model_fingerprint: hex::encode(Sha256::digest("imaginary")),
        files,
        metrics: BTreeMap::new(),
    };
    folder.join(MANIFEST).put(serde_json::to_vec_pretty(&manifest)?).await?;
    Ok(CheckpointSaved {
        checkpoint_id: id_of_step(step),
        step,
        uri: folder.uri.clone(),
        size_bytes: manifest.size_bytes(),
        eval_loss: None,
        seconds: 0.0,
    })
}

/// Writes a file the way trainers do, through a local one, so that a large one goes in parts.
async fn put(folder: &Location, name: &str, content: Vec<u8>) -> anyhow::Result<File> {
    let local = tempfile::NamedTempFile::new()?;
    std::fs::write(local.path(), &content)?;
    let written = folder.join(name).put_file(local.path()).await?;
    Ok(File { name: name.into(), size_bytes: written.num_bytes, sha256: written.sha256 })
}

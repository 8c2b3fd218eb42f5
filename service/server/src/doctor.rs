//! What the trainer's LibTorch offers, asked once at start: the program says so as JSON. The server itself links none.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::executor::environment;

/// How long the trainer may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the trainer found out about its machine.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Report {
    /// LibTorch's version.
    pub(crate) libtorch_version: String,
    /// Devices it can compute on.
    pub(crate) devices: Vec<Device>,
    /// Attention kernels it has.
    pub(crate) attention_kernels: Vec<String>,
}

/// A device that computes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct Device {
    /// Name, such as cpu or cuda:0.
    pub(crate) name: String,
    /// What it is, for people.
    pub(crate) description: String,
    /// Its memory, in bytes.
    pub(crate) memory_bytes: u64,
}

/// Asks in the background; the answer is there once it is.
pub(crate) fn start(trainer: &Path, handed_on: &[String], stopping: CancellationToken) -> Arc<OnceLock<Report>> {
    let answer = Arc::new(OnceLock::new());
    let (trainer, handed_on, answered) = (trainer.to_path_buf(), handed_on.to_vec(), answer.clone());
    tokio::spawn(async move {
        match stopping.run_until_cancelled(tokio::time::timeout(PATIENCE, ask(trainer.clone(), handed_on))).await {
            None => {}
            Some(Ok(Ok(report))) => {
                let devices: Vec<&str> = report.devices.iter().map(|device| device.name.as_str()).collect();
                tracing::info!(libtorch_version = report.libtorch_version, ?devices, "the trainer is well");
                let _ = answered.set(report);
            }
            Some(Ok(Err(error))) => {
                tracing::warn!(trainer = %trainer.display(), "the trainer's doctor failed: {error}")
            }
            Some(Err(_)) => tracing::warn!(trainer = %trainer.display(), "the trainer's doctor gave no answer"),
        }
    });
    answer
}

async fn ask(trainer: PathBuf, handed_on: Vec<String>) -> Result<Report, String> {
    let mut command = Command::new(&trainer);
    environment::clean(&mut command, &handed_on);
    let output = command
        .args(["doctor", "--json", "--quick"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, words.lines().last().unwrap_or_default()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("its answer does not parse: {error}"))
}

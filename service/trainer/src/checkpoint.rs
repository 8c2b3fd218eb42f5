//! Checkpoints: a snapshot's files in, verified objects out, the manifest last; and back.
//!
//! Whoever finds a manifest finds every file it names, with the size and digest it names. A save first removes an older
//! manifest of the same step, then writes the files, reads each of them back, and writes the manifest; a reader checks
//! everything again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use hone_data::storage::{self, Location, Transferred};
use hone_job::checkpoint::{File, MANIFEST, MANIFEST_VERSION, Manifest, id_of_step};
use hone_job::spec::Metric;
use sha2::{Digest, Sha256};

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// What came back is not what was written.
    #[error("{uri}: {what}")]
    Damaged {
        /// The object.
        uri: String,
        /// What differs.
        what: String,
    },
    /// The checkpoint belongs to another base model.
    #[error("{uri}: it was trained on another base model (fingerprint {found}, this one is {expected})")]
    OtherBaseModel {
        /// The checkpoint.
        uri: String,
        /// Fingerprint in its manifest.
        found: String,
        /// Fingerprint of the model of this run.
        expected: String,
    },
    /// The checkpoint holds the state of another optimizer.
    #[error("{uri}: it holds the state of {found}, this run's optimizer is {expected}")]
    OtherOptimizer {
        /// The checkpoint.
        uri: String,
        /// The optimizer that it was made with.
        found: String,
        /// The optimizer of this run.
        expected: String,
    },
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that a checkpoint holds, in host memory.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Optimizer steps taken.
    pub step: u64,
    /// Files by name, without the manifest.
    pub files: Vec<(String, Bytes)>,
    /// Metrics at the time.
    pub metrics: BTreeMap<String, f64>,
}

impl Snapshot {
    /// Bytes of all files.
    pub fn num_bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// What a job's checkpoints have in common.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The job.
    pub job_id: String,
    /// The attempt that writes.
    pub attempt: u32,
    /// SHA-256 of the effective spec as JSON.
    pub spec_sha256: String,
    /// Fingerprint of the base model.
    pub base_model_fingerprint: String,
}

/// A checkpoint that is durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Its manifest.
    pub manifest: Manifest,
    /// Id within the job.
    pub checkpoint_id: String,
    /// Where it lies.
    pub uri: String,
}

/// The checkpoints of one job: folders named by step.
#[derive(Debug, Clone)]
pub struct Folder {
    location: Location,
    origin: Origin,
}

impl Folder {
    /// Checkpoints in `location`, written as `origin` says.
    pub fn new(location: Location, origin: Origin) -> Folder {
        Folder { location, origin }
    }

    /// Where the checkpoint of a step lies, or would.
    pub fn uri_of(&self, step: u64) -> String {
        self.location.join(&id_of_step(step)).uri
    }

    /// Writes a snapshot; it exists once this returns.
    pub async fn save(&self, snapshot: &Snapshot) -> Result<Saved> {
        let mut writing = self.begin(snapshot.step).await?;
        for (name, bytes) in &snapshot.files {
            writing.put(name, bytes.clone()).await?;
        }
        writing.finish(snapshot.metrics.clone()).await
    }

    /// Begins to write the checkpoint of a step; of an older one, or of one that was cut, nothing is left.
    pub async fn begin(&self, step: u64) -> Result<Writing> {
        crate::pulse::beat();
        let folder = self.location.join(&id_of_step(step));
        remove(&folder).await?;
        Ok(Writing { folder, origin: self.origin.clone(), step, files: Vec::new() })
    }

    /// The manifests that are there, oldest first. One that cannot be read is left out: it is nobody's checkpoint.
    pub async fn manifests(&self) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for entry in self.location.list().await? {
            if entry.name.ends_with(&format!("/{MANIFEST}"))
                && let Ok(manifest) = Manifest::parse(&entry.location.get().await?)
            {
                manifests.push(manifest);
            }
        }
        manifests.sort_by_key(|manifest| manifest.step);
        Ok(manifests)
    }

    /// Removes the files of saves that were cut: those of steps that have no manifest. Gives how many there were.
    pub async fn sweep(&self) -> Result<u64> {
        let entries = self.location.list().await?;
        let parts = || entries.iter().filter_map(|entry| entry.name.split_once('/'));
        let whole: BTreeSet<&str> = parts().filter(|(_, file)| *file == MANIFEST).map(|(step, _)| step).collect();
        let cut: BTreeSet<&str> = parts().map(|(step, _)| step).filter(|step| !whole.contains(step)).collect();
        let mut num_files = 0;
        for step in cut {
            num_files += self.location.join(step).delete_prefix().await?;
        }
        Ok(num_files)
    }

    /// Removes checkpoints, so that of `manifests`, oldest first, the newest `keep_last` and the best one by a metric stay.
    /// 0 keeps all. Gives the steps of those that went.
    pub async fn prune(&self, manifests: &[Manifest], keep_last: u32, metric: Metric) -> Result<Vec<u64>> {
        let steps = superfluous(manifests, keep_last, metric);
        for step in &steps {
            remove(&self.location.join(&id_of_step(*step))).await?;
        }
        Ok(steps)
    }
}

/// Removes a checkpoint: its manifest first, so that it is never one that lacks files.
async fn remove(folder: &Location) -> Result<()> {
    folder.join(MANIFEST).delete().await?;
    folder.delete_prefix().await?;
    Ok(())
}

/// A checkpoint on its way: its files, one after the other, then the manifest.
#[derive(Debug)]
pub struct Writing {
    folder: Location,
    origin: Origin,
    step: u64,
    files: Vec<File>,
}

impl Writing {
    /// Writes a file and reads it back.
    pub async fn put(&mut self, name: &str, bytes: Bytes) -> Result<()> {
        let file = File { name: name.to_string(), size_bytes: bytes.len() as u64, sha256: sha256(&bytes) };
        crate::pulse::beat();
        let object = self.folder.join(name);
        object.put(bytes).await?;
        check(&object.uri, &file, &object.get().await?)?;
        self.files.push(file);
        Ok(())
    }

    /// The same with a file of this machine, which need not fit into memory.
    pub async fn put_file(&mut self, name: &str, path: &Path) -> Result<()> {
        let object = self.folder.join(name);
        let Transferred { num_bytes, sha256 } = object.put_file(path).await?;
        let file = File { name: name.to_string(), size_bytes: num_bytes, sha256 };
        let mut pieces = object.get_stream().await?;
        let (mut hash, mut size_bytes) = (Sha256::new(), 0);
        while let Some(piece) = pieces.try_next().await? {
            hash.update(&piece);
            size_bytes += piece.len() as u64;
        }
        check_digest(&object.uri, &file, size_bytes, hex::encode(hash.finalize()))?;
        self.files.push(file);
        Ok(())
    }

    /// Writes the manifest: from now on the checkpoint exists.
    pub async fn finish(self, metrics: BTreeMap<String, f64>) -> Result<Saved> {
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            job_id: self.origin.job_id,
            attempt: self.origin.attempt,
            step: self.step,
            created_at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            spec_sha256: self.origin.spec_sha256,
            base_model_fingerprint: self.origin.base_model_fingerprint,
            files: self.files,
            metrics,
        };
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest has a text");
        self.folder.join(MANIFEST).put(text).await?;
        Ok(Saved { manifest, checkpoint_id: id_of_step(self.step), uri: self.folder.uri })
    }

    /// Removes what was written.
    pub async fn abandon(self) -> Result<()> {
        self.folder.delete_prefix().await?;
        Ok(())
    }
}

/// The step of a checkpoint in a folder of this machine; 0 of anything else.
pub fn step_of(folder: &Path) -> u64 {
    let manifest = std::fs::read(folder.join(MANIFEST)).ok().and_then(|bytes| Manifest::parse(&bytes).ok());
    manifest.map_or(0, |manifest| manifest.step)
}

fn superfluous(manifests: &[Manifest], keep_last: u32, metric: Metric) -> Vec<u64> {
    if keep_last == 0 {
        return Vec::new();
    }
    let best = best(manifests, metric);
    let old = manifests.len().saturating_sub(keep_last as usize);
    manifests[..old].iter().map(|manifest| manifest.step).filter(|step| Some(*step) != best).collect()
}

/// Step of the checkpoint that is the best by a metric, the first of equals; none where it was not measured.
pub fn best(manifests: &[Manifest], metric: Metric) -> Option<u64> {
    let measured = manifests.iter().filter_map(|manifest| Some((*manifest.metrics.get(metric.key())?, manifest.step)));
    measured.min_by(|one, other| 0f64.total_cmp(&metric.gain(one.0, other.0))).map(|(_, step)| step)
}

/// Name of the held-out loss among a manifest's metrics.
pub const EVAL_LOSS: &str = "eval_loss";

/// A checkpoint that was read and found whole.
#[derive(Debug)]
pub struct Opened {
    /// Where it lies.
    pub uri: String,
    /// Its manifest.
    pub manifest: Manifest,
    files: BTreeMap<String, Bytes>,
}

/// Reads a checkpoint with all its files, and checks every one.
pub async fn open(location: &Location) -> Result<Opened> {
    let manifest = location.join(MANIFEST);
    let damaged = |what| Error::Damaged { uri: manifest.uri.clone(), what };
    let parsed = Manifest::parse(&manifest.get().await?).map_err(damaged)?;
    let mut files = BTreeMap::new();
    for file in &parsed.files {
        let object = location.join(&file.name);
        let bytes = object.get().await?;
        check(&object.uri, file, &bytes)?;
        files.insert(file.name.clone(), bytes);
    }
    Ok(Opened { uri: location.uri.clone(), manifest: parsed, files })
}

impl Opened {
    /// The content of a file.
    pub fn file(&self, name: &str) -> Result<&Bytes> {
        let missing = || Error::Damaged { uri: self.uri.clone(), what: format!("it has no file {name}") };
        self.files.get(name).ok_or_else(missing)
    }

    /// All files by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes))
    }

    /// Refuses a checkpoint of another base model.
    pub fn belongs_to(&self, base_model_fingerprint: &str) -> Result<()> {
        let found = &self.manifest.base_model_fingerprint;
        if found == base_model_fingerprint {
            return Ok(());
        }
        let (uri, found, expected) = (self.uri.clone(), found.clone(), base_model_fingerprint.to_string());
        Err(Error::OtherBaseModel { uri, found, expected })
    }
}

fn check(uri: &str, file: &File, bytes: &Bytes) -> Result<()> {
    check_digest(uri, file, bytes.len() as u64, sha256(bytes))
}

fn check_digest(uri: &str, file: &File, size_bytes: u64, found: String) -> Result<()> {
    let damaged = |what| Err(Error::Damaged { uri: uri.to_string(), what });
    if size_bytes != file.size_bytes {
        return damaged(format!("it has {size_bytes} bytes, {} were written", file.size_bytes));
    }
    if found != file.sha256 {
        return damaged(format!("its SHA-256 is {found}, that of what was written {}", file.sha256));
    }
    Ok(())
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_data::storage::Storage;

    fn folder(path: &std::path::Path) -> Folder {
        let origin = Origin {
            job_id: "job-1".into(),
            attempt: 2,
            spec_sha256: "s".into(),
            base_model_fingerprint: "base".into(),
        };
        Folder::new(Storage::open_path(path).unwrap(), origin)
    }

    fn snapshot(step: u64, eval_loss: Option<f64>) -> Snapshot {
        let files =
            vec![("a.bin".to_string(), Bytes::from(format!("weights of {step}"))), ("b.json".into(), "{}".into())];
        Snapshot { step, files, metrics: eval_loss.map(|loss| (EVAL_LOSS.to_string(), loss)).into_iter().collect() }
    }

    #[tokio::test]
    async fn what_was_saved_opens_and_is_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = folder(scratch.path());
        let saved = folder.save(&snapshot(7, Some(1.5))).await.unwrap();
        assert_eq!(saved.checkpoint_id, "step-000007");
        let opened = open(&folder.location.join("step-000007")).await.unwrap();
        assert_eq!(opened.manifest, saved.manifest);
        assert_eq!(opened.file("a.bin").unwrap(), "weights of 7");
        assert!(opened.file("c").unwrap_err().to_string().contains("no file c"));
        opened.belongs_to("base").unwrap();
        assert!(opened.belongs_to("other").unwrap_err().to_string().contains("another base model"));
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_by_name() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = folder(scratch.path());
        folder.save(&snapshot(7, None)).await.unwrap();
        let path = scratch.path().join("step-000007/a.bin");
        for (content, message) in [("weights of 8", "SHA-256"), ("short", "has 5 bytes, 12 were written")] {
            std::fs::write(&path, content).unwrap();
            let error = open(&folder.location.join("step-000007")).await.unwrap_err().to_string();
            assert!(error.contains("step-000007/a.bin") && error.contains(message), "{error}");
        }
        std::fs::remove_file(scratch.path().join("step-000007/manifest.json")).unwrap();
        assert!(open(&folder.location.join("step-000007")).await.is_err());
        assert!(folder.manifests().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_cut_save_left_is_swept_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = folder(scratch.path());
        folder.save(&snapshot(10, None)).await.unwrap();
        let mut cut = folder.begin(20).await.unwrap();
        cut.put("a.bin", Bytes::from_static(b"a")).await.unwrap();
        // The beginning of a file, as the store writes it before it has its name.
        let begun = scratch.path().join("step-000020/b.json#1");
        std::fs::write(&begun, "{").unwrap();
        assert_eq!(folder.sweep().await.unwrap(), 1);
        assert!(!scratch.path().join("step-000020").exists());
        open(&folder.location.join("step-000010")).await.unwrap();
        assert_eq!(folder.sweep().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_newest_and_the_best_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = folder(scratch.path());
        for (step, loss) in [(10, Some(2.0)), (20, Some(1.0)), (30, None), (40, Some(1.2)), (50, Some(1.1))] {
            folder.save(&snapshot(step, loss)).await.unwrap();
        }
        let steps =
            async || -> Vec<u64> { folder.manifests().await.unwrap().iter().map(|manifest| manifest.step).collect() };
        folder.prune(&folder.manifests().await.unwrap(), 0, Metric::Loss).await.unwrap();
        assert_eq!(steps().await, [10, 20, 30, 40, 50]);
        folder.prune(&folder.manifests().await.unwrap(), 2, Metric::Loss).await.unwrap();
        assert_eq!(steps().await, [20, 40, 50]);
    }

    #[test]
    fn the_best_is_the_first_of_equals_in_the_metrics_direction() {
        let manifest = |step, key: &str, value| Manifest {
            version: MANIFEST_VERSION,
            job_id: String::new(),
            attempt: 1,
            step,
            created_at: String::new(),
            spec_sha256: String::new(),
            base_model_fingerprint: String::new(),
            files: Vec::new(),
            metrics: [(key.to_string(), value)].into(),
        };
        let all = |key: &str| [(1, 0.5), (2, 0.7), (3, 0.7), (4, 0.5)].map(|(step, value)| manifest(step, key, value));
        assert_eq!(best(&all("eval_loss"), Metric::Loss), Some(1));
        assert_eq!(best(&all("eval_accuracy"), Metric::Accuracy), Some(2));
        assert_eq!(best(&all("eval_loss"), Metric::Margin), None);
    }
}

//! What a checkpoint promises: the manifest, which is written last. Without it a checkpoint does not exist.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the manifest's object, the last one written.
pub const MANIFEST: &str = "manifest.json";

/// Version of the manifest's layout that this code writes.
pub const MANIFEST_VERSION: u32 = 1;

/// The folder of the checkpoint taken after `step`, which is also its id within a job.
pub fn id_of_step(step: u64) -> String {
    format!("step-{step:06}")
}

/// Everything needed to trust and use a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout version, [`MANIFEST_VERSION`].
    pub version: u32,
    /// Job it belongs to.
    pub job_id: String,
    /// Attempt that wrote it.
    pub attempt: u32,
    /// Optimizer steps taken.
    pub step: u64,
    /// When it was written, RFC 3339, UTC.
    pub created_at: String,
    /// SHA-256 of the effective spec as JSON, hexadecimal.
    pub spec_sha256: String,
    /// Fingerprint of the base model: SHA-256 over its files' names, sizes and headers, hexadecimal.
    pub base_model_fingerprint: String,
    /// Every file but this manifest.
    pub files: Vec<File>,
    /// Metrics at the time, such as `eval_loss`.
    pub metrics: BTreeMap<String, f64>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Name within the checkpoint's folder.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Bytes of all files but the manifest.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Reads a manifest, refusing another layout, file names that would leave the folder, and sizes that nothing has.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        if manifest.version != MANIFEST_VERSION {
            return Err(format!("manifest version {}; this hone reads {MANIFEST_VERSION}", manifest.version));
        }
        if let Some(file) = manifest.files.iter().find(|file| !is_plain_name(&file.name)) {
            return Err(format!("file name {:?} is not a plain name", file.name));
        }
        match manifest.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.size_bytes)) {
            Some(_) => Ok(manifest),
            None => Err(format!("its files would have more than {} bytes", u64::MAX)),
        }
    }
}

/// Whether `name` is a file name that stays inside its folder, on every system.
pub fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for bad in ["", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\\b", "a\0b"] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
        assert!(is_plain_name("adapter_model.safetensors"));
    }

    #[test]
    fn sizes_whose_sum_is_no_number_are_refused() {
        let file = |name: &str, size_bytes| File { name: name.into(), size_bytes, sha256: String::new() };
        let mut manifest = Manifest {
            version: MANIFEST_VERSION,
            job_id: String::new(),
            attempt: 1,
            step: 1,
            created_at: String::new(),
            spec_sha256: String::new(),
            base_model_fingerprint: String::new(),
            files: vec![file("a", u64::MAX - 1), file("b", 1)],
            metrics: BTreeMap::new(),
        };
        let parse = |manifest: &Manifest| Manifest::parse(&serde_json::to_vec(manifest).unwrap());
        assert_eq!(parse(&manifest).unwrap().size_bytes(), u64::MAX);
        manifest.files.push(file("c", 1));
        assert!(parse(&manifest).unwrap_err().contains("more than 18446744073709551615 bytes"));
    }
}

//! What tells one base model from another: its files in, one digest out.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Bytes at the start of each file that count: headers of safetensors and GGUF files with names, shapes and offsets,
/// the first weights behind them, and all of config.json. The rest of gigabytes of weights is told by its size alone.
const HEADER_BYTES: u64 = 1 << 20;

/// SHA-256, hexadecimal, over name, size and first MiB of every file of a model: a folder's files in order of their names,
/// or a single file.
pub fn fingerprint(model: &Path) -> std::io::Result<String> {
    let mut files: Vec<PathBuf> = if model.is_dir() {
        let entries = std::fs::read_dir(model)?.collect::<Result<Vec<_>, _>>()?;
        entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file() && counts(path)).collect()
    } else {
        vec![model.to_path_buf()]
    };
    files.sort();
    let mut hash = Sha256::new();
    for path in files {
        let mut file = File::open(&path)?;
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update([0]);
        hash.update(file.metadata()?.len().to_le_bytes());
        let mut header = Vec::new();
        file.by_ref().take(HEADER_BYTES).read_to_end(&mut header)?;
        hash.update(&header);
    }
    Ok(hex::encode(hash.finalize()))
}

/// The files that make the model what it is: weights and configuration. A tokenizer or a read-me may change beside them.
fn counts(path: &Path) -> bool {
    let is_weights = path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf");
    is_weights || path.file_name().is_some_and(|name| name == "config.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_with_weights_and_configuration_but_not_with_a_read_me() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content).unwrap();
        write("config.json", b"{}");
        write("model.safetensors", b"weights");
        let first = fingerprint(folder.path()).unwrap();
        write("README.md", b"hello");
        assert_eq!(fingerprint(folder.path()).unwrap(), first);
        for (name, content) in [("config.json", "{ }"), ("model.safetensors", "weightt"), ("other.safetensors", "")] {
            write(name, content.as_bytes());
            assert_ne!(fingerprint(folder.path()).unwrap(), first, "{name}");
        }
    }
}

//! What tells one base model from another: its files in, one digest out.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// Bytes at the start of each file that count: headers of safetensors and GGUF files with names, shapes and offsets,
/// the first weights behind them, and all of config.json.
const HEADER_BYTES: u64 = 1 << 20;
/// Of the gigabytes behind, so many pieces at equal distances: training moves every matrix it adapts, so that two models of one
/// shape differ in some of them.
const NUM_PIECES: u64 = 512;
const PIECE_BYTES: u64 = 4096;

/// SHA-256, hexadecimal, over name, size, first MiB and spread pieces of every file of a model: a folder's files in order of
/// their names, or a single file.
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
        pieces(&mut file, &mut hash)?;
    }
    Ok(hex::encode(hash.finalize()))
}

/// The same with the error that a task ends with.
pub fn fingerprint_of(model: &Path) -> Result<String, Error> {
    fingerprint(model).map_err(|source| Error::Io { path: model.to_path_buf(), source })
}

fn pieces(file: &mut File, hash: &mut Sha256) -> std::io::Result<()> {
    let len = file.metadata()?.len();
    if len <= HEADER_BYTES {
        return Ok(());
    }
    for piece in 0..NUM_PIECES {
        let start = HEADER_BYTES + (len - HEADER_BYTES) / NUM_PIECES * piece;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.by_ref().take(PIECE_BYTES).read_to_end(&mut bytes)?;
        hash.update(&bytes);
    }
    Ok(())
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
    #[test]
    fn weights_far_behind_the_first_count_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut bytes = vec![0u8; 3 << 20];
        std::fs::write(&path, &bytes).unwrap();
        let first = fingerprint(&path).unwrap();
        // As training does: all of a matrix moves.
        bytes[2 << 20..(2 << 20) + 100_000].fill(1);
        std::fs::write(&path, &bytes).unwrap();
        assert_ne!(fingerprint(&path).unwrap(), first);
    }
}

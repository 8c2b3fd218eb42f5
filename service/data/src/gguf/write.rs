//! Writes the container, version 3: metadata and descriptions of all tensors first, then the tensors one after the other,
//! so that only one is ever held.
//!
//! The file has its name once it is whole: until then it lies beside, with `.part` behind its name.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{DEFAULT_ALIGNMENT, Error, Value, ggml_type};

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Name as llama.cpp has it, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Sizes in ggml order: the fastest-moving dimension first.
    pub dims: Vec<u64>,
    /// The ggml type number.
    pub ggml_type: u32,
}

/// A container on its way to the disk. Dropped before [`Writer::finish`], it leaves nothing.
pub struct Writer {
    path: PathBuf,
    part: PathBuf,
    output: BufWriter<File>,
    /// Names and bytes of the tensors still to come.
    awaited: VecDeque<(String, u64)>,
}

impl Writer {
    /// Begins a file with these keys and tensors. Integers are stored in 32 bits where they fit and other numbers in
    /// float32, which is how llama.cpp reads its keys; the values of an array must be of one type.
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<Writer, Error> {
        let (header, sizes) = header(metadata, tensors).map_err(|what| unwritable(path, what))?;
        let part = part_of(path);
        let io = |source| Error::Write { path: path.to_path_buf(), source };
        let output = BufWriter::with_capacity(1 << 20, File::create(&part).map_err(io)?);
        let awaited = tensors.iter().map(|tensor| tensor.name.clone()).zip(sizes).collect();
        let mut writer = Writer { path: path.to_path_buf(), part, output, awaited };
        writer.padded(&header)?;
        Ok(writer)
    }

    /// Writes the next tensor: all its bytes, in the order of [`Writer::create`].
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        match self.awaited.pop_front() {
            Some((next, len)) if next == name && len == bytes.len() as u64 => self.padded(bytes),
            Some((next, len)) => {
                let what = format!("{len} bytes of tensor {next} come next, not {} of {name}", bytes.len());
                Err(unwritable(&self.path, what))
            }
            None => Err(unwritable(&self.path, format!("tensor {name} was not announced"))),
        }
    }

    /// Ends the file once all its tensors are there: on the disk, under its name.
    pub fn finish(mut self) -> Result<(), Error> {
        if let Some((name, _)) = self.awaited.front() {
            return Err(unwritable(&self.path, format!("tensor {name} was announced and is missing")));
        }
        let done = self.output.flush().and_then(|()| self.output.get_ref().sync_all());
        done.and_then(|()| std::fs::rename(&self.part, &self.path)).map_err(|source| self.failed(source))
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let padding = bytes.len().next_multiple_of(DEFAULT_ALIGNMENT as usize) - bytes.len();
        let written = self.output.write_all(bytes).and_then(|()| self.output.write_all(&vec![0; padding]));
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Write { path: self.path.clone(), source }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After `finish` there is none; after a failure a file that cannot be removed is the least of the troubles.
        let _ = std::fs::remove_file(&self.part);
    }
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".part");
    name.into()
}

fn unwritable(path: &Path, what: String) -> Error {
    Error::Unwritable { path: path.to_path_buf(), what }
}

/// Everything before the tensors' bytes, and the bytes of each tensor.
fn header(metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<(Vec<u8>, Vec<u64>), String> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        let kind = kind(value);
        put_string(&mut out, key);
        out.extend(kind.to_le_bytes());
        put(&mut out, value, kind).map_err(|what| format!("metadata {key} {what}"))?;
    }
    let (mut offset, mut sizes) = (0, Vec::new());
    for NewTensor { name, dims, ggml_type: number } in tensors {
        let len = ggml_type(*number).and_then(|kind| kind.num_bytes(dims));
        let len = len.ok_or_else(|| format!("tensor {name} of sizes {dims:?} cannot have type number {number}"))?;
        put_string(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        out.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        out.extend(number.to_le_bytes());
        out.extend(u64::to_le_bytes(offset));
        offset += len.next_multiple_of(DEFAULT_ALIGNMENT);
        sizes.push(len);
    }
    Ok((out, sizes))
}

/// The number of a value's type.
fn kind(value: &Value) -> u32 {
    match value {
        Value::U64(value) => u32::try_from(*value).map_or(10, |_| 4),
        Value::I64(value) => i32::try_from(*value).map_or(11, |_| 5),
        Value::F64(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
    }
}

/// A value in a type that has room for it.
fn put(out: &mut Vec<u8>, value: &Value, as_kind: u32) -> Result<(), String> {
    match (value, as_kind) {
        (Value::U64(value), 4) => out.extend((*value as u32).to_le_bytes()),
        (Value::U64(value), 10) => out.extend(value.to_le_bytes()),
        (Value::I64(value), 5) => out.extend((*value as i32).to_le_bytes()),
        (Value::I64(value), 11) => out.extend(value.to_le_bytes()),
        (Value::F64(value), 6) => out.extend((*value as f32).to_le_bytes()),
        (Value::Bool(value), 7) => out.push((*value).into()),
        (Value::String(text), 8) => put_string(out, text),
        (Value::Array(values), 9) => {
            // The widest of integers of both widths; without values, of texts: an empty list of merges.
            let inner = values.iter().map(kind).max().unwrap_or(8);
            out.extend(inner.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for value in values {
                put(out, value, inner)?;
            }
        }
        _ => return Err("is an array of values of several types".to_string()),
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;

    fn metadata() -> Vec<(String, Value)> {
        let array = |values: &[i64]| Value::Array(values.iter().map(|&value| Value::I64(value)).collect());
        let values = [
            ("general.architecture", Value::String("llama".into())),
            ("count", Value::U64(7)),
            ("large", Value::U64(1 << 40)),
            ("negative", Value::I64(-3)),
            ("number", Value::F64(0.1f32.into())),
            ("flag", Value::Bool(true)),
            ("none", Value::Array(Vec::new())),
            ("types", array(&[1, 3])),
            ("wide", array(&[1, -(1 << 40)])),
            ("tokens", Value::Array(vec![Value::String("a".into()), Value::String("é".into())])),
        ];
        values.map(|(key, value)| (key.to_string(), value)).to_vec()
    }

    fn tensors() -> Vec<NewTensor> {
        let tensor =
            |name: &str, dims: &[u64], ggml_type| NewTensor { name: name.into(), dims: dims.into(), ggml_type };
        vec![tensor("matrix", &[5, 3], 0), tensor("blocks", &[64, 2], 8), tensor("last", &[3], 1)]
    }

    fn data() -> [(&'static str, Vec<u8>); 3] {
        [("matrix", vec![1; 60]), ("blocks", vec![2; 4 * 34]), ("last", vec![3; 6])]
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut writer = Writer::create(&path, &metadata(), &tensors()).unwrap();
        for (name, bytes) in data() {
            writer.tensor(name, &bytes).unwrap();
            assert!(!path.exists(), "the name appeared before the file was whole");
        }
        writer.finish().unwrap();

        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.metadata, metadata().into_iter().collect());
        let bytes = std::fs::read(&path).unwrap();
        for ((name, data), new) in data().into_iter().zip(tensors()) {
            let info = gguf.tensor(name).unwrap();
            assert_eq!((&info.dims, info.ggml_type, info.offset % 32), (&new.dims, new.ggml_type, 0), "{name}");
            assert_eq!(&bytes[info.offset as usize..][..info.num_bytes as usize], data, "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn integers_take_32_bits_where_they_fit() {
        let (bytes, _) = header(&[("k".into(), Value::U64(7))], &[]).unwrap();
        assert_eq!(bytes[24..], [1, 0, 0, 0, 0, 0, 0, 0, b'k', 4, 0, 0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn another_order_or_size_than_announced_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let check = |pieces: &[(&str, usize)], expected: &str| {
            let mut writer = Writer::create(&path, &metadata(), &tensors()).unwrap();
            let written = pieces.iter().try_for_each(|(name, len)| writer.tensor(name, &vec![0; *len]));
            let error = written.and_then(|()| writer.finish()).unwrap_err().to_string();
            assert!(error.contains("model.gguf") && error.contains(expected), "{error:?} should say {expected:?}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        };
        check(&[("blocks", 136)], "60 bytes of tensor matrix come next, not 136 of blocks");
        check(&[("matrix", 59)], "60 bytes of tensor matrix come next, not 59 of matrix");
        check(&[("matrix", 60), ("blocks", 136)], "tensor last was announced and is missing");
        check(&[("matrix", 60), ("blocks", 136), ("last", 6), ("more", 1)], "tensor more was not announced");
    }

    #[test]
    fn what_no_reader_could_take_is_refused() {
        let check = |metadata: &[(String, Value)], tensors: &[NewTensor], expected: &str| {
            let error = header(metadata, tensors).unwrap_err();
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        };
        let mixed = Value::Array(vec![Value::U64(1), Value::String("a".into())]);
        check(&[("k".into(), mixed)], &[], "metadata k is an array of values of several types");
        let tensor = |dims: &[u64], ggml_type| NewTensor { name: "w".into(), dims: dims.into(), ggml_type };
        check(&[], &[tensor(&[33, 2], 8)], "tensor w of sizes [33, 2] cannot have type number 8");
        check(&[], &[tensor(&[32], 99)], "type number 99");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = Writer::create(Path::new("/nowhere/model.gguf"), &[], &[]).err().unwrap().to_string();
        assert!(error.contains("/nowhere/model.gguf: cannot write"), "{error}");
    }
}

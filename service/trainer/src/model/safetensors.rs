//! Safetensors in a model's folder: one file or shards with an index in, tensors by name out.
//!
//! Layout: eight bytes with the length of the header, the header as JSON `{name: {dtype, shape, data_offsets}}`, the data.
//! The header is checked whole when a file is opened, so that a cut download is told at once and with the tensor's name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hone_ops::MappedFile;
use serde::Deserialize;
use serde_json::Value;
use tch::{Kind, Tensor};

use super::error::Error;

/// The open files.
pub(super) struct SafeTensors {
    files: Vec<(PathBuf, MappedFile)>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: String,
    shape: Vec<i64>,
    /// Bytes of the file.
    start: usize,
    end: usize,
}

/// Longest header; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

impl SafeTensors {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(super) fn open(folder: &Path) -> Result<SafeTensors, Error> {
        let mut opened = SafeTensors { files: Vec::new(), entries: BTreeMap::new() };
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.is_file() {
            opened.add(single)?;
        } else if index.is_file() {
            let shards = Shards::read(&index)?;
            for file in shards.files() {
                opened.add(folder.join(file))?;
            }
            shards.check(&index, &opened.entries)?;
        } else {
            let what = "neither model.safetensors nor model.safetensors.index.json beside config.json".to_string();
            return Err(Error::NotAModel { path: folder.to_path_buf(), what });
        }
        Ok(opened)
    }

    /// Bytes of all tensors.
    pub(super) fn num_bytes(&self) -> u64 {
        self.entries.values().map(|entry| (entry.end - entry.start) as u64).sum()
    }

    pub(super) fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.entries.get(name).map(|entry| entry.shape.clone())
    }

    /// Names of the types of all matrices.
    pub(super) fn matrix_types(&self) -> Vec<&str> {
        self.entries.values().filter(|entry| entry.shape.len() > 1).map(|entry| entry.dtype.as_str()).collect()
    }

    /// The tensor as it is stored, and its bytes.
    pub(super) fn read(&self, name: &str) -> Result<(Tensor, u64), Error> {
        let entry = self.entries.get(name).ok_or_else(|| Error::MissingTensor {
            path: self.files.first().map(|(path, _)| path.clone()).unwrap_or_default(),
            tensor: name.to_string(),
        })?;
        let (path, file) = &self.files[entry.file];
        let kind = stored_kind(&entry.dtype).ok_or_else(|| Error::UnsupportedDtype {
            path: path.clone(),
            tensor: name.to_string(),
            dtype: entry.dtype.clone(),
        })?;
        let bytes = &file[entry.start..entry.end];
        // Held since the header was checked; from_data_size copies without looking.
        assert_eq!(bytes.len() as i64, entry.shape.iter().product::<i64>() * kind.elt_size_in_bytes() as i64);
        Ok((Tensor::from_data_size(bytes, &entry.shape, kind), bytes.len() as u64))
    }

    fn add(&mut self, path: PathBuf) -> Result<(), Error> {
        let file = MappedFile::open(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let header = Header { path: &path, size: file.len() as u64 };
        let (start, map) = header.parse(&file)?;
        for (name, value) in map.iter().filter(|(name, _)| *name != "__metadata__") {
            let entry = header.entry(self.files.len(), name, value, start)?;
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(header.malformed(format!("tensor {name} appears twice in the model")));
            }
        }
        self.files.push((path, file));
        Ok(())
    }
}

fn stored_kind(dtype: &str) -> Option<Kind> {
    match dtype {
        "F32" => Some(Kind::Float),
        "F16" => Some(Kind::Half),
        "BF16" => Some(Kind::BFloat16),
        _ => None,
    }
}

/// Reads the header of one file.
struct Header<'a> {
    path: &'a Path,
    size: u64,
}

impl Header<'_> {
    /// Where the data begins, and the tensors' descriptions.
    fn parse(&self, file: &[u8]) -> Result<(u64, serde_json::Map<String, Value>), Error> {
        let Some(len) = file.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
            return Err(self.truncated("the header's length", 8));
        };
        if len > MAX_HEADER_BYTES {
            return Err(self.malformed(format!("its header would be {len} bytes long, which no file's is")));
        }
        let text = file.get(8..8 + len as usize).ok_or_else(|| self.truncated("the header", 8 + len))?;
        match serde_json::from_slice(text) {
            Ok(Value::Object(map)) => Ok((8 + len, map)),
            Ok(_) => Err(self.malformed("its header is not a JSON object".to_string())),
            Err(error) => Err(self.malformed(format!("its header is not JSON: {error}"))),
        }
    }

    fn entry(&self, file: usize, name: &str, value: &Value, data: u64) -> Result<Entry, Error> {
        #[derive(Deserialize)]
        struct Description {
            dtype: String,
            shape: Vec<u64>,
            data_offsets: (u64, u64),
        }
        let Description { dtype, shape, data_offsets: (from, to) } = Deserialize::deserialize(value)
            .map_err(|error| self.malformed(format!("the description of tensor {name} is broken: {error}")))?;
        let values = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let end = data.checked_add(to);
        let (Some(values), Some(end)) = (values.filter(|values| *values < 1 << 62), end.filter(|_| from <= to)) else {
            return Err(self.malformed(format!("tensor {name} has impossible sizes {shape:?} at {from} to {to}")));
        };
        if end > self.size {
            return Err(self.truncated(&format!("tensor {name} at offset {}", data + from), end));
        }
        if let Some(kind) = stored_kind(&dtype)
            && values.checked_mul(kind.elt_size_in_bytes() as u64) != Some(to - from)
        {
            let what = format!("tensor {name}, {dtype} of shape {shape:?}, is stored in {} bytes", to - from);
            return Err(self.malformed(what));
        }
        let shape = shape.iter().map(|&dim| dim as i64).collect();
        Ok(Entry { file, dtype, shape, start: (data + from) as usize, end: end as usize })
    }

    fn malformed(&self, what: String) -> Error {
        Error::Malformed { path: self.path.to_path_buf(), what }
    }

    fn truncated(&self, what: &str, needed: u64) -> Error {
        Error::Truncated { path: self.path.to_path_buf(), what: what.to_string(), needed, size: self.size }
    }
}

/// The index of a model in several files.
#[derive(Deserialize)]
struct Shards {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    fn read(index: &Path) -> Result<Shards, Error> {
        let text = std::fs::read(index).map_err(|source| Error::Io { path: index.to_path_buf(), source })?;
        let malformed = |what: String| Error::Malformed { path: index.to_path_buf(), what };
        let shards: Shards = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        // Names come from the model: they stay in its folder.
        match shards.weight_map.values().find(|file| Path::new(file).components().count() != 1 || file.starts_with('.'))
        {
            Some(file) => Err(malformed(format!("it names the file `{file}`, which is not beside it"))),
            None => Ok(shards),
        }
    }

    /// Each file once.
    fn files(&self) -> impl Iterator<Item = &String> {
        let files: std::collections::BTreeSet<&String> = self.weight_map.values().collect();
        files.into_iter()
    }

    /// Every tensor of the index must have been found.
    fn check(&self, index: &Path, entries: &BTreeMap<String, Entry>) -> Result<(), Error> {
        match self.weight_map.iter().find(|(name, _)| !entries.contains_key(*name)) {
            Some((name, file)) => Err(Error::MissingTensor { path: index.with_file_name(file), tensor: name.clone() }),
            None => Ok(()),
        }
    }
}

//! The GGUF container: a model file in, its metadata and the place of every tensor out; and back, with [`Writer`]. Reading
//! takes no tensor data.
//!
//! Layout (GGUF versions 2 and 3, little endian): magic, version, counts, key/value pairs, tensor descriptions, padding
//! to `general.alignment`, tensor data. Files come from strangers, so every count and length is checked against what is
//! left of the file before anything is allocated for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

mod ggml;
mod write;

pub use ggml::{GgmlType, ggml_type};
pub use write::{NewTensor, Writer};

/// A metadata value; small integers and floats are widened.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8, u16, u32 and u64.
    U64(u64),
    /// i8, i16, i32 and i64.
    I64(i64),
    /// f32 and f64.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Values of one type.
    Array(Vec<Value>),
}

/// Where a tensor lies and how it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name as llama.cpp writes it, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Sizes in ggml order: the fastest-moving dimension first.
    pub dims: Vec<u64>,
    /// The ggml type number; [`ggml_type`] names the known ones.
    pub ggml_type: u32,
    /// Absolute position of the first byte in the file.
    pub offset: u64,
    /// Bytes of the stored tensor.
    pub num_bytes: u64,
}

/// The container, read up to the tensor data.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// Key/value pairs.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors, in file order.
    pub tensors: Vec<TensorInfo>,
}

/// Why a file is not a usable GGUF container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened or read.
    #[error("{path}: cannot read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The content breaks the format.
    #[error("{path}: not a usable GGUF file: {what} (at byte {offset})")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// Where reading stood.
        offset: u64,
    },
    /// The file ends before a part that it announces.
    #[error("{path}: truncated: {what} needs the bytes up to {needed}, the file has {size}; fetch it again")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor or field that is cut.
        what: String,
        /// Where the part would end.
        needed: u64,
        /// Size of the file.
        size: u64,
    },
    /// A tensor is stored in a type that is not read.
    #[error(
        "{path}: tensor {tensor} is stored as {type_name}; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, \
         Q4_K, Q5_K and Q6_K"
    )]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Name or number of the type.
        type_name: String,
    },
    /// The file could not be written.
    #[error("{path}: cannot write: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was to be written is no sound container.
    #[error("{path}: cannot be written as GGUF: {what}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

const MAX_KEY_BYTES: u64 = 64 * 1024;
const MAX_DIMS: u32 = 4;
const MAX_ARRAY_DEPTH: u32 = 4;
/// Longest text value; the longest real ones are chat templates.
const MAX_STRING_BYTES: u64 = 64 << 20;
/// Most values in all: a value in memory is wider than in the file, so the file's size alone bounds too little.
const MAX_VALUES: u64 = 16 << 20;
const DEFAULT_ALIGNMENT: u64 = 32;

impl Gguf {
    /// Reads the header of `path`; the file must hold every tensor it announces.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        Reader { path, input: BufReader::with_capacity(1 << 16, file), position: 0, size, num_values: 0 }.container()
    }

    /// A text value.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// An integer value that is not negative.
    pub fn u64(&self, key: &str) -> Option<u64> {
        match *self.metadata.get(key)? {
            Value::U64(value) => Some(value),
            Value::I64(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// A number; integers are converted.
    pub fn f64(&self, key: &str) -> Option<f64> {
        match *self.metadata.get(key)? {
            Value::F64(value) => Some(value),
            Value::U64(value) => Some(value as f64),
            Value::I64(value) => Some(value as f64),
            _ => None,
        }
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match *self.metadata.get(key)? {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// An array value.
    pub fn array(&self, key: &str) -> Option<&[Value]> {
        match self.metadata.get(key)? {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// Reads forward and knows how much of the file is left.
struct Reader<'a, R> {
    path: &'a Path,
    input: R,
    position: u64,
    size: u64,
    num_values: u64,
}

impl<R: Read> Reader<'_, R> {
    fn container(mut self) -> Result<Gguf, Error> {
        if self.bytes::<4>("the magic number")? != *b"GGUF" {
            return Err(self.malformed("it does not start with `GGUF`"));
        }
        let version = self.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(self.malformed(format!("version {version}; versions 2 and 3 (little endian) are read")));
        }
        // The shortest tensor description takes 24 bytes, the shortest pair 13.
        let num_tensors = self.count("the tensor count", 24)?;
        let num_pairs = self.count("the metadata count", 13)?;
        let metadata = self.metadata(num_pairs)?;
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::U64(value)) if value.is_power_of_two() && *value <= 1 << 20 => *value,
            Some(other) => return Err(self.malformed(format!("general.alignment is {other:?}"))),
        };
        let mut tensors = Vec::new();
        for index in 0..num_tensors {
            tensors.push(self.tensor(index)?);
        }
        let data_start = self.position.next_multiple_of(alignment);
        self.place(&mut tensors, data_start, alignment)?;
        Ok(Gguf { metadata, tensors })
    }

    fn metadata(&mut self, num_pairs: u64) -> Result<BTreeMap<String, Value>, Error> {
        let mut metadata = BTreeMap::new();
        for index in 0..num_pairs {
            let key = self.string(&format!("metadata key {index}"), MAX_KEY_BYTES)?;
            let kind = self.u32(&key)?;
            let value = self.value(&key, kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.malformed(format!("metadata key {key} appears twice")));
            }
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, kind: u32, depth: u32) -> Result<Value, Error> {
        Ok(match kind {
            0 => Value::U64(self.bytes::<1>(key)?[0].into()),
            1 => Value::I64(i8::from_le_bytes(self.bytes(key)?).into()),
            2 => Value::U64(u16::from_le_bytes(self.bytes(key)?).into()),
            3 => Value::I64(i16::from_le_bytes(self.bytes(key)?).into()),
            4 => Value::U64(self.u32(key)?.into()),
            5 => Value::I64(i32::from_le_bytes(self.bytes(key)?).into()),
            6 => Value::F64(f32::from_le_bytes(self.bytes(key)?).into()),
            7 => Value::Bool(self.bytes::<1>(key)?[0] != 0),
            8 => Value::String(self.string(key, MAX_STRING_BYTES)?),
            9 => self.array(key, depth)?,
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(i64::from_le_bytes(self.bytes(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes(key)?)),
            other => return Err(self.malformed(format!("metadata {key} has unknown value type {other}"))),
        })
    }

    fn array(&mut self, key: &str, depth: u32) -> Result<Value, Error> {
        if depth >= MAX_ARRAY_DEPTH {
            return Err(self.malformed(format!("metadata {key} nests arrays too deeply")));
        }
        let kind = self.u32(key)?;
        let least_bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            9 => 12,
            _ => 8,
        };
        let len = self.count(key, least_bytes)?;
        self.num_values = self.num_values.saturating_add(len);
        if self.num_values > MAX_VALUES {
            return Err(self.malformed(format!("metadata {key} brings the values to more than {MAX_VALUES}")));
        }
        let mut values = Vec::new();
        for _ in 0..len {
            values.push(self.value(key, kind, depth + 1)?);
        }
        Ok(Value::Array(values))
    }

    fn tensor(&mut self, index: u64) -> Result<TensorInfo, Error> {
        let name = self.string(&format!("the name of tensor {index}"), MAX_KEY_BYTES)?;
        let num_dims = self.u32(&name)?;
        if num_dims > MAX_DIMS {
            return Err(
                self.malformed(format!("tensor {name} has {num_dims} dimensions; at most {MAX_DIMS} are known"))
            );
        }
        let mut dims = Vec::new();
        for _ in 0..num_dims {
            dims.push(self.u64(&name)?);
        }
        let type_number = self.u32(&name)?;
        let offset = self.u64(&name)?;
        let num_bytes = self.num_bytes(&name, &dims, type_number)?;
        Ok(TensorInfo { name, dims, ggml_type: type_number, offset, num_bytes })
    }

    fn num_bytes(&self, name: &str, dims: &[u64], type_number: u32) -> Result<u64, Error> {
        let Some(kind) = ggml_type(type_number) else {
            return Err(Error::UnsupportedType {
                path: self.path.to_path_buf(),
                tensor: name.to_string(),
                type_name: ggml::refused_type_name(type_number),
            });
        };
        let row = dims.first().copied().unwrap_or(1);
        if row % kind.block_len != 0 {
            let what = format!("tensor {name} has rows of {row} values, which {} cannot hold", kind.name);
            return Err(self.malformed(what));
        }
        kind.num_bytes(dims).ok_or_else(|| self.malformed(format!("tensor {name} has impossible sizes {dims:?}")))
    }

    /// Turns offsets into absolute ones and checks that every tensor lies inside the file.
    fn place(&self, tensors: &mut [TensorInfo], data_start: u64, alignment: u64) -> Result<(), Error> {
        for tensor in tensors {
            if tensor.offset % alignment != 0 {
                return Err(self.malformed(format!("tensor {} is not aligned to {alignment} bytes", tensor.name)));
            }
            let offset = data_start.checked_add(tensor.offset);
            let end = offset.and_then(|offset| offset.checked_add(tensor.num_bytes));
            let (Some(offset), Some(end)) = (offset, end) else {
                return Err(self.malformed(format!("tensor {} lies at an impossible offset", tensor.name)));
            };
            if end > self.size {
                return Err(self.truncated(&format!("tensor {} at offset {offset}", tensor.name), end));
            }
            tensor.offset = offset;
        }
        Ok(())
    }

    /// A count of things that take at least `least_bytes` each: never more than the file can hold.
    fn count(&mut self, what: &str, least_bytes: u64) -> Result<u64, Error> {
        let count = self.u64(what)?;
        if count > (self.size - self.position) / least_bytes {
            return Err(self.truncated(what, self.position.saturating_add(count.saturating_mul(least_bytes))));
        }
        Ok(count)
    }

    fn string(&mut self, what: &str, max_bytes: u64) -> Result<String, Error> {
        let len = self.count(what, 1)?;
        if len > max_bytes {
            return Err(self.malformed(format!("{what} is {len} bytes long; at most {max_bytes} are allowed")));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(what, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.malformed(format!("{what} is not UTF-8")))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, what: &str, bytes: &mut [u8]) -> Result<(), Error> {
        let end = self.position + bytes.len() as u64;
        if end > self.size {
            return Err(self.truncated(what, end));
        }
        self.input.read_exact(bytes).map_err(|source| Error::Io { path: self.path.to_path_buf(), source })?;
        self.position = end;
        Ok(())
    }

    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.to_path_buf(), what: what.into(), offset: self.position }
    }

    fn truncated(&self, what: &str, needed: u64) -> Error {
        Error::Truncated { path: self.path.to_path_buf(), what: what.to_string(), needed, size: self.size }
    }
}

#[cfg(test)]
mod tests;

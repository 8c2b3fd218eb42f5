//! Weights in a GGUF file by their Hugging Face names: names are mapped, blocks turned to float32, row order restored. And
//! back: [`GgufExport`] writes a model as such a file.

use std::path::{Path, PathBuf};

use hone_data::gguf::{Gguf, TensorInfo, ggml_type};
use hone_ops::MappedFile;
use tch::Tensor;

use super::config::Config;
use super::config::gguf::{FACTORS_TENSOR, LONGROPE_TENSORS, longrope};
use super::dequantize::dequantize;
use super::error::Error;
use super::rope::Scaling;
use layout::Layout;

mod export;
mod layout;
mod limits;

pub use export::{GgufExport, GgufType};

/// An open GGUF file.
pub(super) struct GgufWeights {
    path: PathBuf,
    file: MappedFile,
    gguf: Gguf,
    layout: Layout,
}

impl GgufWeights {
    pub(super) fn open(path: &Path) -> Result<(Config, GgufWeights), Error> {
        let gguf = Gguf::open(path)?;
        let mut config = Config::from_gguf(path, &gguf)?;
        let file = MappedFile::open(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let weights = GgufWeights { path: path.to_path_buf(), file, gguf, layout: Layout::of(&config) };
        weights.read_rope_factors(&mut config)?;
        Ok((config, weights))
    }

    /// Bytes of all tensors.
    pub(super) fn num_bytes(&self) -> u64 {
        self.gguf.tensors.iter().map(|tensor| tensor.num_bytes).sum()
    }

    /// Names of the types of all matrices.
    pub(super) fn matrix_types(&self) -> Vec<&str> {
        let matrices = self.gguf.tensors.iter().filter(|tensor| tensor.dims.len() > 1);
        matrices.filter_map(|tensor| ggml_type(tensor.ggml_type)).map(|kind| kind.name).collect()
    }

    /// The shape as PyTorch writes it: slowest dimension first.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.gguf.tensor(&self.layout.name(name)?).map(shape)
    }

    /// The tensor in float32, and its bytes in the file.
    pub(super) fn read(&self, name: &str) -> Result<(Tensor, u64), Error> {
        let info = self.layout.name(name).and_then(|name| self.gguf.tensor(&name));
        let info = info.ok_or_else(|| Error::MissingTensor { path: self.path.clone(), tensor: name.to_string() })?;
        let tensor = Tensor::from_slice(&self.values(info)).view(shape(info).as_slice());
        Ok((self.layout.restored(name, &tensor), info.num_bytes))
    }

    fn values(&self, info: &TensorInfo) -> Vec<f32> {
        // The container's reader has checked that the file holds these bytes and that the type is known.
        let bytes = &self.file[info.offset as usize..(info.offset + info.num_bytes) as usize];
        dequantize(info.ggml_type, bytes)
    }

    /// Llama 3.1 and later store what their rope scaling comes to as divisors, and say nothing of it in the metadata. Phi-3
    /// stores two sets, for short and for long texts.
    fn read_rope_factors(&self, config: &mut Config) -> Result<(), Error> {
        let pairs = config.rope.rotary_dim / 2;
        let [short, long] = LONGROPE_TENSORS;
        config.rope.scaling = if let Some(factors) = self.factors(FACTORS_TENSOR, pairs)? {
            Scaling::Factors(factors)
        } else if let (Some(short), Some(long)) = (self.factors(short, pairs)?, self.factors(long, pairs)?) {
            longrope(&self.gguf, config, short, long)
        } else {
            return Ok(());
        };
        match config.rope.problem() {
            Some(what) => Err(Error::Config { path: self.path.clone(), what }),
            None => Ok(()),
        }
    }

    fn factors(&self, name: &str, pairs: i64) -> Result<Option<Vec<f64>>, Error> {
        let Some(info) = self.gguf.tensor(name) else {
            return Ok(None);
        };
        if shape(info) != [pairs] {
            let (path, tensor) = (self.path.clone(), info.name.clone());
            return Err(Error::WrongShape { path, tensor, found: shape(info), expected: vec![pairs] });
        }
        Ok(Some(self.values(info).iter().map(|&factor| factor.into()).collect()))
    }
}

fn shape(info: &TensorInfo) -> Vec<i64> {
    info.dims.iter().rev().map(|&dim| dim as i64).collect()
}

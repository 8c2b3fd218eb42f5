//! A model as a GGUF file, as llama.cpp's convert_hf_to_gguf.py would write it: one tensor in memory at a time.

use std::path::Path;

use half::f16;
use hone_data::gguf::{Gguf, NewTensor, TensorInfo, Value, Writer};
use tch::{Device, Kind, Tensor};

use super::layout::Layout;
use super::limits;
use crate::model::Error;
use crate::model::config::Config;
use crate::model::config::gguf::factor_tensors;
use crate::model::family::Architecture;

/// What the matrices of a GGUF file are stored as. Vectors are float32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// As they are.
    F32,
    /// Values beyond 65504 are refused.
    F16,
    /// The upper half of a float32, rounded to nearest.
    Bf16,
    /// Blocks of 32 bytes with a scale; a matrix whose rows are not whole blocks is float16.
    Q8_0,
}

impl GgufType {
    /// Number of the ggml type.
    fn ggml(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q8_0 => 8,
            GgufType::Bf16 => 30,
        }
    }

    /// `general.file_type`: what most of the file is (`LLAMA_FTYPE_*`).
    fn file_type(self) -> u64 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q8_0 => 7,
            GgufType::Bf16 => 32,
        }
    }

    /// The type of a tensor of this shape.
    fn of(self, shape: &[i64]) -> GgufType {
        match shape {
            [] | [_] => GgufType::F32,
            [.., columns] if self == GgufType::Q8_0 && columns % 32 != 0 => GgufType::F16,
            _ => self,
        }
    }

    /// What a weight of this shape is rounded to; before it is put into blocks, where it is.
    pub fn rounds_to(self, shape: &[i64]) -> Kind {
        match self.of(shape) {
            GgufType::F32 | GgufType::Q8_0 => Kind::Float,
            GgufType::F16 => Kind::Half,
            GgufType::Bf16 => Kind::BFloat16,
        }
    }

    /// The bytes of a tensor on the CPU, in the type of its shape; none where a value is not finite in it.
    fn encode(self, tensor: &Tensor) -> Option<Vec<u8>> {
        let shape = tensor.size();
        let kind = self.rounds_to(&shape);
        let tensor = tensor.to_kind(kind).contiguous().view(-1);
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            return None;
        }
        if self.of(&shape) == GgufType::Q8_0 {
            let values = Vec::<f32>::try_from(&tensor).expect("a flat float tensor is a vector");
            return Some(values.chunks_exact(32).flat_map(q8_0).collect());
        }
        let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        Some(bytes)
    }
}

/// A block of ggml's `quantize_row_q8_0_ref`: scale d (float16), then 32 values by it, rounded away from zero.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let d = values.iter().fold(0f32, |most, value| most.max(value.abs())) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let quants = values.iter().map(|value| (value * inverse).round() as i8 as u8);
    f16::from_f32(d).to_le_bytes().into_iter().chain(quants).collect()
}

/// A model to be written as GGUF.
#[derive(Debug)]
pub struct GgufExport<'a> {
    /// `general.name`.
    pub name: &'a str,
    /// The shape; the head is tied when no `lm_head.weight` is written.
    pub config: &'a Config,
    /// Keys of the tokenizer, as [`hone_data::tokenizer::gguf_metadata`] gives them.
    pub tokenizer: Vec<(String, Value)>,
    /// What matrices are stored as.
    pub weights: GgufType,
}

impl GgufExport<'_> {
    /// Writes the file. `shapes` are names and shapes of all weights, as in a Hugging Face checkpoint; `read` gives the
    /// weight of a name, in float32 or as [`GgufType::rounds_to`] says, and is asked for each once, in this order.
    ///
    /// # Errors
    ///
    /// [`Error::NotForGguf`] when llama.cpp could not compute the model, before anything is read or written; errors of the
    /// disk; and those of `read`. After an error there is no file.
    pub fn write<E: From<Error>>(
        &self,
        path: &Path,
        shapes: &[(String, Vec<i64>)],
        mut read: impl FnMut(&str) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        let config = Config {
            tie_word_embeddings: !shapes.iter().any(|(name, _)| name == "lm_head.weight"),
            ..self.config.clone()
        };
        let layout = Layout::of(&config);
        let factors = factor_tensors(&config.rope);
        let metadata = self.metadata(&config);
        let refused = |what| Error::NotForGguf { path: path.to_path_buf(), what };
        let mut tensors: Vec<NewTensor> = factors
            .iter()
            .map(|(name, values)| new_tensor(name.to_string(), &[values.len() as i64], GgufType::F32))
            .collect();
        for (name, shape) in shapes {
            let stored = layout.name(name).ok_or_else(|| refused(format!("llama.cpp has no tensor {name}")))?;
            tensors.push(new_tensor(stored, shape, self.weights.of(shape)));
        }
        if let Some(what) = limits::problem(&config, &read_as(path, &metadata, &tensors)?) {
            return Err(refused(what).into());
        }

        let mut writer = Writer::create(path, &metadata, &tensors).map_err(Error::Gguf)?;
        for (name, values) in &factors {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.tensor(name, &bytes).map_err(Error::Gguf)?;
        }
        for ((name, _), new) in shapes.iter().zip(&tensors[factors.len()..]) {
            let tensor = layout.stored(name, &read(name)?.to_device(Device::Cpu));
            let bytes = self.weights.encode(&tensor).ok_or_else(|| {
                refused(format!("tensor {name} has a value that is not finite in {:?}; try another type", self.weights))
            })?;
            writer.tensor(&new.name, &bytes).map_err(Error::Gguf)?;
        }
        Ok(writer.finish().map_err(Error::Gguf)?)
    }

    /// What to know about the file: where llama.cpp computes something else than the model's own code.
    pub fn caveats(&self) -> Vec<String> {
        limits::caveats(self.config)
    }

    fn metadata(&self, config: &Config) -> Vec<(String, Value)> {
        let general = [
            ("general.type", Value::String("model".into())),
            ("general.name", Value::String(self.full_name())),
            ("general.file_type", Value::U64(self.weights.file_type())),
            ("general.quantization_version", Value::U64(2)),
        ];
        let mut metadata = config.to_gguf();
        metadata.extend(general.map(|(key, value)| (key.to_string(), value)));
        metadata.extend(self.tokenizer.iter().cloned());
        metadata
    }

    /// llama.cpp goes by the name: one with `phi-3` in it has Phi-3's special tokens, which take the space behind them, and
    /// must have all that it knows. So the name says it where the tokenizer is Phi-3's, and nowhere else.
    fn full_name(&self) -> String {
        let mut name = self.name.to_string();
        let tokens = self.tokenizer.iter().find(|(key, _)| key == "tokenizer.ggml.tokens");
        let has = |token: &str| match tokens {
            Some((_, Value::Array(tokens))) => tokens.contains(&Value::String(token.into())),
            _ => false,
        };
        let find = |name: &str, word| name.to_ascii_lowercase().find(word);
        let words = ["phi-3", "phi3"];
        if !["</s>", "<unk>", "<s>", "<|endoftext|>"].into_iter().all(has) {
            for word in words {
                while let Some(at) = find(&name, word) {
                    name.replace_range(at + 3..at + word.len() - 1, " ");
                }
            }
        } else if self.config.architecture == Architecture::Phi3 && words.iter().all(|word| find(&name, word).is_none())
        {
            name.insert_str(0, "Phi-3 ");
        }
        name
    }
}

fn new_tensor(name: String, shape: &[i64], kind: GgufType) -> NewTensor {
    NewTensor { name, dims: shape.iter().rev().map(|&dim| dim as u64).collect(), ggml_type: kind.ggml() }
}

/// The shape that the file will be read as.
fn read_as(path: &Path, metadata: &[(String, Value)], tensors: &[NewTensor]) -> Result<Config, Error> {
    let info = |tensor: &NewTensor| TensorInfo {
        name: tensor.name.clone(),
        dims: tensor.dims.clone(),
        ggml_type: tensor.ggml_type,
        offset: 0,
        num_bytes: 0,
    };
    let gguf = Gguf { metadata: metadata.iter().cloned().collect(), tensors: tensors.iter().map(info).collect() };
    Config::from_gguf(path, &gguf)
}

#[cfg(test)]
mod tests;

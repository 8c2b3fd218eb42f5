//! Weights in a GGUF file by their Hugging Face names: names are mapped, blocks turned to float32, row order restored.

use std::path::{Path, PathBuf};

use hone_data::gguf::{Gguf, TensorInfo, ggml_type};
use hone_ops::MappedFile;
use tch::Tensor;

use super::config::Config;
use super::config::gguf::{LONGROPE_TENSORS, longrope};
use super::dequantize::dequantize;
use super::error::Error;
use super::family::Architecture;
use super::rope::Scaling;

/// An open GGUF file.
pub(super) struct GgufWeights {
    path: PathBuf,
    file: MappedFile,
    gguf: Gguf,
    architecture: Architecture,
    /// llama.cpp stores the rows of Llama's and SmolLM3's query and key projections in another order; other families keep
    /// theirs.
    permuted: Option<Heads>,
    /// llama.cpp stores 1 + weight of norms that multiply by it.
    norm_plus_one: bool,
}

#[derive(Clone, Copy)]
struct Heads {
    query: i64,
    key: i64,
}

impl GgufWeights {
    pub(super) fn open(path: &Path) -> Result<(Config, GgufWeights), Error> {
        let gguf = Gguf::open(path)?;
        let mut config = Config::from_gguf(path, &gguf)?;
        let file = MappedFile::open(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
        let heads = Heads { query: config.num_attention_heads, key: config.num_key_value_heads };
        let architecture = config.architecture;
        let permuted = matches!(architecture, Architecture::Llama | Architecture::SmolLm3).then_some(heads);
        let norm_plus_one = config.family.norm_plus_one;
        let weights = GgufWeights { path: path.to_path_buf(), file, gguf, architecture, permuted, norm_plus_one };
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
        self.gguf.tensor(&gguf_name(self.architecture, name)?).map(shape)
    }

    /// The tensor in float32, and its bytes in the file.
    pub(super) fn read(&self, name: &str) -> Result<(Tensor, u64), Error> {
        let info = gguf_name(self.architecture, name)
            .and_then(|name| self.gguf.tensor(&name))
            .ok_or_else(|| Error::MissingTensor { path: self.path.clone(), tensor: name.to_string() })?;
        let tensor = Tensor::from_slice(&self.values(info)).view(shape(info).as_slice());
        let tensor = match (self.permuted, projection(name)) {
            (Some(heads), "q_proj") => restore_rows(&tensor, heads.query),
            (Some(heads), "k_proj") => restore_rows(&tensor, heads.key),
            _ if self.norm_plus_one && name.ends_with("norm.weight") => tensor - 1.0,
            _ => tensor,
        };
        Ok((tensor, info.num_bytes))
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
        config.rope.scaling = if let Some(factors) = self.factors("rope_freqs.weight", pairs)? {
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

/// `q_proj` of `model.layers.0.self_attn.q_proj.weight`.
fn projection(name: &str) -> &str {
    name.rsplit('.').nth(1).unwrap_or_default()
}

/// The name in GGUF of a tensor of the supported families.
fn gguf_name(architecture: Architecture, name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_string()),
        "model.norm.weight" => return Some("output_norm.weight".to_string()),
        "lm_head.weight" => return Some("output.weight".to_string()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, suffix) = rest.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "post_attention_layernorm" if architecture == Architecture::Gemma2 => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.qkv_proj" => "attn_qkv",
        // llama.cpp has no name of its own for gate and up in one.
        "mlp.gate_up_proj" => "ffn_up",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{suffix}"))
}

/// Rows from llama.cpp's order, where the two of a rotated pair are neighbours, to Hugging Face's, where they are half a
/// head apart.
fn restore_rows(tensor: &Tensor, heads: i64) -> Tensor {
    let size = tensor.size();
    let pairs = size[0] / heads / 2;
    tensor.view([heads, pairs, 2, -1]).transpose(1, 2).reshape(size.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mapped_and_unknown_ones_are_not_there() {
        for (name, want) in [
            ("model.embed_tokens.weight", Some("token_embd.weight")),
            ("lm_head.weight", Some("output.weight")),
            ("model.norm.weight", Some("output_norm.weight")),
            ("model.layers.12.self_attn.q_proj.bias", Some("blk.12.attn_q.bias")),
            ("model.layers.0.self_attn.k_norm.weight", Some("blk.0.attn_k_norm.weight")),
            ("model.layers.0.post_attention_layernorm.weight", Some("blk.0.ffn_norm.weight")),
            ("model.layers.0.mlp.down_proj.weight", Some("blk.0.ffn_down.weight")),
            ("model.layers.0.mlp.router.weight", None),
            ("model.rotary_emb.inv_freq", None),
        ] {
            assert_eq!(gguf_name(Architecture::Llama, name).as_deref(), want, "{name}");
        }
        for (architecture, name, want) in [
            (Architecture::Gemma2, "post_attention_layernorm", "post_attention_norm"),
            (Architecture::Gemma2, "pre_feedforward_layernorm", "ffn_norm"),
            (Architecture::Gemma2, "post_feedforward_layernorm", "post_ffw_norm"),
            (Architecture::Gemma, "post_attention_layernorm", "ffn_norm"),
            (Architecture::Phi3, "self_attn.qkv_proj", "attn_qkv"),
            (Architecture::Phi3, "mlp.gate_up_proj", "ffn_up"),
        ] {
            let got = gguf_name(architecture, &format!("model.layers.3.{name}.weight"));
            assert_eq!(got, Some(format!("blk.3.{want}.weight")), "{name}");
        }
    }

    #[test]
    fn restoring_rows_undoes_the_permutation_of_the_converter() {
        // convert_hf_to_gguf.py: reshape(heads, 2, rows // heads // 2, in).swapaxes(1, 2).reshape(rows, in)
        let permute = |x: &Tensor, heads: i64| {
            let size = x.size();
            x.view([heads, 2, size[0] / heads / 2, -1]).transpose(1, 2).reshape(size.as_slice())
        };
        let weight = Tensor::arange(24 * 5, (tch::Kind::Float, tch::Device::Cpu)).view([24, 5]);
        let bias = Tensor::arange(24, (tch::Kind::Float, tch::Device::Cpu));
        for heads in [1, 2, 3] {
            assert_ne!(permute(&weight, heads), weight);
            assert_eq!(restore_rows(&permute(&weight, heads), heads), weight);
            assert_eq!(restore_rows(&permute(&bias, heads), heads), bias);
        }
    }
}

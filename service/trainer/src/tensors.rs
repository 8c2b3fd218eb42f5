//! Named tensors to the bytes of a safetensors file, and back, all in float32.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

/// Why a file's tensors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file breaks the format.
    #[error(transparent)]
    Format(#[from] safetensors::SafeTensorError),
    /// A tensor is stored in a type that is not read.
    #[error("tensor {name} is stored as {dtype:?}; supported are F32, F16 and BF16")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
}

/// The bytes of a file that holds these tensors, as PyTorch would write it.
pub fn serialize(tensors: &[(String, Tensor)]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, tensor)| little_endian(tensor)).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        let shape = tensor.size().iter().map(|&dim| dim as usize).collect();
        (name.as_str(), TensorView::new(Dtype::F32, shape, bytes).expect("four bytes for each value"))
    });
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).expect("shapes and names are sound")
}

fn little_endian(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view(-1);
    let values = Vec::<f32>::try_from(flat).expect("a flat float tensor is a vector");
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The tensors of a file, in float32 on the CPU.
pub fn read(file: &SafeTensors<'_>) -> Result<Vec<(String, Tensor)>, Error> {
    file.iter()
        .map(|(name, view)| {
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::F16 => Kind::Half,
                Dtype::BF16 => Kind::BFloat16,
                dtype => return Err(Error::Dtype { name: name.to_string(), dtype }),
            };
            let shape: Vec<i64> = view.shape().iter().map(|&dim| dim as i64).collect();
            let tensor = Tensor::from_data_size(view.data(), &shape, kind);
            Ok((name.to_string(), tensor.to_kind(Kind::Float)))
        })
        .collect()
}

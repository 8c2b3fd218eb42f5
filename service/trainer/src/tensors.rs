//! Named tensors to the bytes of a safetensors file, and back: float32 unless another type is asked for; bytes stay bytes.

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
    #[error("tensor {name} is stored as {dtype:?}, which is not supported here")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
    /// A value is no number.
    #[error("tensor {0} has values that are NaN or infinite")]
    NotFinite(String),
}

/// Whether all values are numbers. One pass, and no copy.
pub fn is_finite(tensor: &Tensor) -> bool {
    // Both ends are NaN where any value is.
    let (least, greatest) = tensor.aminmax(None, false);
    least.double_value(&[]).is_finite() && greatest.double_value(&[]).is_finite()
}

/// The bytes of a file that holds these tensors in float32, bytes as bytes, as PyTorch would write it.
pub fn serialize(tensors: &[(String, Tensor)]) -> Vec<u8> {
    serialize_as(Kind::Float, tensors)
}

/// The same with numbers rounded to `kind`: float32, bfloat16 or float16.
pub fn serialize_as(kind: Kind, tensors: &[(String, Tensor)]) -> Vec<u8> {
    let stored: Vec<(Dtype, Vec<u8>)> = tensors.iter().map(|(_, tensor)| little_endian(tensor, kind)).collect();
    let views = tensors.iter().zip(&stored).map(|((name, tensor), (dtype, bytes))| {
        let shape = tensor.size().iter().map(|&dim| dim as usize).collect();
        (name.as_str(), TensorView::new(*dtype, shape, bytes).expect("as many bytes as the values take"))
    });
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).expect("shapes and names are sound")
}

fn little_endian(tensor: &Tensor, kind: Kind) -> (Dtype, Vec<u8>) {
    let dtype = match (tensor.kind(), kind) {
        (Kind::Uint8, _) => Dtype::U8,
        (_, Kind::BFloat16) => Dtype::BF16,
        (_, Kind::Half) => Dtype::F16,
        _ => Dtype::F32,
    };
    (dtype, bytes(tensor, if dtype == Dtype::U8 { Kind::Uint8 } else { kind }))
}

/// The values in `kind` as they lie in a file: row by row, little-endian as every machine that LibTorch runs on.
pub fn bytes(tensor: &Tensor, kind: Kind) -> Vec<u8> {
    let tensor = tensor.to_device(Device::Cpu).to_kind(kind).contiguous();
    let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// The tensors of a file, in float32 on the CPU.
pub fn read(file: &SafeTensors<'_>) -> Result<Vec<(String, Tensor)>, Error> {
    let stored = file.iter().map(|(name, view)| match view.dtype() {
        Dtype::U8 => Err(Error::Dtype { name: name.to_string(), dtype: Dtype::U8 }),
        _ => stored(name, &view),
    });
    stored.map(|tensor| tensor.map(|(name, tensor)| (name, tensor.to_kind(Kind::Float)))).collect()
}

/// The tensors of a file in the type they are stored in, on the CPU.
pub fn read_as_stored(file: &SafeTensors<'_>) -> Result<Vec<(String, Tensor)>, Error> {
    file.iter().map(|(name, view)| stored(name, &view)).collect()
}

fn stored(name: &str, view: &TensorView<'_>) -> Result<(String, Tensor), Error> {
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::U8 => Kind::Uint8,
        dtype => return Err(Error::Dtype { name: name.to_string(), dtype }),
    };
    let shape: Vec<i64> = view.shape().iter().map(|&dim| dim as i64).collect();
    Ok((name.to_string(), Tensor::from_data_size(view.data(), &shape, kind)))
}

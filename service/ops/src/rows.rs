//! What LibTorch has only as chains of operators, as single nodes over rows. CPU only, for the types that have [`has_rows`].

use tch::{Device, Kind, Tensor};

use crate::ffi;

/// Whether the functions of this file take such tensors.
pub fn has_rows(x: &Tensor) -> bool {
    has_loops(x.device(), x.kind())
}

/// The same of tensors that are still to come.
pub fn has_loops(device: Device, kind: Kind) -> bool {
    device == Device::Cpu && matches!(kind, Kind::Float | Kind::Double | Kind::BFloat16)
}

/// `cast(x / √(mean(x²) + eps)) · weight` over the last dimension, or with `plus_one` `cast(x / √(…) · (1 + weight))`:
/// statistics in float32 (RMSNorm, arXiv:1910.07467). The weight is `[last]` in the type of x; it gets a gradient if it wants one.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, plus_one: bool) -> Tensor {
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensors are alive for the call.
        unsafe { ffi::hone_rms_norm(ffi::raw(x), ffi::raw(weight), eps, plus_one, out) }
    });
    out
}

/// `silu(gate) · up` of a gate and an up projection side by side (arXiv:2002.05202): `[T, 2 I]` -> `[T, I]`.
pub fn swiglu(gate_up: &Tensor) -> Tensor {
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensor is alive for the call.
        unsafe { ffi::hone_swiglu(ffi::raw(gate_up), out) }
    });
    out
}

#[cfg(test)]
mod tests;

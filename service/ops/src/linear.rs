//! Linear layers, without and with low-rank adapters, each one node of the autograd graph.

use tch::Tensor;

use crate::ffi;

/// The adapter of one part of a stacked layer.
#[derive(Debug)]
pub struct LoraPart<'a> {
    /// First output row that the part has in the stacked weight.
    pub first_row: i64,
    /// Up projection, float32. `[part's rows, rank]`
    pub b: &'a Tensor,
    /// Factor of the update.
    pub scale: f64,
}

/// Dropout on the input of the down projection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Chance of an input to be dropped, in [0, 1).
    pub probability: f64,
    /// Decides the mask; the same seed gives the same mask, whatever else draws random numbers.
    pub seed: i64,
}

/// `y = x Wᵀ + bias`: `x [T, in]`, `weight [out, in]`, `bias [out]`, all of one type. What [`lora_linear`] gives with an
/// adapter of zeros, to the bit. Whatever wants a gradient gets one.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let [y] = ffi::outputs(|[y]| {
        // SAFETY: the tensors are alive for the call.
        unsafe { ffi::hone_linear(ffi::raw(x), ffi::raw(weight), ffi::raw_or_null(bias), y) }
    });
    y
}

/// `y = x Wᵀ + bias`, and for each part `y[:, rows] += scale · (dropout(x) Aᵀ) Bᵀ`. At least one part; ranks and scales may
/// differ, and two parts may have the same rows.
///
/// `x [T, in]`, `weight [out, in]`, `bias [out]`, `a [sum of ranks, in]` float32 with the parts' rows in order. The backward
/// pass gives gradients to x, A and each B that wants one; weight and bias are frozen. Equal to the plain formula, which
/// the tests hold it to.
pub fn lora_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    a: &Tensor,
    parts: &[LoraPart<'_>],
    dropout: Option<Dropout>,
) -> Tensor {
    assert!(!parts.is_empty(), "an adapted layer has at least one part");
    let b: Vec<_> = parts.iter().map(|part| ffi::raw(part.b)).collect();
    let rows: Vec<i64> = parts.iter().map(|part| part.first_row).collect();
    let scales: Vec<f64> = parts.iter().map(|part| part.scale).collect();
    let Dropout { probability, seed } = dropout.unwrap_or(Dropout { probability: 0.0, seed: 0 });
    let [y] = ffi::outputs(|[y]| {
        // SAFETY: all tensors and the arrays, of `parts.len()` each, are alive for the call.
        unsafe {
            ffi::hone_lora_linear(
                ffi::raw(x),
                ffi::raw(weight),
                ffi::raw_or_null(bias),
                ffi::raw(a),
                b.as_ptr(),
                rows.as_ptr(),
                scales.as_ptr(),
                parts.len(),
                probability,
                seed,
                y,
            )
        }
    });
    y
}

/// The input as [`lora_linear`] drops it: what stays is divided by `1 - probability`. The same seed and shape give the same
/// mask as there.
pub fn dropout(x: &Tensor, Dropout { probability, seed }: Dropout) -> Tensor {
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensor is alive for the call.
        unsafe { ffi::hone_dropout(ffi::raw(x), probability, seed, out) }
    });
    out
}

#[cfg(test)]
mod tests;

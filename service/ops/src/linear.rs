//! A frozen linear layer with low-rank adapters, as one node of the autograd graph.

use tch::Tensor;

use crate::ffi;

/// The adapter of one part of a stacked layer.
#[derive(Debug)]
pub struct LoraPart<'a> {
    /// First output row that the part has in the stacked weight.
    pub first_row: i64,
    /// Up projection, float32. `[part's rows, rank]`
    pub b: &'a Tensor,
}

/// Dropout on the input of the down projection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Chance of an input to be dropped, in [0, 1).
    pub probability: f64,
    /// Decides the mask; the same seed gives the same mask, whatever else draws random numbers.
    pub seed: i64,
}

/// `y = x Wᵀ + bias`, and for each part `y[:, rows] += scale · (dropout(x) Aᵀ) Bᵀ`.
///
/// `x [T, in]`, `weight [out, in]`, `bias [out]`, `a [sum of ranks, in]` float32 with the parts' rows in order. The backward
/// pass gives gradients to x, A and B; weight and bias are frozen. Equal to the plain formula, which the tests hold it to.
pub fn lora_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    a: &Tensor,
    parts: &[LoraPart<'_>],
    scale: f64,
    dropout: Option<Dropout>,
) -> Tensor {
    let b: Vec<_> = parts.iter().map(|part| ffi::raw(part.b)).collect();
    let rows: Vec<i64> = parts.iter().map(|part| part.first_row).collect();
    let Dropout { probability, seed } = dropout.unwrap_or(Dropout { probability: 0.0, seed: 0 });
    let [y] = ffi::outputs(|[y]| {
        // SAFETY: all tensors and both arrays, of `parts.len()` each, are alive for the call.
        unsafe {
            ffi::hone_lora_linear(
                ffi::raw(x),
                ffi::raw(weight),
                ffi::raw_or_null(bias),
                ffi::raw(a),
                b.as_ptr(),
                rows.as_ptr(),
                parts.len(),
                scale,
                probability,
                seed,
                y,
            )
        }
    });
    y
}

#[cfg(test)]
mod tests;

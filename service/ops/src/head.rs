//! The head and its loss in tiles over tokens; logits are never held whole.

use tch::{Kind, Tensor};

use crate::ffi;

/// Negative log-likelihood and whether the likeliest token is the target, for each position: `(nll [N], correct [N])`.
///
/// `hidden [N, E]`, `weight [V, E]`, `targets [N]` int64 in `0..V`; with a `soft_cap` c logits are `c tanh(logit / c)`
/// (Gemma 2, arXiv:2408.00118); `tile` positions have their logits at once. The loss is float32 (float64 for float64 input)
/// with a gradient to `hidden`, made in the forward pass; `correct` is bool. A weight that requires a gradient gets one: it is
/// the float32 master of a trained head, cast to the type of `hidden` inside, and its logits are made again in the backward
/// pass.
pub fn head_nll(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    soft_cap: Option<f64>,
    tile: i64,
) -> (Tensor, Tensor) {
    let cap = soft_cap.unwrap_or(0.0);
    let [nll, correct] = ffi::outputs(|[nll, correct]| {
        // SAFETY: the tensors are alive for the call.
        unsafe { ffi::hone_head_nll(ffi::raw(hidden), ffi::raw(weight), ffi::raw(targets), cap, tile, nll, correct) }
    });
    (nll, correct)
}

/// The sum of [`head_nll`] over positions, with its gradient, and the number of correct ones: `(scalar, int64 scalar)`.
pub fn head_cross_entropy(hidden: &Tensor, weight: &Tensor, targets: &Tensor, tile: i64) -> (Tensor, Tensor) {
    let (nll, correct) = head_nll(hidden, weight, targets, None, tile);
    let kind = nll.kind();
    (nll.sum(kind), correct.sum(Kind::Int64))
}

/// Log-probability of each target `[N]`, without gradient.
pub fn head_logprobs(hidden: &Tensor, weight: &Tensor, targets: &Tensor, tile: i64) -> Tensor {
    tch::no_grad(|| head_nll(hidden, weight, targets, None, tile).0.neg())
}

#[cfg(test)]
mod tests;

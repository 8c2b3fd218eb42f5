//! Causal attention whose scores are bounded, as one node of the autograd graph.

use tch::Tensor;

use crate::ffi;

/// How attention makes and bounds its scores: `cap · tanh(scale · q k / cap)` (Gemma 2, arXiv:2408.00118).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftCap {
    /// What products of queries and keys are multiplied by.
    pub scale: f64,
    /// The bound; positive.
    pub cap: f64,
}

/// `softmax(cap tanh(scale q kᵀ / cap)) v` for N documents of one length, causal:
/// `q [N, L, H, D]`, `k` and `v [N, P + L, K, D]` -> `[N, L, H, D]`.
///
/// Query i is at place P + i of its document: P is 0, or what came before the queries. H is a multiple of K; query head h
/// reads key head `h / (H / K)`. With a `window`, place i sees j only when `j > i - window`. `tile` queries of each document
/// have their scores at once; the result does not depend on it beyond rounding.
pub fn capped_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    SoftCap { scale, cap }: SoftCap,
    window: Option<i64>,
    tile: i64,
) -> Tensor {
    let (q, k, v, window) = (ffi::raw(q), ffi::raw(k), ffi::raw(v), window.unwrap_or(0));
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensors are alive for the call.
        unsafe { ffi::hone_capped_attention(q, k, v, scale, cap, window, tile, out) }
    });
    out
}

#[cfg(test)]
mod tests;

//! Causal attention over documents that lie end to end in one flat batch, as one node of the autograd graph.

use std::ptr;

use tch::Tensor;

use crate::ffi;

/// Neighbouring tokens that see each other, the earlier ones of theirs.
#[derive(Debug, Clone, Copy)]
pub struct Document {
    /// First token.
    pub start: i64,
    /// Tokens.
    pub len: i64,
    /// First token and length of what the document continues: those tokens are seen before its own.
    pub prefix: Option<(i64, i64)>,
}

/// `softmax(q kᵀ / √D) v` inside each document, causal: `q [T, H, D]`, `k` and `v [T, K, D]` -> `[T, H, D]`.
///
/// H is a multiple of K; query head h reads key head `h / (H / K)`. The documents cover the T tokens in order. With a
/// `window`, token i of a document sees j only when `j > i - window`. For tensors that [`crate::has_rows`] takes.
pub fn document_attention(q: &Tensor, k: &Tensor, v: &Tensor, documents: &[Document], window: Option<i64>) -> Tensor {
    let numbers = numbers(documents);
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensors are alive for the call, `numbers` holds four for each document.
        unsafe {
            ffi::hone_document_attention(
                ffi::raw(q),
                ffi::raw(k),
                ffi::raw(v),
                numbers.as_ptr(),
                documents.len(),
                window.unwrap_or(0),
                out,
            )
        }
    });
    out
}

/// The same from the stacked projection on: `qkv [T, (H + 2 K) D]` -> `[T, H, D]`.
///
/// The first R dimensions of queries and keys are turned by `cos` and `sin` `[T, R/2]`, in the type of `qkv`: (x1, x2) ->
/// (x1 cos - x2 sin, x2 cos + x1 sin), halves of the R dimensions.
pub fn rotary_attention(
    qkv: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    (num_heads, num_key_value_heads): (i64, i64),
    documents: &[Document],
    window: Option<i64>,
) -> Tensor {
    let numbers = numbers(documents);
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensors are alive for the call, `numbers` holds four for each document.
        unsafe {
            ffi::hone_rotary_attention(
                ffi::raw(qkv),
                ffi::raw(cos),
                ffi::raw(sin),
                num_heads,
                num_key_value_heads,
                numbers.as_ptr(),
                documents.len(),
                window.unwrap_or(0),
                out,
            )
        }
    });
    out
}

/// Documents as C++ takes them.
fn numbers(documents: &[Document]) -> Vec<i64> {
    let numbers = |document: &Document| {
        let (prefix_start, prefix_len) = document.prefix.unwrap_or((0, 0));
        [document.start, document.len, prefix_start, prefix_len]
    };
    documents.iter().flat_map(numbers).collect()
}

/// The same on CUDA in one call of LibTorch's flash attention: float16 or bfloat16.
///
/// `queries` and `keys` say where each document begins in `q`, and in `k` and `v`, with the end behind, as int32
/// `[documents + 1]` on the device, and how long the longest is. A document with more keys than queries has its queries at
/// the end. With a `window`, token i sees j only when `j > i - window`.
pub fn varlen_flash(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    queries: (&Tensor, i64),
    keys: (&Tensor, i64),
    window: Option<i64>,
) -> Tensor {
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensors are alive for the call.
        unsafe {
            ffi::hone_varlen_flash(
                ffi::raw(q),
                ffi::raw(k),
                ffi::raw(v),
                ffi::raw(queries.0),
                queries.1,
                ffi::raw(keys.0),
                keys.1,
                window.unwrap_or(0),
                out,
            )
        }
    });
    out
}

/// LibTorch's memory-efficient kernel, of CUDA alone: `q`, `k` and `v [N, H, L, D]`, and what is added to the scores.
///
/// Panics on other devices, and where the kernel does not take such tensors.
pub fn efficient_attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, is_causal: bool) -> Tensor {
    let mask = mask.map_or(ptr::null(), ffi::raw);
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensors are alive for the call.
        unsafe { ffi::hone_efficient_attention(ffi::raw(q), ffi::raw(k), ffi::raw(v), mask, is_causal, out) }
    });
    out
}

#[cfg(test)]
mod tests;

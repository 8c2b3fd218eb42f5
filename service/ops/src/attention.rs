//! Causal attention over documents that lie end to end in one flat batch, as one node of the autograd graph.

use std::ptr;

use tch::Tensor;

use crate::ffi;

/// A run of neighbouring documents of one length, which attention takes in one call.
#[derive(Debug)]
pub struct Group {
    /// First token.
    pub start: i64,
    /// Documents.
    pub count: i64,
    /// Tokens of each document.
    pub len: i64,
    /// First token and length of what the one document of the group continues: those tokens are seen before its own.
    pub prefix: Option<(i64, i64)>,
    /// What to add to the scores `[len, prefix + len]`, in the type of the queries; none means causal, and there is no
    /// prefix.
    pub mask: Option<Tensor>,
}

/// `softmax(q kᵀ / √D) v` inside each document, causal: `q [T, H, D]`, `k` and `v [T, K, D]` -> `[T, H, D]`.
///
/// H is a multiple of K; query head h reads key head `h / (H / K)`. The groups cover the T tokens in order. CPU only.
pub fn document_attention(q: &Tensor, k: &Tensor, v: &Tensor, groups: &[Group]) -> Tensor {
    let (flat, masks) = flattened(groups);
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensors are alive for the call, `flat` holds five numbers and `masks` one pointer for each group.
        unsafe {
            ffi::hone_document_attention(
                ffi::raw(q),
                ffi::raw(k),
                ffi::raw(v),
                flat.as_ptr(),
                masks.as_ptr(),
                groups.len(),
                out,
            )
        }
    });
    out
}

/// The same from the stacked projection on: `qkv [T, (H + 2 K) D]` -> `[T, H, D]`.
///
/// The first R dimensions of queries and keys are turned by `cos` and `sin` `[T, R/2]`, in the type of `qkv`: (x1, x2) ->
/// (x1 cos - x2 sin, x2 cos + x1 sin), halves of the R dimensions. CPU only, float32, float64 and bfloat16.
pub fn rotary_attention(
    qkv: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    num_heads: i64,
    num_key_value_heads: i64,
    groups: &[Group],
) -> Tensor {
    let (flat, masks) = flattened(groups);
    let [out] = ffi::outputs(|[out]| {
        // SAFETY: the tensors are alive for the call, `flat` holds five numbers and `masks` one pointer for each group.
        unsafe {
            ffi::hone_rotary_attention(
                ffi::raw(qkv),
                ffi::raw(cos),
                ffi::raw(sin),
                num_heads,
                num_key_value_heads,
                flat.as_ptr(),
                masks.as_ptr(),
                groups.len(),
                out,
            )
        }
    });
    out
}

/// Five numbers of each group and its mask, as C++ takes them.
fn flattened(groups: &[Group]) -> (Vec<i64>, Vec<*const ffi::Raw>) {
    let numbers = |group: &Group| {
        let (prefix_start, prefix_len) = group.prefix.unwrap_or((0, 0));
        [group.start, group.count, group.len, prefix_start, prefix_len]
    };
    let mask = |group: &Group| group.mask.as_ref().map_or(ptr::null(), ffi::raw);
    (groups.iter().flat_map(numbers).collect(), groups.iter().map(mask).collect())
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

#[cfg(test)]
mod tests;

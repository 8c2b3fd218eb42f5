//! The border: C functions of `cpp/`, tensors as pointers, and C++ exceptions as messages.

use std::ffi::{CStr, c_char};
use std::ptr;

use tch::Tensor;

/// An `at::Tensor` of C++; tch's handle to a tensor is a pointer to one.
#[repr(C)]
pub(crate) struct Raw {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn hone_free(message: *mut c_char);
    pub(crate) fn hone_build_settings(text: *mut *mut c_char) -> *mut c_char;
    pub(crate) fn hone_device_memory(device: i64, allocated: *mut u64, reserved: *mut u64) -> *mut c_char;
    pub(crate) fn hone_give_memory_back();
    pub(crate) fn hone_op_times_begin() -> *mut c_char;
    pub(crate) fn hone_op_times_end(text: *mut *mut c_char) -> *mut c_char;
    pub(crate) fn hone_backward(tensor: *const Raw, gradient: *const Raw) -> *mut c_char;
    pub(crate) fn hone_set_grad(tensor: *const Raw, grad: *const Raw) -> *mut c_char;
    pub(crate) fn hone_linear(x: *const Raw, weight: *const Raw, bias: *const Raw, out: *mut *mut Raw) -> *mut c_char;
    pub(crate) fn hone_lora_linear(
        x: *const Raw,
        weight: *const Raw,
        bias: *const Raw,
        a: *const Raw,
        b: *const *const Raw,
        rows: *const i64,
        scales: *const f64,
        num_parts: usize,
        dropout: f64,
        seed: i64,
        out: *mut *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn hone_dropout(x: *const Raw, probability: f64, seed: i64, out: *mut *mut Raw) -> *mut c_char;
    pub(crate) fn hone_rms_norm(
        x: *const Raw,
        weight: *const Raw,
        eps: f64,
        plus_one: bool,
        out: *mut *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn hone_swiglu(x: *const Raw, out: *mut *mut Raw) -> *mut c_char;
    pub(crate) fn hone_head_nll(
        hidden: *const Raw,
        weight: *const Raw,
        targets: *const Raw,
        soft_cap: f64,
        tile: i64,
        nll: *mut *mut Raw,
        correct: *mut *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn hone_document_attention(
        q: *const Raw,
        k: *const Raw,
        v: *const Raw,
        documents: *const i64,
        num_documents: usize,
        window: i64,
        out: *mut *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn hone_rotary_attention(
        qkv: *const Raw,
        cos: *const Raw,
        sin: *const Raw,
        queries: i64,
        keys: i64,
        documents: *const i64,
        num_documents: usize,
        window: i64,
        out: *mut *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn hone_varlen_flash(
        q: *const Raw,
        k: *const Raw,
        v: *const Raw,
        query_starts: *const Raw,
        longest_query: i64,
        key_starts: *const Raw,
        longest_key: i64,
        window: i64,
        out: *mut *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn hone_efficient_attention(
        q: *const Raw,
        k: *const Raw,
        v: *const Raw,
        mask: *const Raw,
        is_causal: bool,
        out: *mut *mut Raw,
    ) -> *mut c_char;
    pub(crate) fn hone_capped_attention(
        q: *const Raw,
        k: *const Raw,
        v: *const Raw,
        scale: f64,
        cap: f64,
        window: i64,
        tile: i64,
        out: *mut *mut Raw,
    ) -> *mut c_char;
}

/// The C++ tensor behind a tch one; alive as long as the borrow.
pub(crate) fn raw(tensor: &Tensor) -> *const Raw {
    tensor.as_ptr().cast()
}

/// Null for none.
pub(crate) fn raw_or_null(tensor: Option<&Tensor>) -> *const Raw {
    tensor.map_or(ptr::null(), raw)
}

/// Panics with the message of a C++ exception, as tch's operators do.
#[track_caller]
pub(crate) fn check(message: *mut c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: a non-null message is a C string made by `strdup` that nobody else holds.
    let text = unsafe { take_text(message) };
    panic!("{text}");
}

/// Copies a text of C++ and frees it.
///
/// # Safety
/// `text` is a C string made by `strdup` that nobody else holds or uses again.
pub(crate) unsafe fn take_text(text: *mut c_char) -> String {
    // SAFETY: as the caller promises; it is freed once, after the copy.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        hone_free(text);
        copy
    }
}

/// Runs an operator that writes `N` new tensors, and takes them over.
#[track_caller]
pub(crate) fn outputs<const N: usize>(run: impl FnOnce(&mut [*mut Raw; N]) -> *mut c_char) -> [Tensor; N] {
    let mut out = [ptr::null_mut(); N];
    check(run(&mut out));
    // SAFETY: without a message every output points to a tensor made by `new`, which is now owned here alone.
    out.map(|tensor| unsafe { Tensor::from_ptr(tensor.cast()) })
}

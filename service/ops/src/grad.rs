//! Where the gradient of a leaf is added up, and where a backward pass begins.

use tch::Tensor;

use crate::ffi;

/// Makes `grad` the gradient of the leaf `tensor`, so that backward passes add into its storage. With views of one buffer
/// as gradients, norm, clipping and the optimizer are single operations.
pub fn set_grad(tensor: &Tensor, grad: &Tensor) {
    // SAFETY: both tensors are alive for the call; C++ keeps its own reference to `grad`.
    ffi::check(unsafe { ffi::hone_set_grad(ffi::raw(tensor), ffi::raw(grad)) });
}

/// The backward pass from a tensor whose own gradient is known: what comes of it is added to the leaves.
pub fn backward(tensor: &Tensor, gradient: &Tensor) {
    // SAFETY: both tensors are alive for the call.
    ffi::check(unsafe { ffi::hone_backward(ffi::raw(tensor), ffi::raw(gradient)) });
}

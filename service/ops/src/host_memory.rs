//! Memory of tensors on the host: what lies free is kept for the next ones until it is given back.

use crate::ffi;

/// Gives the system what is free in the heap of tensors and in that of everything else. For the end of work whose memory
/// the next will not want, such as loading a model: pages that are wanted again cost their faults.
pub fn give_memory_back() {
    // SAFETY: takes nothing, and touches only memory that nothing holds.
    unsafe { ffi::hone_give_memory_back() }
}

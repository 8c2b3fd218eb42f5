//! Work that LibTorch may panic in, and whether it did for want of memory.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hone_job::failure::Reason;

use crate::error::Error;

/// What a panic left.
pub(super) type Panic = Box<dyn Any + Send>;

/// Does something that LibTorch may panic in. A panic where gradients are off leaves them off.
pub(super) fn attempt<R>(work: impl FnOnce() -> R) -> Result<R, Panic> {
    catch_unwind(AssertUnwindSafe(|| tch::with_grad(work)))
}

/// Whether memory ran out.
pub(super) fn is_about_memory(error: &Error) -> bool {
    error.failure().reason == Reason::OutOfMemory
}

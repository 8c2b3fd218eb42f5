//! Libraries that panic on input that is broken: what they read goes in, and a panic comes out as an error like any other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `read` gives. What it was working on is not to be used again after an error.
pub(crate) fn caught<T, E: ToString>(read: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    let words = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(words) => *words,
        Err(panic) => panic.downcast_ref::<&str>().unwrap_or(&"its parts contradict each other").to_string(),
    };
    catch_unwind(AssertUnwindSafe(read)).map_err(words)?.map_err(|error| error.to_string())
}

//! The LibTorch operators that tch lacks, as safe functions on tensors: C++ beside Rust, and the only `unsafe` of hone.
//!
//! Operators panic with LibTorch's message on sizes that do not fit, as tch's own operators do; callers check sizes once,
//! when a model is built. What touches files and libraries gives a `Result`.

mod attention;
mod capped_attention;
mod device_memory;
mod ffi;
mod grad;
mod head;
mod host_memory;
mod libraries;
mod linear;
mod mapped;
mod op_times;
#[cfg(test)]
mod random;
mod rows;

pub use attention::{Document, document_attention, efficient_attention, rotary_attention, varlen_flash};
pub use capped_attention::{SoftCap, capped_attention};
pub use device_memory::{DeviceMemory, device_memory};
pub use grad::{backward, set_grad};
pub use head::{head_cross_entropy, head_logprobs, head_nll};
pub use host_memory::give_memory_back;
pub use libraries::{Libraries, LoadError, libtorch_version, load_cuda};
pub use linear::{Dropout, LoraPart, dropout, linear, lora_linear};
pub use mapped::MappedFile;
pub use op_times::{OpTime, op_times};
pub use rows::{has_loops, has_rows, rms_norm, swiglu};

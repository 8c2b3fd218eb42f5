//! Memory of a GPU, as LibTorch's allocator counts it.

use crate::ffi;

/// What the allocator has of a device's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// In tensors.
    pub allocated: u64,
    /// In tensors, or ready for them.
    pub reserved: u64,
}

/// The memory of a CUDA device; none where there is no such allocator, or where it has not begun.
pub fn device_memory(device: usize) -> Option<DeviceMemory> {
    let (mut allocated, mut reserved) = (0, 0);
    // SAFETY: both numbers are alive during the call, which writes to nothing else.
    let message = unsafe { ffi::hone_device_memory(device as i64, &mut allocated, &mut reserved) };
    if !message.is_null() {
        // SAFETY: a non-null message is a C string made by `strdup` that nobody else holds.
        drop(unsafe { ffi::take_text(message) });
        return None;
    }
    (reserved > 0).then_some(DeviceMemory { allocated, reserved })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_gpu_has_no_memory_of_one() {
        if !tch::Cuda::is_available() {
            assert_eq!(device_memory(0), None);
        }
    }
}

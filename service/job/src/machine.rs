//! What a run takes of its machine: the time of its steps, memory, processors, devices, disks and storage.

use serde::{Deserialize, Serialize};

/// What the time of a step went to, in seconds. The first four parts make up the step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    /// Choosing and packing rows.
    pub data_seconds: f64,
    /// The model and the loss.
    pub forward_seconds: f64,
    /// Gradients, and how noisy they are.
    pub backward_seconds: f64,
    /// Norm, clipping and the optimizer.
    pub update_seconds: f64,
    /// Between the step before and this one, evaluations left out; no part of the step.
    pub wait_seconds: f64,
}

/// Use of the machine. What the machine lacks is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceUsage {
    /// Resident memory of the trainer, in bytes.
    pub host_memory_bytes: u64,
    /// Processor use of the trainer in cores.
    pub cpu_cores: f64,
    /// Device memory in use, in bytes.
    pub device_memory_bytes: Option<u64>,
    /// Device memory that there is, in bytes.
    pub device_memory_total_bytes: Option<u64>,
    /// Device memory in tensors, as LibTorch's allocator counts it, in bytes.
    pub device_allocated_bytes: Option<u64>,
    /// Device memory that LibTorch's allocator holds, in bytes.
    pub device_reserved_bytes: Option<u64>,
    /// Share of time the device was busy, 0 to 1.
    pub device_utilization: Option<f64>,
    /// Power that the device draws, in watts.
    pub device_power_watts: Option<f64>,
    /// Temperature of the device, in degrees Celsius.
    pub device_temperature_celsius: Option<f64>,
    /// What the trainer read from disks since the sample before, in bytes a second.
    pub disk_read_bytes_per_second: Option<f64>,
    /// What it wrote to disks.
    pub disk_write_bytes_per_second: Option<f64>,
    /// What it fetched from storage since the sample before, in bytes a second.
    pub storage_read_bytes_per_second: Option<f64>,
    /// What it wrote to storage.
    pub storage_write_bytes_per_second: Option<f64>,
}

//! Use of the machine as messages.

use hone_job::machine::{ResourceUsage, StepTime};
use hone_proto::v1 as pb;

pub(super) fn step_time(time: StepTime) -> pb::StepTime {
    pb::StepTime {
        data_seconds: time.data_seconds,
        forward_seconds: time.forward_seconds,
        backward_seconds: time.backward_seconds,
        update_seconds: time.update_seconds,
        wait_seconds: time.wait_seconds,
    }
}

pub(super) fn usage(usage: ResourceUsage) -> pb::ResourceUsage {
    pb::ResourceUsage {
        host_memory_bytes: usage.host_memory_bytes,
        cpu_cores: usage.cpu_cores,
        device_memory_bytes: usage.device_memory_bytes,
        device_utilization: usage.device_utilization,
        device_memory_total_bytes: usage.device_memory_total_bytes,
        device_allocated_bytes: usage.device_allocated_bytes,
        device_reserved_bytes: usage.device_reserved_bytes,
        device_power_watts: usage.device_power_watts,
        device_temperature_celsius: usage.device_temperature_celsius,
        disk_read_bytes_per_second: usage.disk_read_bytes_per_second,
        disk_write_bytes_per_second: usage.disk_write_bytes_per_second,
        storage_read_bytes_per_second: usage.storage_read_bytes_per_second,
        storage_write_bytes_per_second: usage.storage_write_bytes_per_second,
    }
}

//! Use of the machine by this process: what Linux counts, what storage moved, what NVIDIA's driver says of a GPU.

use std::time::{Duration, Instant};

use hone_data::storage::{Traffic, traffic};
use hone_job::machine::ResourceUsage;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tch::Device;

mod gpu;

use gpu::Gpu;

/// Time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Samples this process and its device.
pub struct Usage {
    /// None where the system does not tell.
    system: Option<System>,
    pid: Pid,
    gpu: Option<Gpu>,
    sampled: Instant,
    moved: Traffic,
}

impl Usage {
    /// Starts to count.
    pub fn new(device: Device) -> Usage {
        let mut usage = Usage {
            system: System::new().ok(),
            pid: Pid::from_u32(std::process::id()),
            gpu: Gpu::of(device),
            sampled: Instant::now(),
            moved: traffic(),
        };
        usage.refresh();
        usage
    }

    /// A sample, when it is time for one.
    pub(super) fn sample_if_due(&mut self) -> Option<ResourceUsage> {
        if self.sampled.elapsed() < SAMPLE_EVERY { None } else { self.sample() }
    }

    /// A sample of the time since the one before.
    pub fn sample(&mut self) -> Option<ResourceUsage> {
        let seconds = self.sampled.elapsed().as_secs_f64();
        self.sampled = Instant::now();
        self.refresh();
        let process = self.system.as_ref()?.process(self.pid)?;
        let per_second = |bytes: u64| (seconds > 0.0).then(|| bytes as f64 / seconds);
        let disk = process.disk_usage();
        let moved = traffic();
        let before = std::mem::replace(&mut self.moved, moved);
        let usage = ResourceUsage {
            host_memory_bytes: process.memory(),
            cpu_cores: f64::from(process.cpu_usage()) / 100.0,
            disk_read_bytes_per_second: per_second(disk.read_bytes),
            disk_write_bytes_per_second: per_second(disk.written_bytes),
            storage_read_bytes_per_second: per_second(moved.read_bytes.saturating_sub(before.read_bytes)),
            storage_write_bytes_per_second: per_second(moved.written_bytes.saturating_sub(before.written_bytes)),
            ..ResourceUsage::default()
        };
        Some(match &self.gpu {
            Some(gpu) => gpu.sample(usage),
            None => usage,
        })
    }

    fn refresh(&mut self) {
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory().with_disk_usage();
        if let Some(system) = &mut self.system {
            system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.pid]), false, what);
        }
    }
}

/// Counts the most memory anew from now on, without what lies free. Says whether the system can.
pub(super) fn reset_peak_memory() -> bool {
    hone_ops::give_memory_back();
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The most memory this process had so far, or since it was counted anew: VmHWM of `/proc/self/status`; 0 where there is none.
pub fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_what_the_machine_has_and_nothing_that_it_lacks() {
        let mut usage = Usage::new(Device::Cpu);
        let written = vec![1u8; 1 << 20];
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let object = hone_data::storage::Storage::open_path(&folder.path().join("object")).unwrap();
        runtime.block_on(object.put(written)).unwrap();
        runtime.block_on(object.get()).unwrap();
        let found = usage.sample().expect("Linux tells");
        assert!(found.host_memory_bytes > 1 << 20 && found.cpu_cores >= 0.0, "{found:?}");
        assert!(found.storage_write_bytes_per_second.unwrap() > 0.0, "{found:?}");
        assert!(found.storage_read_bytes_per_second.unwrap() > 0.0, "{found:?}");
        assert!(found.disk_write_bytes_per_second.is_some());
        let of_device = [found.device_power_watts, found.device_utilization, found.device_temperature_celsius];
        assert_eq!((found.device_memory_bytes, of_device), (None, [None; 3]));
        assert!(usage.sample_if_due().is_none(), "the next one is due in ten seconds");
    }
}

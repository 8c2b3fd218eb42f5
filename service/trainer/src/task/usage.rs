//! Use of the machine by this process, as Linux counts it.

use std::time::{Duration, Instant};

use hone_job::event::ResourceUsage;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Samples this process.
pub(super) struct Usage {
    /// None where the system does not tell.
    system: Option<System>,
    pid: Pid,
    sampled: Instant,
}

impl Usage {
    /// Starts to count.
    pub(super) fn new() -> Usage {
        let mut usage =
            Usage { system: System::new().ok(), pid: Pid::from_u32(std::process::id()), sampled: Instant::now() };
        usage.refresh();
        usage
    }

    /// A sample, when it is time for one.
    pub(super) fn sample(&mut self) -> Option<ResourceUsage> {
        if self.sampled.elapsed() < SAMPLE_EVERY {
            return None;
        }
        self.sampled = Instant::now();
        self.refresh();
        let process = self.system.as_ref()?.process(self.pid)?;
        Some(ResourceUsage {
            host_memory_bytes: process.memory(),
            cpu_cores: f64::from(process.cpu_usage()) / 100.0,
            device_memory_bytes: None,
            device_utilization: None,
        })
    }

    fn refresh(&mut self) {
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
        if let Some(system) = &mut self.system {
            system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.pid]), false, what);
        }
    }
}

/// Counts the most memory anew from now on. Says whether the system can.
pub(super) fn reset_peak_memory() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The most memory this process had so far, or since it was counted anew: VmHWM of `/proc/self/status`; 0 where there is none.
pub fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

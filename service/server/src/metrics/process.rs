//! What Linux tells of this process.

use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};

/// Processor time, memory and files of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Processor time in this process's own code.
    pub(super) user: Duration,
    /// Processor time in the kernel.
    pub(super) system: Duration,
    /// Resident memory, in bytes.
    pub(super) memory_bytes: u64,
}

impl Usage {
    /// As it is now; zero where `/proc` says nothing.
    pub(super) fn now() -> Self {
        std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| Self::parse(&stat)).unwrap_or_default()
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name in parentheses may hold spaces; the state is the first field behind it, the 3rd of proc(5).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64);
        Some(Self { user: time(field(14)?), system: time(field(15)?), memory_bytes: field(24)? * page_size() as u64 })
    }
}

/// Files and connections that are open.
pub(super) fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_own_use() {
        let usage = Usage::now();
        assert!(usage.memory_bytes > 1 << 20, "{usage:?}");
        assert!(open_files() > 2);
        let stat = "7 (a ) b) S 1 7 7 0 -1 4 9 0 0 0 250 50 0 0 20 0 5 0 99 1000 30 0";
        let parsed = Usage::parse(stat).unwrap();
        assert_eq!(parsed.user.as_secs_f64(), 250.0 / clock_ticks_per_second() as f64);
        assert_eq!(parsed.memory_bytes, 30 * page_size() as u64);
        assert_eq!(Usage::parse("7 (short) S 1"), None);
    }
}

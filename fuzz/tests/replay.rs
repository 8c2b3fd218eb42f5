//! Every input that was ever of interest, once more: none may panic, and none may take long or much memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hone_fuzz::TARGETS;

/// Longest time that an input may take: far more than any does, and less than a hang, on a machine that is busy otherwise.
const MAX_TIME: Duration = Duration::from_secs(60);
/// Most memory that this process may ever take, with LibTorch in it.
const MAX_MEMORY_KIB: u64 = 2 << 20;

#[test]
fn corpora_are_survived_in_bounded_time_and_memory() {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let paths = inputs(name);
        let mut slowest = (Duration::ZERO, None);
        for path in &paths {
            eprintln!("{}", path.display()); // the last line tells which input ended the process, where one does
            let bytes = std::fs::read(path).unwrap();
            let start = Instant::now();
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            let time = start.elapsed();
            if outcome.is_err() || time > MAX_TIME {
                failed.push(path.clone());
            }
            slowest = slowest.max((time, path.file_name()));
        }
        let memory = peak_memory_kib();
        eprintln!("{name}: {} inputs, the slowest is {slowest:?}, memory at most {memory} KiB", paths.len());
        assert!(memory < MAX_MEMORY_KIB && !paths.is_empty());
    }
    assert!(failed.is_empty(), "panics or takes longer than {MAX_TIME:?}: {failed:#?}");
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder is read").path()).collect();
    paths.sort();
    paths
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

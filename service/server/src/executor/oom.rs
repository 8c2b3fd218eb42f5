//! Whether the kernel killed somebody for memory: the counter of this process's control group, before and after.

use std::path::PathBuf;

/// The counter as it stood when it was first read. Absent where the machine has none.
#[derive(Debug)]
pub(super) struct OomCounter {
    file: Option<PathBuf>,
    before: u64,
}

impl OomCounter {
    /// The counter of the group that this process, and so its children, belongs to.
    pub(super) fn of_this_process() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let file = candidates(&groups).into_iter().find(|file| file.exists());
        let mut counter = Self { file, before: 0 };
        counter.before = counter.read();
        counter
    }

    /// Whether somebody was killed since.
    pub(super) fn has_risen(&self) -> bool {
        self.read() > self.before
    }

    fn read(&self) -> u64 {
        let text = self.file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        kills(&text)
    }
}

/// Where the counter may be, by the lines of /proc/self/cgroup. Within a container the path seen there often is not the
/// one mounted, so the root of the mount is tried as well.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let path = path.trim_start_matches('/');
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.oom_control")
            }
            _ => continue,
        };
        files.push(PathBuf::from(root).join(path).join(file));
        files.push(PathBuf::from(root).join(file));
    }
    files
}

fn kills(text: &str) -> u64 {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    text.lines().find_map(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_in_both_versions_of_control_groups() {
        let files = candidates("5:cpu:/a\n4:memory,hugetlb:/pod/x\n0::/pod/x\n");
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        assert_eq!(
            names,
            [
                "/sys/fs/cgroup/memory/pod/x/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control",
                "/sys/fs/cgroup/pod/x/memory.events",
                "/sys/fs/cgroup/memory.events",
            ]
        );
        assert_eq!(kills("low 0\nhigh 0\noom 3\noom_kill 2\n"), 2);
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(kills(""), 0);
    }
}

//! What trainers write, a file for each attempt. A trainer writes to its file by itself, so that it goes on when the server
//! dies; the server keeps the file from growing without end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hone_data::storage::Secret;

/// Largest log; one that has grown larger is cut.
const MAX_BYTES: u64 = 16 << 20;

/// What is kept of each end of a log that is cut: how it began, and what came last.
const KEPT_BYTES: u64 = 4 << 20;

/// The line in place of those that are left out.
const LEFT_OUT: &[u8] = b"(hone: lines are left out here, since the log had grown too large)\n";

/// What a process wrote, without the secrets in it: its last words become part of events and errors.
pub(crate) fn without_secrets(words: String, secrets: &[Secret]) -> String {
    let secrets = secrets.iter().map(Secret::expose).filter(|secret| !secret.is_empty());
    secrets.fold(words, |words, secret| words.replace(secret, "(a secret)"))
}

/// The logs of all attempts.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    folder: PathBuf,
}

impl Logs {
    /// The logs in a data folder.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("logs") }
    }

    /// Where the log of an attempt lies.
    pub(crate) fn path(&self, job_id: &str, attempt: u32) -> PathBuf {
        self.folder.join(format!("{job_id}-{attempt}.log"))
    }

    /// A new log, at a path that [`Self::path`] gave. What is written goes to its end, wherever that is by then.
    pub(crate) fn create(&self, path: &Path) -> io::Result<File> {
        std::fs::create_dir_all(&self.folder)?;
        File::options().create(true).append(true).open(path)
    }

    /// Removes the logs of a job. Those that cannot be removed are tried again at the next start.
    pub(crate) fn remove(&self, job_id: &str) {
        let removed = self.for_each(|id, path| if id == job_id { std::fs::remove_file(path) } else { Ok(()) });
        if let Err(error) = removed {
            tracing::warn!(job_id, %error, "cannot remove the logs of a job");
        }
    }

    /// Ids of the jobs that have logs.
    pub(crate) fn job_ids(&self) -> Vec<String> {
        let mut ids = Vec::new();
        // Without a folder there are none.
        let _ = self.for_each(|id, _| {
            ids.push(id.to_owned());
            Ok(())
        });
        ids.sort();
        ids.dedup();
        ids
    }

    fn for_each(&self, mut act: impl FnMut(&str, &Path) -> io::Result<()>) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
            if let Some((job_id, _attempt)) = name.and_then(|name| name.rsplit_once('-')) {
                act(job_id, &path)?;
            }
        }
        Ok(())
    }
}

/// Cuts lines out of the middle of a log that has grown too large. What is written in this moment may be among them.
pub(crate) fn cut(path: &Path) -> io::Result<()> {
    let mut log = File::options().read(true).append(true).open(path)?;
    let length = log.metadata()?.len();
    if length <= MAX_BYTES {
        return Ok(());
    }
    let mut kept = |start: u64| {
        let mut bytes = Vec::new();
        log.seek(SeekFrom::Start(start))?;
        (&mut log).take(KEPT_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let (begin, end) = (kept(0)?, kept(length - KEPT_BYTES)?);
    // Whole lines, where there are any.
    let begin = &begin[..begin.iter().rposition(|byte| *byte == b'\n').map_or(begin.len(), |last| last + 1)];
    let end = &end[end.iter().position(|byte| *byte == b'\n').map_or(0, |first| first + 1)..];
    log.set_len(begin.len() as u64)?;
    // Where lines were left out before, more are.
    if !begin.ends_with(LEFT_OUT) {
        log.write_all(LEFT_OUT)?;
    }
    log.write_all(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(folder: &Path, job_ids: &[&str]) -> Logs {
        let logs = Logs::new(folder);
        for job_id in job_ids {
            for attempt in [1, 12] {
                logs.create(&logs.path(job_id, attempt)).unwrap();
            }
        }
        logs
    }

    #[test]
    fn logs_of_one_job_go_and_those_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(logs(folder.path(), &[]).job_ids(), [""; 0]);
        logs(folder.path(), &[]).remove("job-a");
        let logs = logs(folder.path(), &["job-a", "job-ab", "job-b"]);
        logs.remove("job-a");
        assert_eq!(logs.job_ids(), ["job-ab", "job-b"]);
        assert!(logs.path("job-ab", 12).exists() && !logs.path("job-a", 12).exists());
    }

    #[test]
    fn a_log_that_has_grown_too_large_keeps_its_two_ends_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let logs = logs(folder.path(), &[]);
        let path = logs.path("job-a", 1);
        let mut log = logs.create(&path).unwrap();
        let line = |number: u64| format!("line {number} {}\n", "x".repeat(1000));
        let mut next = 0;
        for _round in 0..2 {
            while log.metadata().unwrap().len() <= MAX_BYTES {
                log.write_all(line(next).as_bytes()).unwrap();
                next += 1;
            }
            cut(&path).unwrap();
            cut(&path).unwrap();
        }
        log.write_all(b"after\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() as u64 <= 2 * KEPT_BYTES + 100, "{}", text.len());
        assert!(text.starts_with(&line(0)) && text.ends_with(&format!("{}after\n", line(next - 1))));
        assert_eq!(text.matches("(hone: lines are left out here").count(), 1);
        assert!(
            text.lines().all(|line| line.len() > 1000 || line.starts_with("(hone") || line == "after"),
            "whole lines"
        );
    }
}

//! Bearer tokens: a file that holds the SHA-256 of each, looked at again every few seconds.
//!
//! ```text
//! # name   project  role    sha256 of the token                                              limits
//! nightly  search   submit  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 max_jobs=4 max_bytes=64GiB
//! ```
//!
//! Tokens are 256 random bits, so a plain digest tells nothing of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, Limits, Role};
use crate::config::units;

/// What every token begins with, so that one in a log or a repository is recognised.
const PREFIX: &str = "hone_";

/// Longest name of a token or a project.
const MAX_NAME_BYTES: usize = 63;

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{}: cannot read the tokens: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A line is none. The line itself is not shown: it may be a token that was put there by mistake.
    #[error("{} line {line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// The tokens in force.
#[derive(Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    known: RwLock<Arc<Known>>,
}

/// What a file said.
#[derive(Debug, Default)]
struct Known {
    text: String,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    sha256: [u8; 32],
    bearer: Bearer,
}

/// Who came with a token, and word of the moment when that is taken out of the file or changed.
#[derive(Debug, Clone)]
pub(crate) struct Bearer {
    pub(crate) caller: Caller,
    pub(crate) taken_back: CancellationToken,
}

impl Tokens {
    /// Reads the file for the first time.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let known = Known::parse(path, read(path)?)?;
        Ok(Self { path: path.to_path_buf(), known: RwLock::new(Arc::new(known)) })
    }

    /// Whose token this is.
    pub(crate) fn bearer(&self, token: &str) -> Option<Bearer> {
        self.known().bearer(token)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.known().entries.len()
    }

    /// Takes over what the file says now. One that is broken changes nothing.
    pub(crate) fn look_again(&self) -> Result<bool, Error> {
        let text = read(&self.path)?;
        if text == self.known().text {
            return Ok(false);
        }
        let mut known = Known::parse(&self.path, text)?;
        self.known().hand_over(&mut known);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        Ok(true)
    }

    fn known(&self) -> Arc<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Known {
    fn parse(path: &Path, text: String) -> Result<Self, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let wrong = |what| Error::Line { path: path.to_path_buf(), line: index + 1, what };
            let entry = Entry::parse(line).map_err(wrong)?;
            if entries
                .iter()
                .any(|other| other.bearer.caller.name == entry.bearer.caller.name || other.sha256 == entry.sha256)
            {
                return Err(wrong(format!("the name {} or its token came before", entry.bearer.caller.name)));
            }
            entries.push(entry);
        }
        Ok(Self { text, entries })
    }

    /// Looks at every entry, whichever it is, and compares digests in constant time: how long it takes says nothing.
    fn bearer(&self, token: &str) -> Option<Bearer> {
        let sha256 = Sha256::digest(token);
        let mut found = None;
        for entry in &self.entries {
            if bool::from(entry.sha256.ct_eq(&sha256)) {
                found = Some(&entry.bearer);
            }
        }
        found.cloned()
    }

    /// Tokens that stay as they were go on in `next`; the streams of all others end.
    fn hand_over(&self, next: &mut Known) {
        for entry in &self.entries {
            let same = |other: &&mut Entry| other.sha256 == entry.sha256 && other.bearer.caller == entry.bearer.caller;
            match next.entries.iter_mut().find(same) {
                Some(other) => other.bearer.taken_back = entry.bearer.taken_back.clone(),
                None => entry.bearer.taken_back.cancel(),
            }
        }
    }
}

impl Entry {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let (Some(name), Some(project), Some(role), Some(digest)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("a line is: name project role sha256 [limits]; `hone-server token` prints one".into());
        };
        let (name, project) = (plain_name(name)?, plain_name(project)?);
        let mut sha256 = [0; 32];
        hex::decode_to_slice(digest, &mut sha256).map_err(|_| "the SHA-256 must be 64 hexadecimal digits")?;
        let mut limits = Limits::default();
        for word in words {
            limit(&mut limits, word)?;
        }
        let caller = Caller { name, project, role: role.parse()?, limits };
        Ok(Self { sha256, bearer: Bearer { caller, taken_back: CancellationToken::new() } })
    }
}

/// One limit, such as `max_jobs=4`.
fn limit(limits: &mut Limits, word: &str) -> Result<(), String> {
    let (name, value) = word.split_once('=').ok_or("a limit is written as name=value")?;
    let count = || value.parse().map_err(|_| format!("{name} must be a number"));
    match name {
        "max_jobs" => limits.max_jobs = Some(count()?),
        "max_bytes" => limits.max_bytes = Some(units::size(value)?),
        "max_calls" => limits.max_calls = Some(count()?),
        "max_message_bytes" => limits.max_message_bytes = Some(units::size(value)?),
        _ => return Err("the limits are max_jobs, max_bytes, max_calls and max_message_bytes".into()),
    }
    Ok(())
}

/// A name that can be in a log line or a metric as it is.
pub fn plain_name(name: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    let is_plain = !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(plain);
    let what = || format!("a name has 1 to {MAX_NAME_BYTES} lower-case letters, digits, '-', '_' and '.'");
    is_plain.then(|| name.to_string()).ok_or_else(what)
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })
}

/// A fresh token, and the line of the file that lets its bearer in.
pub fn fresh(name: &str, project: &str, role: Role) -> (String, String) {
    let token = format!("{PREFIX}{}", hone_job::id::fresh_secret());
    let line = format!("{name} {project} {role} {}", hex::encode(Sha256::digest(&token)));
    (token, line)
}

#[cfg(test)]
mod tests;

//! Who calls: a name, a project, a role and limits, as the gate of the API found them out. What a caller may see is
//! decided here.

use std::fmt;
use std::str::FromStr;

/// The project of everything where there are no tokens.
pub(crate) const DEFAULT_PROJECT: &str = "default";

/// What a caller may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// Look, watch, preview and download.
    Read,
    /// Upload, create jobs, steer them, delete.
    Submit,
    /// All of that in every project.
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::Read, Self::Submit, Self::Admin];

    fn word(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Submit => "submit",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|role| role.word() == word);
        known.ok_or_else(|| format!("{word:?} is no role; give read, submit or admin"))
    }
}

/// What the project of a token may hold, and what the token may do at once; absent means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    /// Jobs of the project that have not ended.
    pub(crate) max_jobs: Option<u32>,
    /// Bytes of all uploads of the project.
    pub(crate) max_bytes: Option<u64>,
    /// Calls of the token that are open at once.
    pub(crate) max_calls: Option<u32>,
    /// Bytes of one message that is sent with the token.
    pub(crate) max_message_bytes: Option<u64>,
}

/// Somebody who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Name of the token.
    pub(crate) name: String,
    /// The project that what he creates belongs to.
    pub(crate) project: String,
    /// What he may do.
    pub(crate) role: Role,
    /// How much of it.
    pub(crate) limits: Limits,
}

impl Caller {
    /// Whoever reaches a server that asks for no token.
    pub(crate) fn anybody() -> Self {
        let (name, project) = ("anybody".into(), DEFAULT_PROJECT.into());
        Self { name, project, role: Role::Admin, limits: Limits::default() }
    }

    /// Whether things of a project exist for him.
    pub(crate) fn sees(&self, project: &str) -> bool {
        self.role == Role::Admin || self.project == project
    }

    /// The one project that lists show him; all when there is none.
    pub(crate) fn only_project(&self) -> Option<String> {
        (self.role != Role::Admin).then(|| self.project.clone())
    }
}

//! Names of things: a short prefix that tells the kind, then 128 random bits, so that nobody guesses another's id.

use uuid::Uuid;

/// What an id names; the prefix makes a wrong id obvious in a log or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A job: `job-…`.
    Job,
    /// An uploaded dataset: `ds-…`.
    Dataset,
    /// An uploaded base model: `model-…`.
    Model,
}

impl Kind {
    /// The prefix of ids of this kind, without the dash.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Job => "job",
            Kind::Dataset => "ds",
            Kind::Model => "model",
        }
    }

    /// A fresh id, unguessable (a version 4 UUID in hexadecimal after the prefix).
    pub fn fresh(self) -> String {
        format!("{}-{}", self.prefix(), Uuid::new_v4().simple())
    }

    /// Whether `id` has the exact shape of an id of this kind. Ids become folder names, so nothing else is let through.
    pub fn matches(self, id: &str) -> bool {
        id.strip_prefix(self.prefix())
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    }
}

/// A fresh secret for one attempt: 256 random bits in hexadecimal.
pub fn fresh_secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_the_exact_shape_match() {
        let id = Kind::Job.fresh();
        assert!(Kind::Job.matches(&id));
        assert!(!Kind::Dataset.matches(&id));
        for bad in ["job-", "job-../../etc", "job-0123", &id[..id.len() - 1], &id.to_uppercase()] {
            assert!(!Kind::Job.matches(bad), "{bad}");
        }
    }
}

//! What is wrong with a request, field by field.

use serde::{Deserialize, Serialize};

use super::limits;

/// One field that is wrong, as a path in the request, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Path of the field in the request message, such as `spec.sft.data.max_length`.
    pub field: String,
    /// What is wrong with it and what is allowed.
    pub description: String,
}

impl Violation {
    /// A violation of `field`. A description that quotes something long is cut.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        const LONGEST: usize = 300;
        let mut description = description.into();
        if description.len() > LONGEST {
            description.truncate(description.floor_char_boundary(LONGEST));
            description.push('…');
        }
        Self { field: field.into(), description }
    }
}

/// Collects violations under a path.
pub(super) struct Check<'a> {
    pub(super) path: &'a str,
    pub(super) found: Vec<Violation>,
}

impl Check<'_> {
    pub(super) fn that(&mut self, ok: bool, field: &str, allowed: impl Into<String>) {
        if !ok && self.found.len() < limits::MAX_VIOLATIONS {
            let field = if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) };
            self.found.push(Violation::new(field, allowed));
        }
    }

    pub(super) fn within(&mut self, value: f64, range: std::ops::RangeInclusive<f64>, field: &str) {
        let ok = range.contains(&value);
        self.that(ok, field, format!("is {value}; must be from {} to {}", range.start(), range.end()));
    }

    /// Rows that have to be given.
    pub(super) fn sources(&mut self, rows: &[String], field: &str) {
        self.that(!rows.is_empty(), field, "is required: at least one dataset id, file:// or s3:// URI");
        let most = limits::MAX_SOURCES;
        self.that(rows.len() <= most, field, format!("has {} sources; at most {most}", rows.len()));
        self.that(rows.iter().all(|source| !source.is_empty()), field, "has an empty entry");
    }

    pub(super) fn template(&mut self, template: Option<&String>) {
        let size = template.map_or(0, String::len);
        self.that(size <= limits::MAX_TEMPLATE_BYTES, "data.chat_template", "must be at most 256 KiB");
    }
}

//! Which URIs a job may read: prefixes in, yes or no out.
//!
//! Addresses are compared after they were parsed, so `..` and its escaped forms are resolved, and a prefix ends at a `/`.
//! For local files the real path counts as well: a link does not lead out of a prefix.

use std::path::{Path, PathBuf};

use url::Url;

/// The prefixes under which everything may be read.
#[derive(Debug, Clone)]
pub struct Access {
    prefixes: Vec<Prefix>,
}

#[derive(Debug, Clone)]
enum Prefix {
    /// Every URI of a scheme.
    Scheme(String),
    /// A folder of a store, its URI without the slash at the end, and its real path when it is local.
    Folder { uri: String, local: Option<PathBuf> },
}

impl Access {
    /// What lies in the root or under one of the prefixes.
    pub fn new(root: &str, prefixes: &[String]) -> Result<Self, String> {
        let prefixes = std::iter::once(root).chain(prefixes.iter().map(String::as_str)).map(Prefix::parse);
        Ok(Self { prefixes: prefixes.collect::<Result<_, _>>()? })
    }

    /// Whether this URI may be read.
    pub fn allows(&self, uri: &str) -> bool {
        let Ok(url) = Url::parse(uri) else { return false };
        self.prefixes.iter().any(|prefix| prefix.covers(&url))
    }

    /// The prefixes, for messages; the first is the storage root.
    pub fn describe(&self) -> String {
        let names = self.prefixes.iter().map(|prefix| match prefix {
            Prefix::Scheme(scheme) => format!("{scheme}://"),
            Prefix::Folder { uri, .. } => uri.clone(),
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

impl Prefix {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(scheme) = text.strip_suffix("://").or(text.strip_suffix(":///")) {
            return match scheme {
                "file" | "s3" => Ok(Prefix::Scheme(scheme.to_string())),
                other => Err(format!("{other}:// is not supported; give a file:// or s3:// prefix")),
            };
        }
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "file" | "s3") => {
                let local = url.to_file_path().ok().map(|path| real(&path));
                Ok(Prefix::Folder { uri: url.as_str().trim_end_matches('/').to_string(), local })
            }
            _ => Err(format!("{text:?} is no file:// or s3:// prefix")),
        }
    }

    fn covers(&self, url: &Url) -> bool {
        match self {
            Prefix::Scheme(scheme) => url.scheme() == scheme,
            Prefix::Folder { uri, local } => {
                let rest = url.as_str().strip_prefix(uri.as_str());
                let inside = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                let really_inside = match (local, url.to_file_path()) {
                    (Some(folder), Ok(path)) => real(&path).starts_with(folder),
                    (local, _) => local.is_none(),
                };
                inside && really_inside
            }
        }
    }
}

/// The path behind links: of as much of it as exists.
pub(crate) fn real(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match (existing.canonicalize(), existing.parent(), existing.file_name()) {
            (Ok(found), _, _) => return missing.iter().rev().fold(found, |path, name| path.join(name)),
            (Err(_), Some(parent), Some(name)) => {
                missing.push(name);
                existing = parent;
            }
            _ => return path.to_path_buf(),
        }
    }
}

/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 100_000;

/// The links below a folder of this machine, each with the URI of what it leads to. Nothing is followed here: who reads the
/// folder follows them, so that each must lead to what may be read itself.
pub(crate) fn links_below(folder: &Path) -> std::io::Result<Vec<(PathBuf, String)>> {
    let mut links = Vec::new();
    let mut num_entries = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            num_entries += 1;
            if num_entries > MAX_ENTRIES {
                return Err(std::io::Error::other(format!("it has more than {MAX_ENTRIES} entries")));
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_symlink() {
                let target = Url::from_file_path(real(&entry.path())).map(String::from).unwrap_or_default();
                links.push((entry.path(), target));
            }
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_slash_and_dots_do_not_leave_it() {
        let access = Access::new("file:///data/storage", &["s3://bucket/rows/".into()]).unwrap();
        let check = |uri: &str, expected: bool| assert_eq!(access.allows(uri), expected, "{uri}");
        check("file:///data/storage/jobs/x", true);
        check("s3://bucket/rows", true);
        check("s3://bucket/rows/a.jsonl", true);
        check("s3://bucket/rowsmore", false);
        check("s3://bucket/rows/../secret", false);
        check("s3://bucket/rows/%2e%2e/secret", false);
        check("file:///data/storage/../../etc/passwd", false);
        check("file:///etc/passwd", false);
        check("s3://buck", false);
        check("rows.jsonl", false);
        check("https://bucket/rows", false);
    }

    #[test]
    fn a_link_does_not_lead_out_of_a_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let uri = |path: PathBuf| Url::from_file_path(path).unwrap().to_string();
        let access = Access::new("s3://root", &[uri(inside.clone())]).unwrap();
        assert!(access.allows(&uri(inside.join("rows.jsonl"))));
        assert!(!access.allows(&uri(inside.join("link/secret"))));
    }

    #[test]
    fn prefixes_of_other_stores_are_refused() {
        for bad in ["/data", "https://x", "gs://b", "https://", ""] {
            assert!(Access::new("s3://root", &[bad.into()]).is_err(), "{bad:?}");
        }
    }
}

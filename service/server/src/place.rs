//! How a URI lies to the storage root, where everything belongs to somebody.
//!
//! URIs are compared as the stores that open them read them: decoded, and local ones by the path behind links, so that no
//! other spelling leads around an owner.

use object_store::path::Path as ObjectPath;
use url::Url;

use crate::access::real;

/// How a URI lies to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Elsewhere.
    Outside,
    /// It is the root, or a folder that the root is in.
    Around,
    /// Below the root, by these names.
    Inside(Vec<String>),
}

/// The storage root: its scheme and the names that lead to it.
#[derive(Debug, Clone)]
pub(crate) struct Root(Vec<String>);

impl Root {
    /// The root with this URI, which a storage opened before.
    pub(crate) fn new(uri: &str) -> Self {
        Self(names(uri).unwrap_or_default())
    }

    /// How a URI lies to it. One that no store can open lies nowhere.
    pub(crate) fn place(&self, uri: &str) -> Place {
        let Some(names) = names(uri) else { return Place::Outside };
        match names.strip_prefix(self.0.as_slice()) {
            Some([]) => Place::Around,
            Some(below) => Place::Inside(below.to_vec()),
            None if self.0.starts_with(&names) => Place::Around,
            None => Place::Outside,
        }
    }
}

fn names(uri: &str) -> Option<Vec<String>> {
    let url = Url::parse(uri).ok()?;
    let (store, path) = match url.scheme() {
        "file" => (None, ObjectPath::from_absolute_path(real(&url.to_file_path().ok()?)).ok()?),
        "s3" => (url.host_str(), ObjectPath::from_url_path(url.path()).ok()?),
        _ => return None,
    };
    let start = [url.scheme()].into_iter().chain(store).map(str::to_string);
    Some(start.chain(path.parts().map(|part| part.as_ref().to_string())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(names: &[&str]) -> Place {
        Place::Inside(names.iter().map(|name| name.to_string()).collect())
    }

    #[test]
    fn every_spelling_of_a_place_in_a_bucket_is_the_same_place() {
        let root = Root::new("s3://bucket/hone");
        for uri in ["s3://bucket/hone/jobs/a", "s3://bucket/hone/jobs/a/", "s3://bucket/x/../h%6Fne/jobs/%61"] {
            assert_eq!(root.place(uri), inside(&["jobs", "a"]), "{uri}");
        }
        for uri in ["s3://bucket", "s3://bucket/", "s3://bucket/hone", "s3://bucket/hone/"] {
            assert_eq!(root.place(uri), Place::Around, "{uri}");
        }
        for uri in
            ["s3://bucket/honey", "s3://other/hone/jobs/a", "file:///bucket/hone/jobs/a", "s3://bucket//hone", "x"]
        {
            assert_eq!(root.place(uri), Place::Outside, "{uri}");
        }
    }

    #[test]
    fn a_link_into_the_root_is_in_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        std::fs::create_dir_all(storage.join("jobs/a")).unwrap();
        std::os::unix::fs::symlink(&storage, folder.path().join("link")).unwrap();
        let uri = |path: &str| Url::from_file_path(folder.path().join(path)).unwrap().to_string();
        let root = Root::new(&uri("storage"));
        for path in ["storage/jobs/a", "link/jobs/a", "storage/./jobs/../jobs/a"] {
            assert_eq!(root.place(&uri(path)), inside(&["jobs", "a"]), "{path}");
        }
        assert_eq!(root.place(&uri("")), Place::Around);
        assert_eq!(root.place("file:///"), Place::Around);
        assert_eq!(root.place(&uri("other")), Place::Outside);
    }
}

//! What a job reads: ids of uploads and URIs in; checked before the job exists, made into URIs for its trainer.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use hone_data::storage::Location;
use hone_job::id::Kind;
use hone_job::spec::limits::MAX_SOURCES;
use hone_job::spec::{JobSpec, Violation};
use tonic::Code;

use super::status::Problem;
use crate::access::{Access, links_below};
use crate::caller::Caller;
use crate::layout::Layout;
use crate::place::{Place, Root};
use crate::store::{Error, Store};
use crate::uploads::visible_upload;

/// Knows what there is and what may be read.
#[derive(Clone)]
pub(super) struct Inputs {
    store: Arc<dyn Store>,
    layout: Layout,
    access: Access,
    root: Root,
}

impl Inputs {
    pub(super) fn new(store: Arc<dyn Store>, layout: Layout, access: Access) -> Self {
        let root = Root::new(layout.root_uri());
        Self { store, layout, access, root }
    }

    /// Checks all that a spec names and returns the ids of the uploads among it. What is wrong is added to `violations`;
    /// `prefix` is what the paths of the task's fields begin with in the request. When nothing is wrong but ids that
    /// nobody knows, the answer has the code `unknown`.
    pub(super) async fn check(
        &self,
        caller: &Caller,
        spec: &JobSpec,
        model_field: &str,
        prefix: &str,
        violations: Vec<Violation>,
        unknown: Code,
    ) -> Result<Vec<String>, Problem> {
        let mut names = vec![(model_field.to_string(), Kind::Model, &spec.base_model)];
        for (list, sources) in spec.task.rows() {
            let field = |index| format!("{prefix}{list}[{index}]");
            // More than are allowed are a violation of their own; they are not looked up.
            let sources = sources.iter().take(MAX_SOURCES).enumerate();
            names.extend(sources.map(|(index, name)| (field(index), Kind::Dataset, name)));
        }
        let mut found = Found { uploads: Vec::new(), violations, num_unknown: 0, buckets: HashSet::new() };
        for (field, kind, name) in names.into_iter().filter(|(_, _, name)| !name.is_empty()) {
            self.look_at(caller, &field, kind, name, &mut found).await?;
        }
        for (field, uri) in spec.task.checkpoints() {
            self.check_uri(caller, &format!("{prefix}{field}"), uri, &mut found).await?;
        }
        match found.violations.len() {
            0 => Ok(found.uploads),
            count if count == found.num_unknown => Err(Problem::invalid(found.violations).with_code(unknown)),
            _ => Err(Problem::invalid(found.violations)),
        }
    }

    async fn look_at(
        &self,
        caller: &Caller,
        field: &str,
        kind: Kind,
        name: &str,
        found: &mut Found,
    ) -> Result<(), Problem> {
        if !kind.matches(name) {
            return self.check_uri(caller, field, name, found).await;
        }
        match visible_upload(&*self.store, name, caller).await {
            Ok(upload) => found.uploads.push(upload.id),
            Err(error @ Error::NotFound { .. }) => {
                found.num_unknown += 1;
                found.wrong(field, error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn check_uri(&self, caller: &Caller, field: &str, uri: &str, found: &mut Found) -> Result<(), Problem> {
        let allowed = || format!("what may be read begins with one of: {}", self.access.describe());
        if !uri.contains("://") {
            found.wrong(field, format!("{uri:?} is neither an id nor a file:// or s3:// URI"));
        } else if let Some(error) = self.unusable(uri, found) {
            found.wrong(field, error);
        } else if !self.access.allows(uri) {
            found.wrong(field, format!("{uri} may not be read by this server; {}", allowed()));
        } else if !self.owns(caller, uri).await? {
            found.wrong(field, format!("{uri} is no job, dataset or model of project {}", caller.project));
        } else if let Some(link) = self.link_astray(caller, uri).await? {
            found.wrong(field, format!("{link}; a link must lead to what may be read itself"));
        }
        Ok(())
    }

    /// What is wrong with the links below a folder of this machine.
    async fn link_astray(&self, caller: &Caller, uri: &str) -> Result<Option<String>, Problem> {
        let everything = caller.only_project().is_none() && self.access.allows("file:///");
        let folder = self.layout.open_uri(uri)?.local_path().filter(|path| path.is_dir()).map(Path::to_path_buf);
        let Some(folder) = folder.filter(|_| !everything) else { return Ok(None) };
        let looked = tokio::task::spawn_blocking(move || links_below(&folder)).await;
        let links = match looked.map_err(|error| Problem::internal(error.to_string()))? {
            Ok(links) => links,
            Err(error) => return Ok(Some(format!("{uri} cannot be looked through: {error}"))),
        };
        for (link, target) in links {
            if !self.access.allows(&target) || !self.owns(caller, &target).await? {
                return Ok(Some(format!("{} leads out of what may be read", link.display())));
            }
        }
        Ok(None)
    }

    /// Whether a place may be read as far as its owner goes. Below the storage root everything has one; elsewhere it is
    /// the prefixes that count.
    async fn owns(&self, caller: &Caller, uri: &str) -> Result<bool, Problem> {
        if caller.only_project().is_none() {
            return Ok(true);
        }
        let names = match self.root.place(uri) {
            Place::Outside => return Ok(true),
            Place::Around => return Ok(false),
            Place::Inside(names) => names,
        };
        let owner = match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["jobs", id, ..] => self.store.job(id).await.map(|job| job.project),
            ["datasets" | "models", id, ..] => self.store.upload(id).await.map(|upload| upload.project),
            _ => return Ok(false),
        };
        match owner {
            Ok(project) => Ok(caller.sees(&project)),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Why a URI names no place. A store is opened once, however many objects of it a spec names: each opening makes a
    /// client.
    fn unusable(&self, uri: &str, found: &mut Found) -> Option<String> {
        let bucket = uri.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).map(|(bucket, _)| bucket);
        if bucket.is_some_and(|bucket| found.buckets.contains(bucket)) {
            return None;
        }
        match self.layout.open_uri(uri) {
            Ok(_) => {
                found.buckets.extend(bucket.map(str::to_string));
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// The spec with URIs in place of ids.
    pub(super) async fn resolve(&self, spec: &JobSpec) -> Result<JobSpec, Problem> {
        let mut spec = spec.clone();
        spec.base_model = self.uri(Kind::Model, &spec.base_model).await?;
        for name in spec.task.rows_mut().into_iter().flatten() {
            *name = self.uri(Kind::Dataset, name).await?;
        }
        Ok(spec)
    }

    async fn uri(&self, kind: Kind, name: &str) -> Result<String, Problem> {
        if kind.matches(name) { Ok(self.store.upload(name).await?.uri) } else { Ok(name.to_string()) }
    }

    /// The place of a resolved URI.
    pub(super) fn open(&self, uri: &str) -> Result<Location, Problem> {
        Ok(self.layout.open_uri(uri)?)
    }
}

/// What a check has found so far.
struct Found {
    uploads: Vec<String>,
    violations: Vec<Violation>,
    num_unknown: usize,
    buckets: HashSet<String>,
}

impl Found {
    fn wrong(&mut self, field: &str, what: impl Into<String>) {
        self.violations.push(Violation::new(field, what));
    }
}

//! What a job reads: ids of uploads and URIs in; checked before the job exists, made into URIs for its trainer.

use std::sync::Arc;

use hone_data::storage::Location;
use hone_job::id::Kind;
use hone_job::spec::{JobSpec, Task, Violation};

use super::status::Problem;
use crate::access::Access;
use crate::layout::Layout;
use crate::store::{Error, Store};

/// Knows what there is and what may be read.
#[derive(Clone)]
pub(super) struct Inputs {
    store: Arc<dyn Store>,
    layout: Layout,
    access: Access,
}

impl Inputs {
    pub(super) fn new(store: Arc<dyn Store>, layout: Layout, access: Access) -> Self {
        Self { store, layout, access }
    }

    /// Checks all that a spec names and returns the ids of the uploads among it. `prefix` is what the paths of its task's
    /// fields begin with in the request.
    pub(super) async fn check(&self, spec: &JobSpec, model_field: &str, prefix: &str) -> Result<Vec<String>, Problem> {
        let training = spec.task.training();
        let mut names = vec![(model_field.to_string(), Kind::Model, &spec.base_model)];
        for (list, sources) in [("train", &training.data.train), ("eval", &training.data.eval)] {
            let field = |index| format!("{prefix}data.{list}[{index}]");
            names.extend(sources.iter().enumerate().map(|(index, name)| (field(index), Kind::Dataset, name)));
        }
        let mut found = Found::default();
        for (field, kind, name) in names {
            self.look_at(&field, kind, name, &mut found).await?;
        }
        if let Some(uri) = &training.init_from {
            self.check_uri(&format!("{prefix}init_from"), uri, &mut found);
        }
        if found.violations.is_empty() { Ok(found.uploads) } else { Err(Problem::invalid(found.violations)) }
    }

    async fn look_at(&self, field: &str, kind: Kind, name: &str, found: &mut Found) -> Result<(), Problem> {
        if !kind.matches(name) {
            self.check_uri(field, name, found);
            return Ok(());
        }
        match self.store.upload(name).await {
            Ok(upload) => found.uploads.push(upload.id),
            Err(error @ Error::NotFound { .. }) => found.wrong(field, error.to_string()),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn check_uri(&self, field: &str, uri: &str, found: &mut Found) {
        if !uri.contains("://") {
            found.wrong(field, format!("{uri:?} is neither an id nor a file:// or s3:// URI"));
        } else if let Err(error) = self.layout.open_uri(uri) {
            found.wrong(field, error.to_string());
        } else if !self.access.allows(uri) {
            let allowed = self.access.describe();
            found.wrong(field, format!("{uri} may not be read by this server; what may begins with one of: {allowed}"));
        }
    }

    /// The spec with URIs in place of ids.
    pub(super) async fn resolve(&self, spec: &JobSpec) -> Result<JobSpec, Problem> {
        let mut spec = spec.clone();
        spec.base_model = self.uri(Kind::Model, &spec.base_model).await?;
        let Task::Sft(task) = &mut spec.task;
        let data = &mut task.training.data;
        for name in data.train.iter_mut().chain(&mut data.eval) {
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

#[derive(Default)]
struct Found {
    uploads: Vec<String>,
    violations: Vec<Violation>,
}

impl Found {
    fn wrong(&mut self, field: &str, what: impl Into<String>) {
        self.violations.push(Violation::new(field, what));
    }
}

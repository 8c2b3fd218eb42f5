//! Where models, rows and checkpoints are: ids and URIs pass through, local files are uploaded first, once. Gives ids and URIs.

use std::path::Path;

use hone_client::{Client, v1};
use serde_json::json;
use v1::benchmark_task::Training;
use v1::job_spec::Task;
use v1::reference_policy::Policy;

use crate::failure::Failure;
use crate::human::bytes;
use crate::output::Output;
use crate::transfers::TransferBar;

/// The text of a local file.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, error))
}

/// A spec with ids and URIs in the place of what it names in other ways. What it leaves out stays out.
pub(crate) async fn spec(mut spec: v1::JobSpec, client: &Client, out: &Output) -> Result<v1::JobSpec, Failure> {
    if let Some(base) = spec.base_model.as_mut().filter(|base| !base.uri.is_empty()) {
        base.uri = model(&base.uri, client, out).await?;
    }
    let (lists, checkpoints) = spec.task.as_mut().map(named).unwrap_or_default();
    for list in lists {
        *list = rows(list, client, out).await?;
    }
    for name in checkpoints {
        *name = checkpoint(name, client).await?;
    }
    Ok(spec)
}

/// The rows and the checkpoints that a task names.
fn named(task: &mut Task) -> (Vec<&mut Vec<String>>, Vec<&mut String>) {
    match task {
        Task::Sft(task) => named_in_sft(task),
        Task::Dpo(task) => named_in_dpo(task),
        Task::Benchmark(task) => match &mut task.training {
            Some(Training::Sft(task)) => named_in_sft(task),
            Some(Training::Dpo(task)) => named_in_dpo(task),
            None => (Vec::new(), Vec::new()),
        },
        Task::Evaluate(task) => (scored(&mut task.data), task.checkpoint.iter_mut().collect()),
        Task::Compare(task) => {
            let checkpoints = task.candidates.iter_mut().filter_map(|candidate| candidate.checkpoint.as_mut());
            (scored(&mut task.data), checkpoints.collect())
        }
        Task::Generate(task) => {
            let rows = task.data.as_mut().map(|data| &mut data.rows);
            (rows.into_iter().collect(), task.checkpoint.iter_mut().collect())
        }
        Task::Export(task) => (Vec::new(), task.checkpoint.iter_mut().collect()),
    }
}

fn named_in_sft(task: &mut v1::SftTask) -> (Vec<&mut Vec<String>>, Vec<&mut String>) {
    (trained(&mut task.data), task.init_from.iter_mut().collect())
}

fn named_in_dpo(task: &mut v1::DpoTask) -> (Vec<&mut Vec<String>>, Vec<&mut String>) {
    let policy = task.reference.as_mut().and_then(|reference| reference.policy.as_mut());
    let reference = match policy {
        Some(Policy::Checkpoint(name)) => Some(name),
        Some(Policy::Initial(_) | Policy::Base(_)) | None => None,
    };
    (trained(&mut task.data), task.init_from.iter_mut().chain(reference).collect())
}

fn trained(data: &mut Option<v1::DataSpec>) -> Vec<&mut Vec<String>> {
    data.as_mut().map(|data| vec![&mut data.train, &mut data.eval]).unwrap_or_default()
}

fn scored(data: &mut Option<v1::ScoredRows>) -> Vec<&mut Vec<String>> {
    data.as_mut().map(|data| vec![&mut data.rows]).unwrap_or_default()
}

/// The model that `given` names.
pub(crate) async fn model(given: &str, client: &Client, out: &Output) -> Result<String, Failure> {
    match local(given, "model-")? {
        None => Ok(given.to_owned()),
        Some(path) => Ok(model_at(path, None, true, client, out).await?.model_id),
    }
}

/// The rows that each of `given` names.
pub(crate) async fn rows(given: &[String], client: &Client, out: &Output) -> Result<Vec<String>, Failure> {
    let mut located = Vec::with_capacity(given.len());
    for given in given {
        located.push(match local(given, "ds-")? {
            None => given.clone(),
            Some(path) => dataset_at(path, true, client, out).await?.dataset_id,
        });
    }
    Ok(located)
}

/// The checkpoint that `given` names: JOB/CHECKPOINT, or JOB for its last checkpoint, as a URI; a URI passes through.
pub(crate) async fn checkpoint(given: &str, client: &Client) -> Result<String, Failure> {
    if given.contains("://") || !given.starts_with("job-") {
        return Ok(given.to_owned());
    }
    let checkpoint = match given.split_once('/') {
        Some((job_id, checkpoint_id)) => client.get_checkpoint(job_id, checkpoint_id).await?,
        None => client.job(given).last_checkpoint().await?,
    };
    Ok(checkpoint.uri)
}

/// A base model and what was trained on it, of which one is given at least; the base model is by default that of the job that
/// the checkpoint is named by.
pub(crate) async fn model_and_checkpoint(
    given_model: Option<&str>,
    given_checkpoint: Option<&str>,
    client: &Client,
    out: &Output,
) -> Result<(String, Option<String>), Failure> {
    let model = match given_model {
        Some(given) => model(given, client, out).await?,
        None => model_of_job(given_checkpoint.unwrap_or_default(), client).await?,
    };
    let checkpoint = match given_checkpoint {
        Some(given) => Some(checkpoint(given, client).await?),
        None => None,
    };
    Ok((model, checkpoint))
}

/// The base model of the job that a checkpoint is named by.
pub(crate) async fn model_of_job(checkpoint: &str, client: &Client) -> Result<String, Failure> {
    let job_id = checkpoint.split('/').next().unwrap_or_default();
    if !job_id.starts_with("job-") {
        let hint = "name the base model with --model".to_owned();
        return Err(Failure::input_with_hint(
            format!("{checkpoint} does not say which base model it belongs to"),
            hint,
        ));
    }
    let spec = client.job(job_id).get().await?.spec.unwrap_or_default();
    Ok(spec.base_model.unwrap_or_default().uri)
}

/// The model of a local folder or file: uploaded, or found on the server when `reuse` allows it.
pub(crate) async fn model_at(
    path: &Path,
    name: Option<String>,
    reuse: bool,
    client: &Client,
    out: &Output,
) -> Result<v1::Model, Failure> {
    let found = if reuse { client.find_model(path).await? } else { None };
    if let Some(model) = found {
        held(path, &model.model_id, out);
        return Ok(model);
    }
    let name = name.unwrap_or_else(|| file_name(path));
    let bar = TransferBar::new("uploading", out);
    let model = client.upload_model_with(path, &name, &mut |progress| bar.update(progress)).await?;
    drop(bar);
    uploaded(path, &model.model_id, model.size_bytes, out);
    Ok(model)
}

/// The dataset of a local file: uploaded, or found on the server when `reuse` allows it.
pub(crate) async fn dataset_at(
    path: &Path,
    reuse: bool,
    client: &Client,
    out: &Output,
) -> Result<v1::Dataset, Failure> {
    let found = if reuse { client.find_dataset(path).await? } else { None };
    if let Some(dataset) = found {
        held(path, &dataset.dataset_id, out);
        return Ok(dataset);
    }
    let bar = TransferBar::new("uploading", out);
    let dataset = client.upload_dataset_with(path, &mut |progress| bar.update(progress)).await?;
    drop(bar);
    uploaded(path, &dataset.dataset_id, dataset.size_bytes, out);
    Ok(dataset)
}

/// The local path that `given` is, or nothing when it is an id or a URI.
fn local<'a>(given: &'a str, id_prefix: &str) -> Result<Option<&'a Path>, Failure> {
    let path = Path::new(given);
    if given.contains("://") || (given.starts_with(id_prefix) && !path.exists()) {
        return Ok(None);
    }
    if !path.exists() {
        let hint =
            format!("give a local path, an id ({id_prefix}…), or a file:// or s3:// URI that the server may read");
        return Err(Failure::input_with_hint(format!("there is no file {given}"), hint));
    }
    Ok(Some(path))
}

fn file_name(path: &Path) -> String {
    // `.` and `..` have a name only once they are resolved.
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolved.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn uploaded(path: &Path, id: &str, size_bytes: u64, out: &Output) {
    let text = format!("uploaded {} as {id} ({})", path.display(), bytes(size_bytes));
    out.note_with(&text, json!({ "path": path.to_string_lossy(), "id": id }));
}

fn held(path: &Path, id: &str, out: &Output) {
    let text = format!("the server holds {} already, as {id}", path.display());
    out.note_with(&text, json!({ "path": path.to_string_lossy(), "id": id }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_uris_pass_and_paths_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("rows.jsonl");
        std::fs::write(&file, "{}").expect("a file");
        let file = file.to_str().expect("a path");
        for given in ["ds-0123456789abcdef0123456789abcdef", "s3://bucket/rows.jsonl", "file:///rows.jsonl"] {
            assert_eq!(local(given, "ds-").expect(given), None);
        }
        assert_eq!(local(file, "ds-").expect("a path"), Some(Path::new(file)));
    }

    #[test]
    fn a_path_that_is_not_there_is_told_with_what_else_may_be_given() {
        let failure = local("rows.jsnol", "ds-").expect_err("no such file");
        assert_eq!(failure.json()["error"]["message"], "there is no file rows.jsnol");
        assert!(failure.json()["error"]["hint"].as_str().is_some_and(|hint| hint.contains("ds-…")));
    }
}

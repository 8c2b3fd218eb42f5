//! What belongs to another project does not exist.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use hone_proto::v1 as pb;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{assert_refused, told};
use crate::access::Access;
use crate::caller::Role;
use crate::executor::Status as End;
use crate::testing::{Harness, bearing, request_spec, soon};

/// Two projects and an admin of a third, on a server whose prefixes allow every URI.
async fn projects() -> (Harness, [String; 3]) {
    let lines = [("r", "red", Role::Submit, ""), ("b", "blue", Role::Submit, ""), ("a", "ops", Role::Admin, "")];
    Harness::with_tokens(lines, |_| {}).await
}

fn create(request_id: &str, spec: pb::JobSpec) -> pb::CreateJobRequest {
    pb::CreateJobRequest { spec: Some(spec), request_id: request_id.into(), ..Default::default() }
}

fn trained_on(uri: &str) -> pb::JobSpec {
    let mut spec = request_spec();
    let Some(pb::job_spec::Task::Sft(sft)) = &mut spec.task else { unreachable!() };
    sft.data.get_or_insert_default().train = vec![uri.into()];
    spec
}

async fn job_of(server: &Harness, token: &str) -> String {
    let created = soon(server.jobs().create_job(bearing(token, create("", request_spec())))).await.unwrap();
    created.into_inner().job.unwrap().job_id
}

async fn dataset_of(server: &Harness, token: &str) -> pb::Dataset {
    use pb::upload_dataset_request::Part;
    let header = pb::UploadDatasetHeader { file_name: "rows.jsonl".into(), ..Default::default() };
    let parts = [Part::Header(header), Part::Chunk(b"{\"text\": \"a\"}".to_vec().into())];
    let parts = tokio_stream::iter(parts.map(|part| pb::UploadDatasetRequest { part: Some(part) }));
    soon(server.datasets().upload_dataset(bearing(token, parts))).await.unwrap().into_inner().dataset.unwrap()
}

async fn model_of(server: &Harness, token: &str) -> pb::Model {
    use pb::upload_model_request::Part;
    let file = pb::ModelFile { name: "tiny.gguf".into(), ..Default::default() };
    let parts = [Part::Header(Default::default()), Part::File(file), Part::Chunk(b"GGUF".to_vec().into())];
    let parts = tokio_stream::iter(parts.map(|part| pb::UploadModelRequest { part: Some(part) }));
    soon(server.models().upload_model(bearing(token, parts))).await.unwrap().into_inner().model.unwrap()
}

type Attempt<'a> = (&'static str, BoxFuture<'a, Result<(), Status>>);

/// Every call that takes an id, with these ids.
#[allow(clippy::needless_update, reason = "some of the requests have further fields")]
fn every_call<'a>(server: &'a Harness, token: &'a str, job: &str, dataset: &str, model: &str) -> Vec<Attempt<'a>> {
    let (job_id, dataset_id, model_id) = (job.to_string(), dataset.to_string(), model.to_string());
    let checkpoint_id = "step-000001".to_string();
    macro_rules! call {
        ($name:literal, $stub:ident, $method:ident, $request:ident { $($field:ident: $value:expr),* }) => {{
            let request = pb::$request { $($field: $value,)* ..Default::default() };
            let call = async move { server.$stub().$method(bearing(token, request)).await.map(drop) };
            ($name, Box::pin(call) as BoxFuture<'a, _>)
        }};
    }
    let named = pb::JobSpec { base_model: Some(pb::BaseModel { uri: model_id.clone() }), ..trained_on(dataset) };
    let data = pb::DataSpec { train: vec![dataset_id.clone()], ..Default::default() };
    let base_model = || Some(pb::BaseModel { uri: model_id.clone() });
    let id = || job_id.clone();
    vec![
        call!("CreateJob", jobs, create_job, CreateJobRequest { spec: Some(named) }),
        call!("GetJob", jobs, get_job, GetJobRequest { job_id: id() }),
        call!("WatchJob", jobs, watch_job, WatchJobRequest { job_id: id() }),
        call!("CancelJob", jobs, cancel_job, CancelJobRequest { job_id: id() }),
        call!("PauseJob", jobs, pause_job, PauseJobRequest { job_id: id() }),
        call!("ResumeJob", jobs, resume_job, ResumeJobRequest { job_id: id() }),
        call!("CheckpointJob", jobs, checkpoint_job, CheckpointJobRequest { job_id: id() }),
        call!("DeleteJob", jobs, delete_job, DeleteJobRequest { job_id: id() }),
        call!("ListCheckpoints", jobs, list_checkpoints, ListCheckpointsRequest { job_id: id() }),
        call!(
            "GetCheckpoint",
            jobs,
            get_checkpoint,
            GetCheckpointRequest { job_id: id(), checkpoint_id: checkpoint_id.clone() }
        ),
        call!(
            "DeleteCheckpoint",
            jobs,
            delete_checkpoint,
            DeleteCheckpointRequest { job_id: id(), checkpoint_id: checkpoint_id }
        ),
        call!("DownloadCheckpoint", jobs, download_checkpoint, DownloadCheckpointRequest { job_id: id() }),
        call!("GetReport", jobs, get_report, GetReportRequest { job_id: id() }),
        call!("GetDataset", datasets, get_dataset, GetDatasetRequest { dataset_id: dataset_id.clone() }),
        call!("DeleteDataset", datasets, delete_dataset, DeleteDatasetRequest { dataset_id: dataset_id }),
        call!(
            "PreviewDataset",
            datasets,
            preview_dataset,
            PreviewDatasetRequest { data: Some(data), base_model: base_model() }
        ),
        call!(
            "Generate",
            generations,
            generate,
            GenerateRequest { base_model: base_model(), prompt: Some("a".to_string()) }
        ),
        call!("GetModel", models, get_model, GetModelRequest { model_id: model_id.clone() }),
        call!("DeleteModel", models, delete_model, DeleteModelRequest { model_id: model_id }),
    ]
}

#[tokio::test]
async fn ids_of_another_project_are_as_ids_that_nobody_has() {
    let (mut server, [red, blue, admin]) = projects().await;
    let (job, dataset, model) =
        (job_of(&server, &red).await, dataset_of(&server, &red).await, model_of(&server, &red).await);
    server.launch().await.exit(End::Code(1));
    // What there is of red answers blue in the very words in which nothing does.
    let kinds = [hone_job::id::Kind::Job, hone_job::id::Kind::Dataset, hone_job::id::Kind::Model];
    let [no_job, no_dataset, no_model] = kinds.map(hone_job::id::Kind::fresh);
    let foreign = every_call(&server, &blue, &job, &dataset.dataset_id, &model.model_id);
    let nothing = every_call(&server, &blue, &no_job, &no_dataset, &no_model);
    let mut tried = BTreeSet::from(["ListJobs", "ListDatasets", "ListModels"]);
    for ((name, foreign), (_, nothing)) in foreign.into_iter().zip(nothing) {
        let foreign = soon(foreign).await.expect_err(name);
        let nothing = soon(nothing).await.expect_err(name);
        let known = [(&job, &no_job), (&dataset.dataset_id, &no_dataset), (&model.model_id, &no_model)];
        let words = known.iter().fold(foreign.message().to_string(), |words, (id, other)| words.replace(*id, other));
        assert_eq!((told(&foreign), words.as_str()), (told(&nothing), nothing.message()), "{name}");
        tried.insert(name);
    }
    // The rest takes no id: uploads, and what the server says of itself.
    let rest = ["UploadDataset", "UploadModel", "GetServerInfo"];
    let public = super::super::gate::public_methods().filter(|name| !rest.contains(name));
    assert_eq!(tried, public.collect());

    assert_eq!(soon(server.jobs().list_jobs(bearing(&blue, Default::default()))).await.unwrap().into_inner().jobs, []);
    let datasets = soon(server.datasets().list_datasets(bearing(&blue, Default::default()))).await.unwrap();
    assert_eq!(datasets.into_inner().datasets, []);
    let models = soon(server.models().list_models(bearing(&blue, Default::default()))).await.unwrap();
    assert_eq!(models.into_inner().models, []);

    let get = pb::GetJobRequest { job_id: job.clone() };
    let seen = soon(server.jobs().get_job(bearing(&admin, get))).await.unwrap().into_inner().job.unwrap();
    assert_eq!(seen.project, "red", "an admin sees all");
    let listed = soon(server.datasets().list_datasets(bearing(&admin, Default::default()))).await.unwrap();
    assert_eq!(listed.into_inner().datasets, [dataset]);
    let models = soon(server.models().list_models(bearing(&red, Default::default()))).await.unwrap();
    assert_eq!(models.into_inner().models, [model], "nothing of it was touched");
}

#[tokio::test]
async fn a_request_id_is_a_projects_own() {
    let (server, [red, blue, _]) = projects().await;
    let made = async |token: &str, spec| {
        let created = soon(server.jobs().create_job(bearing(token, create("once", spec)))).await.unwrap();
        created.into_inner().job.unwrap().job_id
    };
    let first = made(&red, request_spec()).await;
    let other = made(&blue, pb::JobSpec { display_name: "other".into(), ..request_spec() }).await;
    assert_ne!(first, other);
    assert_eq!(made(&red, request_spec()).await, first);
}

#[tokio::test]
async fn the_folders_of_another_project_may_not_be_read_by_uri() {
    let (server, [red, blue, admin]) = projects().await;
    let dataset = dataset_of(&server, &red).await;
    let job = job_of(&server, &red).await;
    let root = format!("file://{}/storage", server.folder.path().display());
    let validate = async |token: &str, uri: &str| {
        let request = pb::CreateJobRequest { validate_only: true, ..create("", trained_on(uri)) };
        soon(server.jobs().create_job(bearing(token, request))).await
    };
    let owned = [dataset.uri.clone(), format!("{root}/jobs/{job}/checkpoints/step-000001")];
    for uri in &owned {
        validate(&red, uri).await.unwrap();
        validate(&admin, uri).await.unwrap();
        let status = assert_refused(validate(&blue, uri).await, Code::InvalidArgument, "INVALID_FIELDS");
        assert_eq!(told(&status).2, ["spec.sft.data.train[0]"]);
    }
    let spelled = dataset.uri.replace("/datasets/", "/%64atasets/");
    let deleted = format!("{root}/jobs/{}/checkpoints/step-000001", hone_job::id::Kind::Job.fresh());
    let above = ["file:///", &root, &format!("{root}/"), &format!("{root}/datasets"), &format!("{root}/reference")];
    for uri in above.into_iter().chain([spelled.as_str(), &deleted]) {
        assert_refused(validate(&blue, uri).await, Code::InvalidArgument, "INVALID_FIELDS");
    }
    validate(&blue, "file:///rows.jsonl").await.unwrap();
}

#[tokio::test]
async fn a_link_in_a_folder_must_lead_to_what_may_be_read_itself() {
    let folder = tempfile::tempdir().unwrap();
    let hub = folder.path().canonicalize().unwrap().join("hub");
    let model = hub.join("snapshots/1");
    std::fs::create_dir_all(&model).unwrap();
    std::fs::create_dir_all(hub.join("blobs")).unwrap();
    std::fs::write(folder.path().join("secret"), "x").unwrap();
    std::fs::write(hub.join("blobs/weights"), "x").unwrap();
    let uri = |path: &std::path::Path| format!("file://{}", path.display());
    let allowed = uri(&hub);
    let lines = [("red", "red", Role::Submit, ""), ("blue", "blue", Role::Submit, "")];
    let (server, [red, blue]) = Harness::with_tokens(lines, |options| {
        options.access = Access::new(&options.storage_root, &[allowed]).unwrap();
    })
    .await;
    let validate = async |token: &str| {
        let spec = pb::JobSpec {
            base_model: Some(pb::BaseModel { uri: uri(&model) }),
            ..trained_on(&uri(&hub.join("rows.jsonl")))
        };
        let request = pb::CreateJobRequest { validate_only: true, ..create("", spec) };
        soon(server.jobs().create_job(bearing(token, request))).await
    };
    let link = |target: &std::path::Path| {
        let _ = std::fs::remove_file(model.join("model.safetensors"));
        std::os::unix::fs::symlink(target, model.join("model.safetensors")).unwrap();
    };
    link("../../blobs/weights".as_ref());
    validate(&blue).await.expect("the layout of a hub's cache");

    let datasets = dataset_of(&server, &red).await.uri;
    for target in ["../../../secret", "/etc/passwd", datasets.trim_start_matches("file://")] {
        link(target.as_ref());
        let status = assert_refused(validate(&blue).await, Code::InvalidArgument, "INVALID_FIELDS");
        let (_, _, fields) = told(&status);
        assert_eq!(fields, ["spec.base_model.uri"], "{target}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert!(violations[0].description.contains("snapshots/1/model.safetensors"), "{violations:?}");
    }
    validate(&red).await.expect("the dataset is its own");
}

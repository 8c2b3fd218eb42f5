//! ModelService.

use hone_job::id::Kind;
use hone_job::spec::limits::MAX_NAME_BYTES;
use hone_proto::v1 as pb;
use hone_proto::v1::model_service_server::ModelService;
use pb::upload_model_request::Part;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::gate::caller;
use super::page::Page;
use super::receive::{Answer, Asked, PART_BYTES};
use super::status::Problem;
use super::{convert, receive};
use crate::store::{Upload, UploadQuery};
use crate::uploads::{Error, Incoming, Uploads};

pub(super) struct ModelApi {
    pub(super) uploads: Uploads,
    pub(super) max_bytes: u64,
}

#[tonic::async_trait]
impl ModelService for ModelApi {
    async fn upload_model(
        &self,
        request: Request<Streaming<pb::UploadModelRequest>>,
    ) -> Result<Response<pb::UploadModelResponse>, Status> {
        let caller = caller(&request)?;
        let mut messages = receive::Messages::of(request);
        let first = messages.next().await.map_err(Problem::from)?;
        let Some(Part::Header(header)) = first.and_then(|first| first.part) else {
            return Err(Problem::field("header", "must be the first message").into());
        };
        if header.display_name.len() > MAX_NAME_BYTES {
            return Err(Problem::field("header.display_name", format!("must be at most {MAX_NAME_BYTES} bytes")).into());
        }
        let pb::UploadModelHeader { request_id, offset, total_bytes, .. } = header.clone();
        let asked = Asked { kind: Kind::Model, limit: self.max_bytes, request_id, offset, total_bytes };
        let upload =
            receive::run(&self.uploads, asked, &caller, messages, |uploads, mut incoming, messages| async move {
                let received = files(&uploads, &mut incoming, header, messages).await;
                (incoming, received)
            });
        Ok(Response::new(match upload.await? {
            Answer::Whole(upload) => {
                pb::UploadModelResponse { model: Some(convert::model(upload)), ..Default::default() }
            }
            Answer::Received(files) => {
                let file = |(name, size_bytes)| pb::ModelFile { name, size_bytes, sha256: String::new() };
                let received = files.into_iter().map(file).collect();
                pb::UploadModelResponse { model: None, received, part_bytes: PART_BYTES as u64 }
            }
        }))
    }

    async fn get_model(&self, request: Request<pb::GetModelRequest>) -> Result<Response<pb::GetModelResponse>, Status> {
        let caller = caller(&request)?;
        let model_id = request.into_inner().model_id;
        check_id(&model_id)?;
        let upload = self.uploads.get(&model_id, &caller).await.map_err(Problem::from)?;
        Ok(Response::new(pb::GetModelResponse { model: Some(convert::model(upload)) }))
    }

    async fn list_models(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let project = caller(&request)?.only_project();
        let request = request.into_inner();
        let page = Page::new(request.page_size, &request.page_token, "models")?;
        let query = UploadQuery { kind: Kind::Model, project, before: page.before, limit: page.limit() };
        let found = self.uploads.list(query).await.map_err(Problem::from)?;
        let found: Vec<_> = found.into_iter().map(|upload| (upload.ordinal, convert::model(upload))).collect();
        let (found, next_page_token) = page.cut(found, |(ordinal, _)| *ordinal, |(_, model)| model.encoded_len());
        let models = found.into_iter().map(|(_, model)| model).collect();
        Ok(Response::new(pb::ListModelsResponse { models, next_page_token }))
    }

    async fn delete_model(
        &self,
        request: Request<pb::DeleteModelRequest>,
    ) -> Result<Response<pb::DeleteModelResponse>, Status> {
        let caller = caller(&request)?;
        let model_id = request.into_inner().model_id;
        check_id(&model_id)?;
        self.uploads.delete(&model_id, &caller).await.map_err(Problem::from)?;
        Ok(Response::new(pb::DeleteModelResponse {}))
    }
}

/// Files one after the other, and a model made of them once all have come.
async fn files(
    uploads: &Uploads,
    incoming: &mut Incoming,
    header: pb::UploadModelHeader,
    mut messages: receive::Messages<pb::UploadModelRequest>,
) -> Result<Option<Upload>, Error> {
    while let Some(message) = messages.next().await? {
        match message.part {
            Some(Part::File(file)) => incoming.begin_file(&file.name, &file.sha256).await?,
            Some(Part::Chunk(chunk)) => receive::write(incoming, chunk).await?,
            Some(Part::Header(_)) => return Err(Error::invalid("header", "came twice")),
            None => return Err(receive::empty()),
        }
    }
    if !incoming.is_whole() {
        return Ok(None);
    }
    incoming.end_file().await?;
    check_complete(incoming.names())?;
    uploads.keep(incoming, header.display_name).await.map(Some)
}

/// Whether these files can be a model: one GGUF file, or a folder as Hugging Face lays it out.
fn check_complete<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let names: Vec<&str> = names.collect();
    let num_gguf = names.iter().filter(|name| name.ends_with(".gguf")).count();
    let is_folder = names.contains(&"config.json") && names.iter().any(|name| name.ends_with(".safetensors"));
    if num_gguf == 1 || (num_gguf == 0 && is_folder) {
        return Ok(());
    }
    let what = "a model is one .gguf file, or config.json with .safetensors files and a tokenizer";
    Err(Error::invalid("file", format!("{what}; what came: {}", names.join(", "))))
}

fn check_id(model_id: &str) -> Result<(), Problem> {
    match model_id {
        "" => Err(Problem::field("model_id", "is required")),
        id if Kind::Model.matches(id) => Ok(()),
        id => Err(Problem::not_found("model", id)),
    }
}

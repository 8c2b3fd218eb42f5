//! DatasetService.

use hone_data::preview::{Piece, PreviewRow};
use hone_job::id::Kind;
use hone_proto::v1 as pb;
use hone_proto::v1::dataset_service_server::DatasetService;
use pb::upload_dataset_request::Part;
use prost::Message;
use tonic::{Code, Request, Response, Status, Streaming};

use super::gate::caller;
use super::inputs::Inputs;
use super::page::Page;
use super::preview::{Previewer, Wanted};
use super::receive::{Answer, Asked, PART_BYTES};
use super::status::Problem;
use super::{convert, receive};
use crate::caller::Caller;
use crate::store::{Upload, UploadQuery};
use crate::uploads::{Error, Incoming, Uploads};

/// Most rows of a preview, and how many when the caller does not say.
const MAX_ROWS: u32 = 100;
const DEFAULT_ROWS: u32 = 3;

/// Endings of files of rows, before what they are packed with.
const FORMATS: [&str; 2] = [".jsonl", ".parquet"];
const PACKINGS: [&str; 2] = [".gz", ".zst"];

pub(super) struct DatasetApi {
    pub(super) uploads: Uploads,
    pub(super) inputs: Inputs,
    pub(super) previewer: Previewer,
    pub(super) max_bytes: u64,
}

#[tonic::async_trait]
impl DatasetService for DatasetApi {
    async fn upload_dataset(
        &self,
        request: Request<Streaming<pb::UploadDatasetRequest>>,
    ) -> Result<Response<pb::UploadDatasetResponse>, Status> {
        let caller = caller(&request)?;
        let mut messages = receive::Messages::of(request);
        let first = messages.next().await.map_err(Problem::from)?;
        let Some(Part::Header(header)) = first.and_then(|first| first.part) else {
            return Err(Problem::field("header", "must be the first message").into());
        };
        if !holds_rows(&header.file_name) {
            let what = format!("{:?} must end in .jsonl or .parquet, plain or with .gz or .zst", header.file_name);
            return Err(Problem::field("header.file_name", what).into());
        }
        let pb::UploadDatasetHeader { request_id, offset, total_bytes, .. } = header.clone();
        let asked = Asked { kind: Kind::Dataset, limit: self.max_bytes, request_id, offset, total_bytes };
        let upload =
            receive::run(&self.uploads, asked, &caller, messages, |uploads, mut incoming, messages| async move {
                let received = rows(&uploads, &mut incoming, header, messages).await;
                (incoming, received)
            });
        Ok(Response::new(match upload.await? {
            Answer::Whole(upload) => {
                pb::UploadDatasetResponse { dataset: Some(convert::dataset(upload)), ..Default::default() }
            }
            Answer::Received(files) => {
                let received_bytes = files.iter().map(|(_, size)| size).sum();
                pb::UploadDatasetResponse { dataset: None, received_bytes, part_bytes: PART_BYTES as u64 }
            }
        }))
    }

    async fn get_dataset(
        &self,
        request: Request<pb::GetDatasetRequest>,
    ) -> Result<Response<pb::GetDatasetResponse>, Status> {
        let caller = caller(&request)?;
        let dataset_id = request.into_inner().dataset_id;
        check_id(&dataset_id)?;
        let upload = self.uploads.get(&dataset_id, &caller).await.map_err(Problem::from)?;
        Ok(Response::new(pb::GetDatasetResponse { dataset: Some(convert::dataset(upload)) }))
    }

    async fn list_datasets(
        &self,
        request: Request<pb::ListDatasetsRequest>,
    ) -> Result<Response<pb::ListDatasetsResponse>, Status> {
        let project = caller(&request)?.only_project();
        let request = request.into_inner();
        let page = Page::new(request.page_size, &request.page_token, "datasets")?;
        let query = UploadQuery { kind: Kind::Dataset, project, before: page.before, limit: page.limit() };
        let found = self.uploads.list(query).await.map_err(Problem::from)?;
        let found: Vec<_> = found.into_iter().map(|upload| (upload.ordinal, convert::dataset(upload))).collect();
        let (found, next_page_token) = page.cut(found, |(ordinal, _)| *ordinal, |(_, dataset)| dataset.encoded_len());
        let datasets = found.into_iter().map(|(_, dataset)| dataset).collect();
        Ok(Response::new(pb::ListDatasetsResponse { datasets, next_page_token }))
    }

    async fn delete_dataset(
        &self,
        request: Request<pb::DeleteDatasetRequest>,
    ) -> Result<Response<pb::DeleteDatasetResponse>, Status> {
        let caller = caller(&request)?;
        let dataset_id = request.into_inner().dataset_id;
        check_id(&dataset_id)?;
        self.uploads.delete(&dataset_id, &caller).await.map_err(Problem::from)?;
        Ok(Response::new(pb::DeleteDatasetResponse {}))
    }

    async fn preview_dataset(
        &self,
        request: Request<pb::PreviewDatasetRequest>,
    ) -> Result<Response<pb::PreviewDatasetResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.preview(&caller, request.into_inner()).await?))
    }
}

impl DatasetApi {
    async fn preview(
        &self,
        caller: &Caller,
        request: pb::PreviewDatasetRequest,
    ) -> Result<pb::PreviewDatasetResponse, Problem> {
        let rows = request.rows.unwrap_or(DEFAULT_ROWS);
        if rows > MAX_ROWS {
            return Err(Problem::field("rows", format!("is {rows}; must be at most {MAX_ROWS}")));
        }
        let max_length_is_default = request.data.as_ref().is_some_and(|data| data.max_length.is_none());
        let (spec, violations) =
            convert::preview_spec(request.base_model, request.data, request.loss_on, request.preference);
        self.inputs.check(caller, &spec, "base_model.uri", "", violations, Code::NotFound).await?;
        let spec = self.inputs.resolve(&spec).await?;
        let model = self.inputs.open(&spec.base_model)?;
        let wanted = Wanted { model, spec, max_length_is_default, num_rows: rows as usize };
        let found = self.previewer.preview(wanted).await?;
        Ok(pb::PreviewDatasetResponse {
            reports: found.reports.into_iter().map(convert::report).collect(),
            rows: found.rows.into_iter().map(row).collect(),
        })
    }
}

/// The bytes of one file, and a dataset made of them once all have come.
async fn rows(
    uploads: &Uploads,
    incoming: &mut Incoming,
    header: pb::UploadDatasetHeader,
    mut messages: receive::Messages<pb::UploadDatasetRequest>,
) -> Result<Option<Upload>, Error> {
    if header.offset == 0 {
        incoming.begin_file(&header.file_name, &header.sha256).await?;
    }
    while let Some(message) = messages.next().await? {
        match message.part {
            Some(Part::Chunk(chunk)) => receive::write(incoming, chunk).await?,
            Some(Part::Header(_)) => return Err(Error::invalid("header", "came twice")),
            None => return Err(receive::empty()),
        }
    }
    if !incoming.is_whole() {
        return Ok(None);
    }
    incoming.end_file().await?;
    // The stream that began it has named it.
    let name = incoming.names().next().map_or(header.file_name, str::to_owned);
    uploads.keep(incoming, name).await.map(Some)
}

/// Whether a name says that rows are in the file.
fn holds_rows(name: &str) -> bool {
    let packed = PACKINGS.into_iter().find_map(|packing| name.strip_suffix(packing));
    FORMATS.into_iter().any(|format| packed.unwrap_or(name).ends_with(format))
}

fn row(row: PreviewRow) -> pb::PreviewRow {
    let piece = |piece: Piece| pb::PreviewPiece { text: piece.text, trained: piece.trained };
    let mut documents = row.documents.into_iter();
    let mut pieces = || documents.next().unwrap_or_default().into_iter().map(piece).collect();
    pb::PreviewRow {
        object: row.object,
        row: row.row,
        pieces: pieces(),
        tokens: row.tokens,
        trained_tokens: row.trained_tokens,
        rejected: pieces(),
    }
}

fn check_id(dataset_id: &str) -> Result<(), Problem> {
    match dataset_id {
        "" => Err(Problem::field("dataset_id", "is required")),
        id if Kind::Dataset.matches(id) => Ok(()),
        id => Err(Problem::not_found("dataset", id)),
    }
}

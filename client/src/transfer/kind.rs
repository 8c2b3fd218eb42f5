//! What the upload of a dataset and that of a model differ in: their messages, and what becomes of them.

use std::future::Future;

use bytes::Bytes;
use futures::stream::Stream;
use hone_proto::v1 as pb;
use pb::upload_dataset_request::Part as DatasetPart;
use pb::upload_model_request::Part as ModelPart;
use tonic::{Response, Status};

use super::local::LocalFile;
use crate::client::Client;
use crate::error::Result;

/// What files become on the server.
pub(super) trait Kind: Sized + Send {
    /// Name of the call that takes them.
    const CALL: &'static str;
    type Request: Clone + Default + Send + Sync + 'static;
    type Response: Send;

    /// The first message.
    fn header(header: Header) -> Self::Request;
    /// That a file begins, where that is said.
    fn begin(file: &LocalFile) -> Option<Self::Request>;
    /// Bytes of a file.
    fn chunk(bytes: Bytes) -> Self::Request;
    /// Makes the call.
    fn send(
        client: &Client,
        requests: impl Stream<Item = Self::Request> + Send + 'static,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
    /// What an answer says.
    fn far(response: Self::Response) -> Far<Self>;
    /// Size and SHA-256 of a stored file.
    fn file(&self, name: &str) -> Option<(u64, &str)>;
    /// Removes it from the server.
    fn remove(&self, client: &Client) -> impl Future<Output = Result<()>> + Send;
}

/// What a stream says of itself.
pub(super) struct Header {
    pub(super) file_name: String,
    pub(super) display_name: String,
    pub(super) request_id: String,
    pub(super) offset: u64,
    /// 0 where it is no part.
    pub(super) total_bytes: u64,
}

/// How far the server says that an upload is.
pub(super) enum Far<K> {
    /// It exists.
    Whole(K),
    /// So much of it has come.
    Part(Place),
}

/// A place in an upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Files that have begun.
    pub(super) files: usize,
    /// Bytes of all of them.
    pub(super) bytes: u64,
    /// Bytes of a part; 0 where the server takes none.
    pub(super) part_bytes: u64,
}

impl Kind for pb::Dataset {
    const CALL: &'static str = "UploadDataset";
    type Request = pb::UploadDatasetRequest;
    type Response = pb::UploadDatasetResponse;

    fn header(header: Header) -> Self::Request {
        let Header { file_name, request_id, offset, total_bytes, .. } = header;
        let header = pb::UploadDatasetHeader { file_name, sha256: String::new(), request_id, offset, total_bytes };
        Self::Request { part: Some(DatasetPart::Header(header)) }
    }

    fn begin(_file: &LocalFile) -> Option<Self::Request> {
        None
    }

    fn chunk(bytes: Bytes) -> Self::Request {
        Self::Request { part: Some(DatasetPart::Chunk(bytes)) }
    }

    fn send(
        client: &Client,
        requests: impl Stream<Item = Self::Request> + Send + 'static,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send {
        let mut stub = client.dataset_stub();
        async move { stub.upload_dataset(requests).await }
    }

    fn far(response: Self::Response) -> Far<Self> {
        let pb::UploadDatasetResponse { dataset, received_bytes: bytes, part_bytes } = response;
        dataset.map_or(Far::Part(Place { files: 1, bytes, part_bytes }), Far::Whole)
    }

    fn file(&self, _name: &str) -> Option<(u64, &str)> {
        Some((self.size_bytes, &self.sha256))
    }

    async fn remove(&self, client: &Client) -> Result<()> {
        client.delete_dataset(&self.dataset_id).await
    }
}

impl Kind for pb::Model {
    const CALL: &'static str = "UploadModel";
    type Request = pb::UploadModelRequest;
    type Response = pb::UploadModelResponse;

    fn header(header: Header) -> Self::Request {
        let Header { display_name, request_id, offset, total_bytes, .. } = header;
        let header = pb::UploadModelHeader { display_name, request_id, offset, total_bytes };
        Self::Request { part: Some(ModelPart::Header(header)) }
    }

    fn begin(file: &LocalFile) -> Option<Self::Request> {
        let file = pb::ModelFile { name: file.name.clone(), size_bytes: file.size_bytes, sha256: String::new() };
        Some(Self::Request { part: Some(ModelPart::File(file)) })
    }

    fn chunk(bytes: Bytes) -> Self::Request {
        Self::Request { part: Some(ModelPart::Chunk(bytes)) }
    }

    fn send(
        client: &Client,
        requests: impl Stream<Item = Self::Request> + Send + 'static,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send {
        let mut stub = client.model_stub();
        async move { stub.upload_model(requests).await }
    }

    fn far(response: Self::Response) -> Far<Self> {
        let pb::UploadModelResponse { model, received, part_bytes } = response;
        let (files, bytes) = (received.len(), received.iter().map(|file| file.size_bytes).sum());
        model.map_or(Far::Part(Place { files, bytes, part_bytes }), Far::Whole)
    }

    fn file(&self, name: &str) -> Option<(u64, &str)> {
        self.files.iter().find(|file| file.name == name).map(|file| (file.size_bytes, file.sha256.as_str()))
    }

    async fn remove(&self, client: &Client) -> Result<()> {
        client.delete_model(&self.model_id).await
    }
}

//! Calls about datasets, but for uploads.

use hone_proto::v1 as pb;

use super::Client;
use crate::error::{Error, Result};

impl Client {
    /// One dataset.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let dataset = client.get_dataset("ds-0123456789abcdef0123456789abcdef").await?;
    /// println!("{} of {} bytes", dataset.file_name, dataset.size_bytes);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_dataset(&self, dataset_id: &str) -> Result<pb::Dataset> {
        let request = pb::GetDatasetRequest { dataset_id: dataset_id.to_owned() };
        let response = self
            .unary("GetDataset", dataset_id, request, |request| {
                let mut stub = self.dataset_stub();
                async move { stub.get_dataset(request).await }
            })
            .await?;
        response.dataset.ok_or_else(|| Error::contract("GetDataset", "no dataset in it"))
    }

    /// A page of datasets, newest first.
    ///
    /// ```no_run
    /// use hone_client::v1;
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let mut request = v1::ListDatasetsRequest::default();
    /// loop {
    ///     let page = client.list_datasets(request).await?;
    ///     page.datasets.iter().for_each(|dataset| println!("{}", dataset.dataset_id));
    ///     if page.next_page_token.is_empty() {
    ///         break;
    ///     }
    ///     request = v1::ListDatasetsRequest { page_token: page.next_page_token, ..Default::default() };
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_datasets(&self, request: pb::ListDatasetsRequest) -> Result<pb::ListDatasetsResponse> {
        self.unary("ListDatasets", "", request, |request| {
            let mut stub = self.dataset_stub();
            async move { stub.list_datasets(request).await }
        })
        .await
    }

    /// Removes a dataset.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// client.delete_dataset("ds-0123456789abcdef0123456789abcdef").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_dataset(&self, dataset_id: &str) -> Result<()> {
        let request = pb::DeleteDatasetRequest { dataset_id: dataset_id.to_owned() };
        self.removal("DeleteDataset", dataset_id, request, |request| {
            let mut stub = self.dataset_stub();
            async move { stub.delete_dataset(request).await.map(drop) }
        })
        .await
    }

    /// What a job would see of its data: counts per reason with row numbers, lengths, the first rows as trained on.
    ///
    /// ```no_run
    /// use hone_client::v1;
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let request = v1::PreviewDatasetRequest {
    ///     base_model: Some(v1::BaseModel { uri: "model-…".into() }),
    ///     data: Some(v1::DataSpec { train: vec!["ds-…".into()], ..Default::default() }),
    ///     ..Default::default()
    /// };
    /// for row in client.preview_dataset(request).await?.rows {
    ///     let trained: String = row.pieces.iter().filter(|piece| piece.trained).map(|piece| piece.text.as_str()).collect();
    ///     println!("row {} teaches {trained:?}", row.row);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn preview_dataset(&self, request: pb::PreviewDatasetRequest) -> Result<pb::PreviewDatasetResponse> {
        let limit = self.options.slow_call_timeout;
        self.bounded("PreviewDataset", "", limit, request, |request| {
            let mut stub = self.dataset_stub();
            async move { stub.preview_dataset(request).await }
        })
        .await
    }
}

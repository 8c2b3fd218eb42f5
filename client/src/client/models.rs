//! Calls about models, but for uploads.

use hone_proto::v1 as pb;

use super::Client;
use crate::error::{Error, Result};

impl Client {
    /// One model.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let model = client.get_model("model-0123456789abcdef0123456789abcdef").await?;
    /// println!("{} has {} files", model.display_name, model.files.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_model(&self, model_id: &str) -> Result<pb::Model> {
        let request = pb::GetModelRequest { model_id: model_id.to_owned() };
        let response = self
            .unary("GetModel", model_id, request, |request| {
                let mut stub = self.model_stub();
                async move { stub.get_model(request).await }
            })
            .await?;
        response.model.ok_or_else(|| Error::contract("GetModel", "no model in it"))
    }

    /// A page of models, newest first.
    ///
    /// ```no_run
    /// use hone_client::v1;
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// for model in client.list_models(v1::ListModelsRequest::default()).await?.models {
    ///     println!("{} {}", model.model_id, model.display_name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list_models(&self, request: pb::ListModelsRequest) -> Result<pb::ListModelsResponse> {
        self.unary("ListModels", "", request, |request| {
            let mut stub = self.model_stub();
            async move { stub.list_models(request).await }
        })
        .await
    }

    /// Removes a model.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// client.delete_model("model-0123456789abcdef0123456789abcdef").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete_model(&self, model_id: &str) -> Result<()> {
        let request = pb::DeleteModelRequest { model_id: model_id.to_owned() };
        self.removal("DeleteModel", model_id, request, |request| {
            let mut stub = self.model_stub();
            async move { stub.delete_model(request).await.map(drop) }
        })
        .await
    }
}

//! Answers of a model, as they are written.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, Stream, StreamExt};
use hone_proto::v1 as pb;
use tonic::Status;

use crate::client::Client;
use crate::error::{Error, Result, RpcError};

/// An answer on its way: a stream of its pieces, of which the last has `finished`. Dropping it ends the answer.
///
/// ```no_run
/// use futures::StreamExt;
/// use hone_client::v1;
///
/// # async fn example(client: hone_client::Client, checkpoint_uri: String) -> hone_client::Result<()> {
/// let message = v1::ChatMessage { role: "user".into(), content: "What is the capital of France?".into() };
/// let request = v1::GenerateRequest {
///     base_model: Some(v1::BaseModel { uri: "model-…".into() }),
///     checkpoint: Some(checkpoint_uri),
///     messages: vec![message],
///     ..Default::default()
/// };
/// let mut answer = client.generate(request).await?;
/// while let Some(piece) = answer.next().await {
///     print!("{}", piece?.text);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Generation {
    pieces: BoxStream<'static, Result<pb::GenerateResponse>>,
}

impl Generation {
    /// The whole answer, once it is there.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client, request: hone_client::v1::GenerateRequest) -> hone_client::Result<()> {
    /// println!("{}", client.generate(request).await?.text().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn text(mut self) -> Result<String> {
        let mut text = String::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            text += &piece.text;
            if piece.finished.is_some() {
                return Ok(text);
            }
        }
        Err(Error::contract("Generate", "it ended before the answer did"))
    }
}

impl Stream for Generation {
    type Item = Result<pb::GenerateResponse>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Generation")
    }
}

impl Client {
    /// Asks a model, which is loaded first if nobody asked it lately. Not repeated by itself when it breaks off. Has no deadline:
    /// what is waited for is told in `waiting`, and a connection that is dead is noticed by its pings.
    ///
    /// ```no_run
    /// use hone_client::v1;
    ///
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let prompt = Some("Once upon a time".to_owned());
    /// let base_model = Some(v1::BaseModel { uri: "model-…".into() });
    /// let answer = client.generate(v1::GenerateRequest { base_model, prompt, ..Default::default() }).await?;
    /// println!("{}", answer.text().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn generate(&self, request: pb::GenerateRequest) -> Result<Generation> {
        let failed = |status: Status| Error::from(RpcError::new("Generate", "", &status));
        let response = self.generation_stub().generate(request).await.map_err(failed)?;
        Ok(Generation { pieces: response.into_inner().map(move |piece| piece.map_err(failed)).boxed() })
    }
}

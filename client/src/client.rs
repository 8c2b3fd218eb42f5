//! The connection to a server: every call typed, bounded in time, and tried again where that is safe.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hone_proto::v1 as pb;
use pb::dataset_service_client::DatasetServiceClient;
use pb::generation_service_client::GenerationServiceClient;
use pb::job_service_client::JobServiceClient;
use pb::model_service_client::ModelServiceClient;
use pb::system_service_client::SystemServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::error::{Error, Result, RpcError};
use crate::job::JobHandle;
use crate::options::ConnectOptions;
use crate::retry::with_retry;
use crate::token::Bearer;

mod checkpoints;
mod datasets;
mod jobs;
mod models;

/// A connection that carries the caller's token.
pub(crate) type Wire = InterceptedService<Channel, Bearer>;

/// A connection to a hone server. Cheap to clone; clones share the connection, which heals by itself.
///
/// ```no_run
/// # async fn example() -> hone_client::Result<()> {
/// let client = hone_client::Client::connect("http://127.0.0.1:7400").await?;
/// println!("hone {}", client.server_info().await?.version);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    wire: Wire,
    options: Arc<ConnectOptions>,
}

impl Client {
    /// Connects, or says that there is no server at the endpoint.
    ///
    /// ```no_run
    /// use hone_client::{Client, ConnectOptions, Token};
    ///
    /// # async fn example() -> hone_client::Result<()> {
    /// let options = ConnectOptions::new("https://hone.example").token(Token::read("token")?);
    /// let client = Client::connect(options).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(options: impl Into<ConnectOptions>) -> Result<Self> {
        let options = options.into();
        let (connecting, bearer) = (options.to_endpoint()?, options.bearer()?);
        // The endpoint's own limit is for TCP alone; whoever takes the connection may never say a word of TLS.
        let connected = tokio::time::timeout(options.connect_timeout, connecting.connect()).await;
        let connected = connected.map_err(|_| {
            let silent = Status::unavailable(format!("no connection within {:?}", options.connect_timeout));
            RpcError::new("Connect", &options.endpoint, &silent)
        })?;
        let channel = connected.map_err(|error| Error::connect(&options.endpoint, error))?;
        Ok(Self { wire: InterceptedService::new(channel, bearer), options: Arc::new(options) })
    }

    /// The options in force.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// println!("asking {}", client.options().endpoint);
    /// # Ok(())
    /// # }
    /// ```
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// Version, devices, limits and where things are stored.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// for device in client.server_info().await?.devices {
    ///     println!("{}", device.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn server_info(&self) -> Result<pb::GetServerInfoResponse> {
        let request = pb::GetServerInfoRequest {};
        self.unary("GetServerInfo", "", request, |request| {
            let mut stub = self.system_stub();
            async move { stub.get_server_info(request).await }
        })
        .await
    }

    /// A handle on a job that exists. Nothing is asked yet.
    ///
    /// ```no_run
    /// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
    /// let job = client.job("job-0123456789abcdef0123456789abcdef");
    /// println!("{:?}", job.get().await?.state());
    /// # Ok(())
    /// # }
    /// ```
    pub fn job(&self, job_id: impl Into<String>) -> JobHandle {
        JobHandle::new(self.clone(), job_id.into())
    }
}

/// How calls are made.
impl Client {
    pub(crate) fn job_stub(&self) -> JobServiceClient<Wire> {
        JobServiceClient::new(self.wire.clone())
            .max_decoding_message_size(self.options.max_receive_bytes)
            .max_encoding_message_size(self.options.max_send_bytes)
    }

    pub(crate) fn dataset_stub(&self) -> DatasetServiceClient<Wire> {
        DatasetServiceClient::new(self.wire.clone())
            .max_decoding_message_size(self.options.max_receive_bytes)
            .max_encoding_message_size(self.options.max_send_bytes)
    }

    pub(crate) fn model_stub(&self) -> ModelServiceClient<Wire> {
        ModelServiceClient::new(self.wire.clone())
            .max_decoding_message_size(self.options.max_receive_bytes)
            .max_encoding_message_size(self.options.max_send_bytes)
    }

    pub(crate) fn generation_stub(&self) -> GenerationServiceClient<Wire> {
        GenerationServiceClient::new(self.wire.clone())
            .max_decoding_message_size(self.options.max_receive_bytes)
            .max_encoding_message_size(self.options.max_send_bytes)
    }

    fn system_stub(&self) -> SystemServiceClient<Wire> {
        SystemServiceClient::new(self.wire.clone()).max_decoding_message_size(self.options.max_receive_bytes)
    }

    async fn unary<Req, Res, F, Fut>(&self, call: &'static str, object: &str, request: Req, send: F) -> Result<Res>
    where
        Req: Clone,
        F: Fn(Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        self.bounded(call, object, self.options.call_timeout, request, send).await
    }

    /// A call that is not repeated here: a second one may mean something else by then, or its caller knows when to repeat it.
    pub(crate) async fn once<Req, Res, F, Fut>(
        &self,
        call: &'static str,
        object: &str,
        limit: Duration,
        request: Req,
        send: F,
    ) -> Result<Res>
    where
        F: Fn(Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        attempt(call, object, limit, request, &send).await
    }

    pub(crate) async fn bounded<Req, Res, F, Fut>(
        &self,
        call: &'static str,
        object: &str,
        limit: Duration,
        request: Req,
        send: F,
    ) -> Result<Res>
    where
        Req: Clone,
        F: Fn(Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        with_retry(&self.options.retry, |_| attempt(call, object, limit, request.clone(), &send)).await
    }

    /// A removal whose first answer was lost finds nothing the second time; that is what was asked for.
    async fn removal<Req, F, Fut>(&self, call: &'static str, object: &str, request: Req, send: F) -> Result<()>
    where
        Req: Clone,
        F: Fn(Request<Req>) -> Fut,
        Fut: Future<Output = Result<(), Status>>,
    {
        let limit = self.options.call_timeout;
        let send = |request| {
            let sent = send(request);
            async move { sent.await.map(Response::new) }
        };
        with_retry(&self.options.retry, |number| {
            let removing = attempt(call, object, limit, request.clone(), &send);
            async move {
                match removing.await {
                    Err(error) if number > 1 && error.code() == Some(Code::NotFound) => Ok(()),
                    other => other,
                }
            }
        })
        .await
    }
}

/// The longest deadline that goes with a request: eight digits of hours.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(99_999_999 * 3600);

/// One attempt of a unary call. The deadline goes with the request, and is kept here whether the server keeps it or not.
async fn attempt<Req, Res, F, Fut>(
    call: &'static str,
    object: &str,
    limit: Duration,
    request: Req,
    send: &F,
) -> Result<Res>
where
    F: Fn(Request<Req>) -> Fut,
    Fut: Future<Output = Result<Response<Res>, Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(limit.min(LONGEST_TIMEOUT));
    match tokio::time::timeout(limit, send(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(RpcError::new(call, object, &status).into()),
        Err(_) => Err(RpcError::timed_out(call, object, limit).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Client {
        /// A client that connects to nobody.
        pub(crate) fn unconnected() -> Self {
            let options = ConnectOptions::new("http://127.0.0.1:1");
            let (channel, bearer) = (options.to_endpoint().unwrap().connect_lazy(), options.bearer().unwrap());
            Self { wire: InterceptedService::new(channel, bearer), options: Arc::new(options) }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_takes_connections_and_says_nothing_is_not_waited_for_longer_than_allowed() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = ConnectOptions::new(format!("https://{}", silent.local_addr().unwrap()));
        let waited = tokio::time::timeout(10 * options.connect_timeout, Client::connect(options)).await;
        assert!(waited.expect("an end").unwrap_err().is_unreachable());
    }

    #[tokio::test]
    async fn a_call_may_have_all_the_time_there_is() {
        let answered = |request: Request<u8>| async { Ok(Response::new(request.into_inner())) };
        assert_eq!(attempt("GetJob", "", Duration::MAX, 7, &answered).await.unwrap(), 7);
    }
}

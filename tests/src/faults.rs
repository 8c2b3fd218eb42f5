//! An object store that misbehaves on command: an HTTP proxy before a real one, which answers in its place, loses what passes
//! between them, or changes it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

type Body = BoxBody<Bytes, std::io::Error>;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// It is answered with 500 and does not arrive.
    InternalError,
    /// It is answered with 503 `SlowDown` and does not arrive.
    SlowDown,
    /// The connection is cut in the middle of it.
    CutRequest,
    /// It arrives and is carried out; the connection is cut before the answer.
    LostReply,
    /// The connection is cut in the middle of the answer's body.
    CutReply,
    /// It arrives; the answer never comes.
    Stall,
    /// The answer's body has one bit changed, or the body that arrives has where the answer has none.
    WrongBytes,
}

impl StoreFault {
    /// All of them.
    pub const ALL: [StoreFault; 7] = [
        StoreFault::InternalError,
        StoreFault::SlowDown,
        StoreFault::CutRequest,
        StoreFault::LostReply,
        StoreFault::CutReply,
        StoreFault::Stall,
        StoreFault::WrongBytes,
    ];
}

/// Decides what happens to a request, by its method and its path with the query.
type Plan = dyn FnMut(&Method, &str) -> Option<StoreFault> + Send;

/// The proxy. Dropped, it is gone.
pub struct FaultyStore {
    address: SocketAddr,
    accepting: AbortHandle,
}

impl FaultyStore {
    /// Before the store at `endpoint`; `plan` is asked about each request.
    pub async fn before(
        endpoint: &str,
        plan: impl FnMut(&Method, &str) -> Option<StoreFault> + Send + 'static,
    ) -> FaultyStore {
        let target = endpoint.trim_start_matches("http://").to_owned();
        let plan: Arc<Mutex<Plan>> = Arc::new(Mutex::new(plan));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound");
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (target, plan) = (target.clone(), plan.clone());
                let service = service_fn(move |request| pass(request, target.clone(), plan.clone()));
                let served =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service);
                // How a connection ends is what the test is about, and the other side's matter.
                tokio::spawn(async move { drop(served.await) });
            }
        });
        FaultyStore { address, accepting: accepting.abort_handle() }
    }

    /// Where to reach it, as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for FaultyStore {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An error here cuts the connection.
async fn pass(request: Request<Incoming>, target: String, plan: Arc<Mutex<Plan>>) -> std::io::Result<Response<Body>> {
    let place = request.uri().path_and_query().map_or("/", |place| place.as_str()).to_owned();
    let fault = plan.lock().expect("not poisoned")(request.method(), &place);
    let cut = || Err(std::io::Error::other("cut"));
    match fault {
        Some(StoreFault::InternalError) => return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
        Some(StoreFault::SlowDown) => return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
        Some(StoreFault::CutRequest) => {
            // The first piece has come when the connection goes.
            let _ = request.into_body().frame().await;
            return cut();
        }
        _ => {}
    }
    let reply = forward(request, &target, fault).await.map_err(std::io::Error::other)?;
    match fault {
        Some(StoreFault::LostReply) => cut(),
        Some(StoreFault::Stall) => std::future::pending().await,
        Some(StoreFault::CutReply) => {
            let (head, body) = reply.into_parts();
            let half = body.slice(..body.len() / 2);
            let pieces = stream::iter([Ok(Frame::data(half)), Err(std::io::Error::other("cut"))]);
            Ok(Response::from_parts(head, BodyExt::boxed(StreamBody::new(pieces))))
        }
        _ => Ok(reply.map(whole)),
    }
}

/// Carries a request to the store and the answer back, both whole.
async fn forward(
    request: Request<Incoming>,
    target: &str,
    fault: Option<StoreFault>,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    let is_read = head.method == Method::GET;
    let is_wrong = fault == Some(StoreFault::WrongBytes);
    let mut body = body.collect().await?.to_bytes();
    if is_wrong && !is_read {
        body = changed(body);
    }
    let connection = TokioIo::new(TcpStream::connect(target).await?);
    let (mut store, carried) = hyper::client::conn::http1::handshake(connection).await?;
    tokio::spawn(async move { drop(carried.await) });
    let reply = store.send_request(Request::from_parts(head, Full::new(body))).await?;
    let (mut head, body) = reply.into_parts();
    let mut body = body.collect().await?.to_bytes();
    if is_wrong && is_read {
        body = changed(body);
    }
    // The body goes on in one piece, whatever it came in.
    head.headers.remove(header::TRANSFER_ENCODING);
    Ok(Response::from_parts(head, body))
}

fn changed(body: Bytes) -> Bytes {
    let mut bytes = body.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let text = format!("<Error><Code>{code}</Code><Message>as the test wants</Message></Error>");
    let mut response = Response::new(whole(text.into()));
    *response.status_mut() = status;
    response
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed()
}

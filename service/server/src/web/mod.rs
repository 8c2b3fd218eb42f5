//! The web page: what the API tells, for people with a browser. Its files are in the program, its data comes from
//! `api::Inside`, where tokens are checked as everywhere; nothing that is asked here changes anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::routing::get;
use axum::serve::IncomingStream;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected as _, TcpConnectInfo, TlsConnectInfo};

use crate::api::Inside;
use crate::tls::Acceptor;
use crate::{Error, write_address};

mod answers;
mod assets;
mod events;
mod guard;
mod secure;
#[cfg(test)]
mod tests;

use guard::Hosts;
use secure::Secure;

/// Where the page is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// File to write `ip:port` into once the page is there.
    pub port_file: Option<PathBuf>,
}

/// The page, ready to be served.
pub(crate) struct Page {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    tls: Option<Arc<Acceptor>>,
}

impl Page {
    /// Takes its port. `asks` says whether callers are asked who they are.
    pub(crate) async fn open(
        http: &Http,
        inside: Inside,
        asks: bool,
        tls: Option<Arc<Acceptor>>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Page { address: http.listen, source };
        let listener = TcpListener::bind(http.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let hosts = if asks || !address.ip().is_loopback() { Hosts::All } else { Hosts::Loopback };
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!("web page at {scheme}://{address}/");
        if let Some(path) = &http.port_file {
            write_address(path, address)?;
        }
        Ok(Self { listener, address, router: router(inside, hosts), tls })
    }

    /// Answers until `closed`.
    pub(crate) async fn serve(self, closed: CancellationToken) -> Result<(), Error> {
        let address = self.address;
        let service = self.router.into_make_service_with_connect_info::<Peer>();
        let closed = closed.cancelled_owned();
        let served = match self.tls {
            Some(tls) => {
                let listener = Secure::new(self.listener, address, tls);
                axum::serve(listener, service).with_graceful_shutdown(closed).await
            }
            None => axum::serve(self.listener, service).with_graceful_shutdown(closed).await,
        };
        served.map_err(|source| Error::Page { address, source })
    }
}

/// What is known of a connection: nothing, unless it is over TLS.
#[derive(Debug, Clone)]
struct Peer(Option<TlsConnectInfo<TcpConnectInfo>>);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(_: IncomingStream<'_, TcpListener>) -> Self {
        Self(None)
    }
}

impl Connected<IncomingStream<'_, Secure>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Secure>) -> Self {
        Self(Some(stream.io().connect_info()))
    }
}

fn router(inside: Inside, hosts: Hosts) -> Router {
    Router::new()
        .route("/", get(assets::index))
        .route("/assets/{*name}", get(assets::asset))
        .route("/api/info", get(answers::info))
        .route("/api/jobs", get(answers::jobs))
        .route("/api/jobs/{job_id}", get(answers::job))
        .route("/api/jobs/{job_id}/events", get(events::events))
        .route("/api/jobs/{job_id}/checkpoints", get(answers::checkpoints))
        .route("/api/jobs/{job_id}/checkpoints/{checkpoint_id}/files/{name}", get(answers::file))
        .fallback(answers::nothing)
        .method_not_allowed_fallback(answers::look_only)
        .layer(axum::middleware::from_fn_with_state(hosts, guard::guard))
        .with_state(inside)
}

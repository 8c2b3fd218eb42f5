//! The figures as Prometheus reads them, on a port of their own: `/metrics`. It asks for no token, as its readers expect; it
//! names no job, project, model or host.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Standing;
use super::table::renamed;
use crate::{Error, write_address};

/// Where the figures are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// File to write `ip:port` into once they are there.
    pub port_file: Option<PathBuf>,
}

/// The port, taken.
pub(crate) struct Page {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

#[derive(Clone)]
struct Figures {
    registry: Registry,
    standing: Standing,
}

impl Page {
    /// Takes the port.
    pub(crate) async fn open(at: &Listen, registry: Registry, standing: Standing) -> Result<Self, Error> {
        let failed = |source| Error::MetricsPage { address: at.listen, source };
        let listener = TcpListener::bind(at.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!("metrics at http://{address}/metrics");
        if let Some(path) = &at.port_file {
            write_address(path, address)?;
        }
        let router = Router::new().route("/metrics", get(figures)).with_state(Figures { registry, standing });
        Ok(Self { listener, address, router })
    }

    /// Answers until `closed`.
    pub(crate) async fn serve(self, closed: CancellationToken) -> Result<(), Error> {
        let served = axum::serve(self.listener, self.router).with_graceful_shutdown(closed.cancelled_owned()).await;
        served.map_err(|source| Error::MetricsPage { address: self.address, source })
    }
}

async fn figures(State(Figures { registry, standing }): State<Figures>) -> Response {
    standing.look().await;
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    let mut families = registry.gather();
    for family in &mut families {
        family.set_name(renamed(family.name().to_owned()));
    }
    match encoder.encode(&families, &mut text) {
        Ok(()) => ([(CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

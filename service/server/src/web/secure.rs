//! Connections of browsers over TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::serve::Listener;
use futures::{Stream, StreamExt, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use crate::tls::Acceptor;

/// A listener that gives those connections that got through the handshake.
pub(super) struct Secure {
    connections: Pin<Box<dyn Stream<Item = io::Result<TlsStream<TcpStream>>> + Send>>,
    address: SocketAddr,
}

impl Secure {
    pub(super) fn new(listener: TcpListener, address: SocketAddr, tls: Arc<Acceptor>) -> Self {
        // axum's own way of accepting goes on after an error, and waits where there are too many open files.
        let incoming = stream::unfold(listener, async |mut listener| {
            let (connection, _) = Listener::accept(&mut listener).await;
            Some((Ok(connection), listener))
        });
        Self { connections: Box::pin(tls.over(incoming)), address }
    }
}

impl Listener for Secure {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            match self.connections.next().await {
                Some(Ok(connection)) => {
                    let peer = connection.get_ref().0.peer_addr().unwrap_or(self.address);
                    return (connection, peer);
                }
                Some(Err(error)) => tracing::debug!(%error, "a connection to the web page failed"),
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

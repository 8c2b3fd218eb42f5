//! TLS: the server's certificate and key, whose certificates it takes, and how its trainers check it. Certificates are renewed
//! while the server runs: new handshakes take what the files say by then, and connections that are open go on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Longest handshake; whoever does not get through it holds no connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes at a time; further connections wait to be accepted.
const MAX_HANDSHAKES: usize = 1024;

/// Names of what is spoken over the connection (ALPN), the preferred one first.
pub(crate) type Protocols = &'static [&'static str];

/// What gRPC is spoken over.
pub(crate) const OF_GRPC: Protocols = &["h2"];

/// What browsers speak.
pub(crate) const OF_BROWSERS: Protocols = &["h2", "http/1.1"];

/// Files of TLS, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate, with those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities that sign the certificates of clients; with them every caller must show one.
    pub client_ca: Option<PathBuf>,
    /// Authorities by which trainers check the server's certificate.
    pub trainer_ca: PathBuf,
    /// Name that trainers expect in it; absent for the address they dial.
    pub trainer_name: Option<String>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: cannot read it for TLS: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// What the files hold is no TLS.
    #[error("{files}: TLS cannot be set up: {what}")]
    Unusable {
        /// The files.
        files: String,
        /// What is wrong.
        what: String,
    },
}

/// What the files held.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    fn read(&self) -> Result<Files, Error> {
        let client_ca = self.client_ca.as_deref().map(read).transpose()?;
        Ok(Files { cert: read(&self.cert)?, key: read(&self.key)?, client_ca })
    }

    /// What handshakes are made with.
    ///
    /// A certificate of another authority ends the handshake. One that is missing does not: trainers and probes have none,
    /// and the gate refuses everybody else.
    fn config(&self, files: &Files, protocols: Protocols) -> Result<ServerConfig, Error> {
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(path), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(path, pem)?);
                let verifier = WebPkiClientVerifier::builder(roots.into()).allow_unauthenticated().build();
                ServerConfig::builder()
                    .with_client_cert_verifier(verifier.map_err(|error| unusable(path.display(), error))?)
            }
            _ => ServerConfig::builder().with_no_client_auth(),
        };
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| unusable(self.key.display(), error))?;
        let both = || format!("{} and {}", self.cert.display(), self.key.display());
        let mut config = builder
            .with_single_cert(certificates(&self.cert, &files.cert)?, key)
            .map_err(|error| unusable(both(), error))?;
        config.alpn_protocols.extend(protocols.iter().map(|name| name.as_bytes().to_vec()));
        Ok(config)
    }
}

/// Makes the handshakes of those who connect.
pub(crate) struct Acceptor {
    tls: Tls,
    protocols: Protocols,
    now: RwLock<InForce>,
}

struct InForce {
    files: Files,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Reads the files for the first time.
    pub(crate) fn open(tls: &Tls, protocols: Protocols) -> Result<Self, Error> {
        let files = tls.read()?;
        let config = Arc::new(tls.config(&files, protocols)?);
        Ok(Self { tls: tls.clone(), protocols, now: RwLock::new(InForce { files, config }) })
    }

    /// Takes over what the files hold now. Some that are broken, or do not belong together yet, change nothing.
    pub(crate) fn look_again(&self) -> Result<bool, Error> {
        let files = self.tls.read()?;
        if files == self.now.read().unwrap_or_else(PoisonError::into_inner).files {
            return Ok(false);
        }
        let config = Arc::new(self.tls.config(&files, self.protocols)?);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = InForce { files, config };
        Ok(true)
    }

    /// Connections of those who get through the handshake.
    pub(crate) fn over(
        self: Arc<Self>,
        incoming: impl Stream<Item = io::Result<TcpStream>>,
    ) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
        let handshakes = incoming.map(move |connection| {
            let acceptor = self.clone();
            // A task each: their arithmetic would hold up those who come after.
            tokio::spawn(async move {
                match connection {
                    Ok(connection) => acceptor.handshake(connection).await.map(Ok),
                    Err(error) => Some(Err(error)),
                }
            })
        });
        handshakes.buffer_unordered(MAX_HANDSHAKES).filter_map(async |ended| ended.ok().flatten())
    }

    async fn handshake(&self, connection: TcpStream) -> Option<TlsStream<TcpStream>> {
        let config = self.now.read().unwrap_or_else(PoisonError::into_inner).config.clone();
        let handshake = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(connection)).await;
        let done = handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        done.inspect_err(|error| tracing::debug!(%error, "a handshake failed")).ok()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unusable(path.display(), "it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(path.display(), error)),
    }
}

fn unusable(files: impl ToString, what: impl ToString) -> Error {
    Error::Unusable { files: files.to_string(), what: what.to_string() }
}

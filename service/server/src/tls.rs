//! TLS: the server's certificate and key, whose certificates it takes, and how its trainers check it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Longest handshake; whoever does not get through it holds no connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
    /// Certificate and key are none, or do not belong together.
    #[error("{} and {}: TLS cannot be set up with them: {what}", cert.display(), key.display())]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// The innermost cause.
        what: String,
    },
}

impl Tls {
    /// What the listener is set up with.
    ///
    /// A certificate of another authority ends the handshake. One that is missing does not: trainers and probes have none,
    /// and the gate refuses everybody else.
    pub(crate) fn listener(&self) -> Result<ServerTlsConfig, Error> {
        let identity = Identity::from_pem(read(&self.cert)?, read(&self.key)?);
        let config = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE);
        Ok(match &self.client_ca {
            Some(path) => config.client_ca_root(Certificate::from_pem(read(path)?)).client_auth_optional(true),
            None => config,
        })
    }

    /// What is wrong with the files, when the transport took them for no TLS.
    pub(crate) fn unusable(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Error::Unusable { cert: self.cert.clone(), key: self.key.clone(), what: cause.to_string() }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })
}

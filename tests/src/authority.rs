//! An authority that signs certificates, for servers and clients that speak TLS.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// An authority that nobody else trusts.
pub struct Authority {
    folder: PathBuf,
    file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that an authority signed, and its key, as PEM files.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, with its files in a folder.
    pub fn new(folder: impl AsRef<Path>, name: &str) -> Self {
        let folder = folder.as_ref().to_path_buf();
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new([]).expect("no names are plain names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let file = folder.join(format!("{name}-ca.pem"));
        write(&file, &params.self_signed(&key).expect("it signs itself").pem());
        Self { folder, file, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Signs a certificate for a host, or for a client.
    pub fn sign(&self, subject: &str) -> Certificate {
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new([subject.to_owned()]).expect("a host is a plain name");
        let signed = params.signed_by(&key, &self.issuer).expect("it signs");
        let file = |kind: &str| self.folder.join(format!("{subject}-{kind}.pem"));
        let certificate = Certificate { cert: file("cert"), key: file("key") };
        write(&certificate.cert, &signed.pem());
        write(&certificate.key, &key.serialize_pem());
        certificate
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the test's folder can be written");
}

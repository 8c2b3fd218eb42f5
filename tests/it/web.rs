//! The web page over TLS, as its flags turn it on. tests/web has it in a browser.

use std::path::Path;
use std::sync::Arc;

use hone_tests::{Authority, Certificate, Setup, soon};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Shakes hands as a browser of these protocols does.
async fn connect(
    address: &str,
    authority: &Path,
    own: Option<&Certificate>,
    protocols: &[&str],
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match own {
        Some(Certificate { cert, key }) => {
            let chain = CertificateDer::pem_file_iter(cert).unwrap().collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("hone.example").unwrap();
    soon("the handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
}

async fn get(stream: TlsStream<TcpStream>, path: &str) -> (StatusCode, String) {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "hone.example").body(Empty::<Bytes>::new()).unwrap();
    let answer = soon("an answer", sender.send_request(request)).await.unwrap();
    let status = answer.status();
    let body = soon("its body", answer.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn the_page_comes_over_tls_and_asks_for_certificates_as_calls_do() {
    let setup = Setup::default();
    let authority = Authority::new(setup.path(""), "servers");
    let clients = Authority::new(setup.path(""), "clients");
    let Certificate { cert, key } = authority.sign("hone.example");
    let page = setup.path("page");
    let setup = setup
        .flag("--tls-cert", cert.display())
        .flag("--tls-key", key.display())
        .flag("--tls-trainer-ca", authority.file().display())
        .flag("--tls-trainer-name", "hone.example")
        .flag("--tls-client-ca", clients.file().display())
        .flag("--http-listen", "127.0.0.1:0")
        .flag("--http-port-file", page.display());
    let server = setup.start().await;
    server.says("web page at https://").await;
    let address = std::fs::read_to_string(&page).unwrap().trim().to_owned();
    let connect = async |own, protocols: &[&str]| connect(&address, authority.file(), own, protocols).await;

    for protocol in ["h2", "http/1.1"] {
        let stream = connect(None, &[protocol]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    }
    let (status, page) = get(connect(None, &["http/1.1"]).await, "/").await;
    assert!(status == StatusCode::OK && page.contains("<title>hone</title>"), "{status} {page}");
    let (status, told) = get(connect(None, &["http/1.1"]).await, "/api/jobs").await;
    assert!(status == StatusCode::UNAUTHORIZED && told.contains("CERTIFICATE_REQUIRED"), "{status} {told}");
    let own = clients.sign("a-browser");
    let (status, told) = get(connect(Some(&own), &["http/1.1"]).await, "/api/jobs").await;
    assert_eq!((status, told.as_str()), (StatusCode::OK, "{}"));
}

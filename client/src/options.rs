//! How to reach a server: takes settings with documented defaults, gives a configured endpoint.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::error::{Error, Result, innermost};
use crate::retry::RetryPolicy;
use crate::token::{Bearer, Token};

/// Bytes that a stream and a connection may have on their way to here, unread: enough for a download's streams over a long way.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Where the server is, and how long to wait for it.
///
/// What may be set has a method of its name, and is a field that can be read.
///
/// ```no_run
/// use std::time::Duration;
/// use hone_client::{Client, ConnectOptions, RetryPolicy, Token};
///
/// # async fn example() -> hone_client::Result<()> {
/// let options = ConnectOptions::new("https://hone.example")
///     .token(Token::read("/run/secrets/hone-token")?)
///     .ca_file("authorities.pem")
///     .certificate("client.pem", "client-key.pem")
///     .call_timeout(Duration::from_secs(10))
///     .keep_alive_interval(Duration::from_secs(10))
///     .transfer_streams(8)
///     .user_agent("nightly")
///     .retry(RetryPolicy::never());
/// let client = Client::connect(options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The server, such as `http://127.0.0.1:7400` or `https://hone.example`; without a scheme `http://` is meant.
    pub endpoint: String,
    /// What the server knows the caller by. Default: none.
    pub token: Option<Token>,
    /// Whether a token may go over plain `http://` to another machine, where everybody on the way can read it.
    /// Default: no.
    pub allow_plaintext_token: bool,
    /// PEM file of the authorities that may have signed the server's certificate. Default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Name that the server's certificate must be for. Default: the host of the endpoint.
    pub server_name: Option<String>,
    /// The client's own certificate, for servers that ask for one. Default: none.
    pub certificate: Option<ClientCertificate>,
    /// Longest wait for a connection. Default 10 s.
    pub connect_timeout: Duration,
    /// Longest wait for the answer of one attempt of a unary call. Default 30 s. Uploads, downloads,
    /// watches and answers of models are not bound by it: they may take hours.
    pub call_timeout: Duration,
    /// Longest wait for a preview or for the job to be accepted, which read data before they answer. Default 300 s.
    pub slow_call_timeout: Duration,
    /// Longest silence of an upload or a download. Default 120 s.
    pub transfer_timeout: Duration,
    /// How long an upload or a download that was cut tries to go on, without a byte more, before it reports the error. Default
    /// 2 minutes, in which a server starts anew; without effect where [`retry`](Self::retry) allows a single attempt.
    pub transfer_give_up_after: Duration,
    /// Streams of an upload or a download at once; where the server takes fewer calls of the token, the transfer goes on in one.
    /// Each stream of an upload holds a part of 8 MiB in memory. Default 4.
    pub transfer_streams: usize,
    /// Longest silence of a watch before it reconnects; the server sends heartbeats more often. Default 45 s.
    pub watch_timeout: Duration,
    /// How long a watch tries to get its stream back before it reports the error. Default 10 minutes.
    pub watch_give_up_after: Duration,
    /// Time between HTTP/2 pings while calls are open. Default 30 s.
    pub keep_alive_interval: Duration,
    /// Longest wait for the answer to a ping. Default 20 s.
    pub keep_alive_timeout: Duration,
    /// Largest message taken from the server, in bytes. Default 64 MiB: lists of jobs may carry chat templates.
    pub max_receive_bytes: usize,
    /// Largest message sent, in bytes. Default 16 MiB.
    pub max_send_bytes: usize,
    /// Name put before the client's own in the user agent. Default: none.
    pub user_agent: Option<String>,
    /// When a call is tried again.
    pub retry: RetryPolicy,
}

impl ConnectOptions {
    /// The defaults, for the server at `endpoint`.
    ///
    /// ```
    /// assert_eq!(hone_client::ConnectOptions::new("localhost:7400").endpoint, "http://localhost:7400");
    /// ```
    pub fn new(endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        let endpoint = if endpoint.contains("://") { endpoint } else { format!("http://{endpoint}") };
        Self {
            endpoint,
            token: None,
            allow_plaintext_token: false,
            ca_file: None,
            server_name: None,
            certificate: None,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            slow_call_timeout: Duration::from_secs(300),
            transfer_timeout: Duration::from_secs(120),
            transfer_give_up_after: Duration::from_secs(120),
            transfer_streams: 4,
            watch_timeout: Duration::from_secs(45),
            watch_give_up_after: Duration::from_secs(600),
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(20),
            max_receive_bytes: 64 << 20,
            max_send_bytes: 16 << 20,
            user_agent: None,
            retry: RetryPolicy::default(),
        }
    }

    /// Sets [`token`](Self::token).
    pub fn token(mut self, token: impl Into<Token>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets [`allow_plaintext_token`](Self::allow_plaintext_token).
    pub fn allow_plaintext_token(mut self, allow: bool) -> Self {
        self.allow_plaintext_token = allow;
        self
    }

    /// Sets [`ca_file`](Self::ca_file).
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Sets [`server_name`](Self::server_name).
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets [`certificate`](Self::certificate): PEM files of the certificate, with those between it and its authority,
    /// and of its key.
    pub fn certificate(mut self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        self.certificate = Some(ClientCertificate { cert_file: cert_file.into(), key_file: key_file.into() });
        self
    }

    /// Sets [`connect_timeout`](Self::connect_timeout).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`call_timeout`](Self::call_timeout).
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets [`slow_call_timeout`](Self::slow_call_timeout).
    pub fn slow_call_timeout(mut self, timeout: Duration) -> Self {
        self.slow_call_timeout = timeout;
        self
    }

    /// Sets [`transfer_timeout`](Self::transfer_timeout).
    pub fn transfer_timeout(mut self, timeout: Duration) -> Self {
        self.transfer_timeout = timeout;
        self
    }

    /// Sets [`transfer_give_up_after`](Self::transfer_give_up_after).
    pub fn transfer_give_up_after(mut self, timeout: Duration) -> Self {
        self.transfer_give_up_after = timeout;
        self
    }

    /// Sets [`transfer_streams`](Self::transfer_streams).
    pub fn transfer_streams(mut self, streams: usize) -> Self {
        self.transfer_streams = streams;
        self
    }

    /// Sets [`watch_timeout`](Self::watch_timeout).
    pub fn watch_timeout(mut self, timeout: Duration) -> Self {
        self.watch_timeout = timeout;
        self
    }

    /// Sets [`watch_give_up_after`](Self::watch_give_up_after).
    pub fn watch_give_up_after(mut self, timeout: Duration) -> Self {
        self.watch_give_up_after = timeout;
        self
    }

    /// Sets [`keep_alive_interval`](Self::keep_alive_interval).
    pub fn keep_alive_interval(mut self, interval: Duration) -> Self {
        self.keep_alive_interval = interval;
        self
    }

    /// Sets [`keep_alive_timeout`](Self::keep_alive_timeout).
    pub fn keep_alive_timeout(mut self, timeout: Duration) -> Self {
        self.keep_alive_timeout = timeout;
        self
    }

    /// Sets [`max_receive_bytes`](Self::max_receive_bytes).
    pub fn max_receive_bytes(mut self, bytes: usize) -> Self {
        self.max_receive_bytes = bytes;
        self
    }

    /// Sets [`max_send_bytes`](Self::max_send_bytes).
    pub fn max_send_bytes(mut self, bytes: usize) -> Self {
        self.max_send_bytes = bytes;
        self
    }

    /// Sets [`user_agent`](Self::user_agent).
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.user_agent = Some(name.into());
        self
    }

    /// Sets [`retry`](Self::retry).
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The endpoint these options describe; nothing is sent yet.
    pub(crate) fn to_endpoint(&self) -> Result<Endpoint> {
        let refused = |detail: String| Error::Endpoint { endpoint: self.endpoint.clone(), detail };
        let is_plain = self.endpoint.starts_with("http://");
        if !is_plain && !self.endpoint.starts_with("https://") {
            return Err(refused("only http:// and https:// are spoken".to_owned()));
        }
        let own = concat!("hone-client/", env!("CARGO_PKG_VERSION"));
        let agent = self.user_agent.as_ref().map_or(own.to_owned(), |name| format!("{name} {own}"));
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|error| refused(error.to_string()))?;
        let host = endpoint.uri().host().ok_or_else(|| refused("it names no host".to_owned()))?;
        if is_plain && self.token.is_some() && !self.allow_plaintext_token && !is_this_machine(host) {
            return Err(Error::PlaintextToken { endpoint: self.endpoint.clone() });
        }
        let endpoint = match is_plain {
            true => endpoint,
            false => endpoint.tls_config(self.tls()?).map_err(|error| refused(innermost(&error)))?,
        };
        Ok(endpoint
            .user_agent(agent)
            .map_err(|error| refused(error.to_string()))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(self.keep_alive_interval)
            .keep_alive_timeout(self.keep_alive_timeout))
    }

    /// What goes with every call.
    pub(crate) fn bearer(&self) -> Result<Bearer> {
        Bearer::new(self.token.as_ref())
    }

    fn tls(&self) -> Result<ClientTlsConfig> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| Error::file("read", path, error));
        let mut tls = match &self.ca_file {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        if let Some(ClientCertificate { cert_file, key_file }) = &self.certificate {
            tls = tls.identity(Identity::from_pem(read(cert_file)?, read(key_file)?));
        }
        Ok(tls)
    }
}

/// A certificate that a client shows, and its key.
///
/// ```
/// let options = hone_client::ConnectOptions::new("https://hone.example").certificate("client.pem", "client-key.pem");
/// assert_eq!(options.certificate.unwrap().key_file.to_str(), Some("client-key.pem"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM file of the certificate, with those between it and its authority.
    pub cert_file: PathBuf,
    /// PEM file of its key.
    pub key_file: PathBuf,
}

/// Whether what is sent to a host stays on this machine.
fn is_this_machine(host: &str) -> bool {
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

impl From<&str> for ConnectOptions {
    fn from(endpoint: &str) -> Self {
        Self::new(endpoint)
    }
}

impl From<String> for ConnectOptions {
    fn from(endpoint: String) -> Self {
        Self::new(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_scheme_is_plain_http() {
        assert_eq!(ConnectOptions::new("localhost:7400").endpoint, "http://localhost:7400");
    }

    #[test]
    fn endpoints_that_cannot_work_are_refused_before_connecting() {
        for endpoint in ["ftp://hone.example", "http://", "http://a b", "https://"] {
            let error = ConnectOptions::new(endpoint).to_endpoint().expect_err(endpoint);
            assert!(error.to_string().contains(endpoint), "{error}");
        }
    }

    #[test]
    fn a_token_leaves_this_machine_over_tls_only_unless_that_is_allowed() {
        let with_token = |endpoint: &str| ConnectOptions::new(endpoint).token("hone_secret");
        for endpoint in ["http://hone.example", "http://10.0.0.1:7400", "http://127.0.0.1.example:7400", "hone.example"]
        {
            let error = with_token(endpoint).to_endpoint().expect_err(endpoint);
            assert!(error.hint().is_some_and(|hint| hint.contains("https://")), "{error}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
            with_token(endpoint).allow_plaintext_token(true).to_endpoint().expect(endpoint);
            ConnectOptions::new(endpoint).to_endpoint().expect(endpoint);
        }
        for endpoint in ["http://127.0.0.1:7400", "http://[::1]:7400", "localhost:7400", "https://hone.example"] {
            with_token(endpoint).to_endpoint().expect(endpoint);
        }
    }

    #[test]
    fn a_file_that_tls_needs_is_named_when_it_is_missing() {
        let options = ConnectOptions::new("https://hone.example").ca_file("/no/such/ca.pem");
        assert!(options.to_endpoint().expect_err("no file").to_string().contains("/no/such/ca.pem"));
    }
}

//! How to reach a server: takes settings with documented defaults, gives a configured endpoint.

use std::time::Duration;

use tonic::transport::Endpoint;

use crate::error::Error;
use crate::retry::RetryPolicy;

/// Where the server is, and how long to wait for it.
///
/// ```
/// use std::time::Duration;
///
/// let options = hone_client::ConnectOptions::new("http://127.0.0.1:7400").call_timeout(Duration::from_secs(10));
/// assert_eq!(options.endpoint, "http://127.0.0.1:7400");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The server, such as `http://127.0.0.1:7400`; without a scheme `http://` is meant.
    pub endpoint: String,
    /// Longest wait for a connection. Default 10 s.
    pub connect_timeout: Duration,
    /// Longest wait for the answer of one attempt of a unary call. Default 30 s. Uploads, downloads and watches are
    /// not bound by it: they may take hours.
    pub call_timeout: Duration,
    /// Longest wait for a preview or for the job to be accepted, which read data before they answer. Default 300 s.
    pub slow_call_timeout: Duration,
    /// Longest silence of an upload or a download. Default 120 s.
    pub transfer_timeout: Duration,
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
    pub fn new(endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        let endpoint = if endpoint.contains("://") { endpoint } else { format!("http://{endpoint}") };
        Self {
            endpoint,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            slow_call_timeout: Duration::from_secs(300),
            transfer_timeout: Duration::from_secs(120),
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

    /// Sets [`transfer_timeout`](Self::transfer_timeout).
    pub fn transfer_timeout(mut self, timeout: Duration) -> Self {
        self.transfer_timeout = timeout;
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
    pub(crate) fn to_endpoint(&self) -> Result<Endpoint, Error> {
        let refused = |detail: String| Error::Endpoint { endpoint: self.endpoint.clone(), detail };
        if !self.endpoint.starts_with("http://") {
            return Err(refused("only http:// is spoken so far".to_owned()));
        }
        let own = concat!("hone-client/", env!("CARGO_PKG_VERSION"));
        let agent = self.user_agent.as_ref().map_or(own.to_owned(), |name| format!("{name} {own}"));
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|error| refused(error.to_string()))?;
        if endpoint.uri().host().is_none() {
            return Err(refused("it names no host".to_owned()));
        }
        Ok(endpoint
            .user_agent(agent)
            .map_err(|error| refused(error.to_string()))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.keep_alive_interval)
            .keep_alive_timeout(self.keep_alive_timeout))
    }
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
        for endpoint in ["https://hone.example", "ftp://hone.example", "http://", "http://a b"] {
            let error = ConnectOptions::new(endpoint).to_endpoint().expect_err(endpoint);
            assert!(error.to_string().contains(endpoint), "{error}");
        }
    }
}

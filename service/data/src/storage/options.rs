//! How object stores are reached, from settings and the environment.

use std::fmt;
use std::time::Duration;

use object_store::{BackoffConfig, RetryConfig};

use super::Watched;

/// A text that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; the one way to it, so that uses are easy to find.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How object stores are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageOptions {
    /// URL of an S3-compatible server; absent means AWS itself. `HONE_S3_ENDPOINT`, else `AWS_ENDPOINT_URL`.
    pub s3_endpoint: Option<String>,
    /// Region. `HONE_S3_REGION`, else `AWS_REGION`, else `AWS_DEFAULT_REGION`. Default `us-east-1`.
    pub s3_region: String,
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: Option<String>,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Option<Secret>,
    /// Token of temporary credentials. `AWS_SESSION_TOKEN`.
    pub session_token: Option<Secret>,
    /// Whether a plain `http://` endpoint is allowed. `HONE_S3_ALLOW_HTTP`; default: when the endpoint itself says http.
    pub allow_http: bool,
    /// Tries after the first. Default 3.
    pub max_retries: usize,
    /// No new try starts later than this. Default 8 s.
    pub retry_timeout: Duration,
    /// How long a connection may take to open. Default 3 s.
    pub connect_timeout: Duration,
    /// How long a store may stay silent within a transfer. Default 30 s.
    pub read_timeout: Duration,
    /// Who is told how the store answers. Default: nobody.
    pub watched: Watched,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            s3_endpoint: None,
            s3_region: "us-east-1".into(),
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            allow_http: false,
            max_retries: 3,
            retry_timeout: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(30),
            watched: Watched::default(),
        }
    }
}

impl StorageOptions {
    /// Reads the environment variables named on the fields.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// As [`Self::from_env`], with the environment as an argument.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |names: &[&str]| names.iter().find_map(|name| lookup(name).filter(|value| !value.is_empty()));
        let defaults = Self::default();
        let s3_endpoint = get(&["HONE_S3_ENDPOINT", "AWS_ENDPOINT_URL"]);
        let says_http = s3_endpoint.as_deref().is_some_and(|url| url.starts_with("http://"));
        Self {
            s3_region: get(&["HONE_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"]).unwrap_or(defaults.s3_region),
            access_key_id: get(&["AWS_ACCESS_KEY_ID"]),
            secret_access_key: get(&["AWS_SECRET_ACCESS_KEY"]).map(Secret::new),
            session_token: get(&["AWS_SESSION_TOKEN"]).map(Secret::new),
            allow_http: get(&["HONE_S3_ALLOW_HTTP"]).map_or(says_http, |value| matches!(value.as_str(), "1" | "true")),
            s3_endpoint,
            ..defaults
        }
    }

    /// What of it must not be shown to anybody.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.secret_access_key.iter().chain(&self.session_token)
    }

    pub(super) fn retry(&self) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(1), base: 2.0 };
        RetryConfig { backoff, max_retries: self.max_retries, retry_timeout: self.retry_timeout }
    }
}

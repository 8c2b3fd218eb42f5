//! Settings: flags or environment in, checked [`Options`] out. Nothing else in the server reads either.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hone_data::storage::StorageOptions;
use hone_telemetry::Collector;
use url::Url;

use crate::access::Access;
use crate::caller::Role;
use crate::metrics;
use crate::tls::Tls;
use crate::tokens::plain_name;
use crate::web::Http;

pub(crate) mod units;

/// The hone server: fine-tuning jobs over gRPC.
///
/// Object stores are reached with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, HONE_S3_ENDPOINT and HONE_S3_REGION.
#[derive(Debug, Parser)]
#[command(name = "hone-server", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// How to serve.
    #[command(flatten)]
    pub serve: Flags,
    /// Something else than to serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does beside serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token: prints it, this once, and the line to add to the file of --token-file.
    Token {
        /// Name of the token, for logs and messages.
        #[arg(value_parser = plain_name)]
        name: String,
        /// The project that it belongs to.
        #[arg(long, value_parser = plain_name)]
        project: String,
        /// What its bearer may do.
        #[arg(long, value_enum)]
        role: Role,
    },
    /// Make a preview for the server that runs this program: an order on standard input, an answer on standard output.
    #[command(hide = true)]
    Preview {
        /// Most memory to take.
        #[arg(long)]
        max_memory_bytes: u64,
    },
}

/// How to serve.
#[derive(Debug, Args)]
pub struct Flags {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, env = "HONE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,
    /// File to write `ip:port` into once the server listens.
    #[arg(long, env = "HONE_PORT_FILE", value_name = "PATH")]
    pub port_file: Option<PathBuf>,
    /// Address of the web page; port 0 takes a free one [default: there is no page].
    #[arg(long, env = "HONE_HTTP_LISTEN", value_name = "ADDR")]
    pub http_listen: Option<SocketAddr>,
    /// File to write the web page's `ip:port` into once the server listens.
    #[arg(long, env = "HONE_HTTP_PORT_FILE", value_name = "PATH", requires = "http_listen")]
    pub http_port_file: Option<PathBuf>,
    /// Address of the metrics for Prometheus, at /metrics, which asks for no token; port 0 takes a free one [default: there are
    /// none].
    #[arg(long, env = "HONE_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// File to write the metrics' `ip:port` into once the server listens.
    #[arg(long, env = "HONE_METRICS_PORT_FILE", value_name = "PATH", requires = "metrics_listen")]
    pub metrics_port_file: Option<PathBuf>,
    /// URL of a collector that takes traces and metrics of server and trainers over OTLP/gRPC
    /// [default: OTEL_EXPORTER_OTLP_ENDPOINT; without that they are sent nowhere].
    #[arg(long, env = "HONE_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Folder of the job store, logs and caches.
    #[arg(long, env = "HONE_DATA_DIR", value_name = "DIR", default_value = ".hone")]
    pub data_dir: PathBuf,
    /// Where models, datasets and checkpoints lie: file:// or s3:// [default: the folder `storage` in the data folder].
    #[arg(long, env = "HONE_STORAGE_ROOT", value_name = "URI")]
    pub storage_root: Option<String>,
    /// The trainer's program [default: `hone-trainer` beside this program, else on PATH].
    #[arg(long, env = "HONE_TRAINER", value_name = "PATH")]
    pub trainer: Option<PathBuf>,
    /// Jobs that run at once.
    #[arg(long, env = "HONE_MAX_RUNNING_JOBS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_running_jobs: u32,
    /// File of the tokens that may call, a line each; see `hone-server token`. Read again when it changes.
    #[arg(long, env = "HONE_TOKEN_FILE", value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the server's certificate, with those between it and its authority; turns TLS on.
    #[arg(long, env = "HONE_TLS_CERT", value_name = "PATH", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the key of --tls-cert.
    #[arg(long, env = "HONE_TLS_KEY", value_name = "PATH", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of the authorities that sign clients' certificates; every caller must then show one.
    #[arg(long, env = "HONE_TLS_CLIENT_CA", value_name = "PATH", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// PEM file of the authorities by which trainers check the server's certificate [default: --tls-cert itself, which
    /// does where it signed itself or holds its authority].
    #[arg(long, env = "HONE_TLS_TRAINER_CA", value_name = "PATH", requires = "tls_cert")]
    pub tls_trainer_ca: Option<PathBuf>,
    /// Name in the server's certificate, where it is not for the address that trainers dial, 127.0.0.1 as a rule.
    #[arg(long, env = "HONE_TLS_TRAINER_NAME", value_name = "NAME", requires = "tls_cert")]
    pub tls_trainer_name: Option<String>,
    /// Names of variables that trainers get of the server's environment, beside those they need as a rule.
    #[arg(long, env = "HONE_TRAINER_ENV", value_name = "NAME", value_delimiter = ',')]
    pub trainer_env: Vec<String>,
    /// Stop in good order when standard input ends: with whoever started the server and holds the other end.
    #[arg(long, env = "HONE_STOP_WITH_STDIN")]
    pub stop_with_stdin: bool,
    /// Serve other machines although nobody is asked who he is.
    #[arg(long, env = "HONE_ALLOW_UNAUTHENTICATED")]
    pub allow_unauthenticated: bool,
    /// file:// or s3:// prefixes that jobs may read beside the storage root
    /// [default: all of both when listening on loopback without tokens, none otherwise].
    #[arg(long, env = "HONE_ALLOW_URI", value_name = "PREFIX", value_delimiter = ',')]
    pub allow_uri: Vec<String>,
    /// Largest dataset that may be uploaded, such as 16GiB.
    #[arg(long, env = "HONE_MAX_DATASET_BYTES", value_name = "SIZE", default_value = "16GiB", value_parser = units::size)]
    pub max_dataset_bytes: u64,
    /// Largest model that may be uploaded.
    #[arg(long, env = "HONE_MAX_MODEL_BYTES", value_name = "SIZE", default_value = "512GiB", value_parser = units::size)]
    pub max_model_bytes: u64,
    /// Most bytes of models fetched from object stores that are kept in the data folder, such as 200GiB; those used longest ago
    /// go first, and none that an attempt uses [default: all are kept].
    #[arg(long, env = "HONE_MAX_MODEL_CACHE", value_name = "SIZE", value_parser = units::size)]
    pub max_model_cache: Option<u64>,
    /// Most memory that a preview may take; two may run at once.
    #[arg(long, env = "HONE_MAX_PREVIEW_MEMORY", value_name = "SIZE", default_value = "4GiB", value_parser = units::size)]
    pub max_preview_memory: u64,
    /// Models that may be loaded at a time to answer who waits.
    #[arg(long, env = "HONE_MAX_LOADED_MODELS", value_name = "N", default_value_t = 1)]
    pub max_loaded_models: u32,
    /// How long a model that nobody asks stays loaded.
    #[arg(long, env = "HONE_KEEP_MODEL", value_name = "TIME", default_value = "5m", value_parser = units::duration)]
    pub keep_model: Duration,
    /// Jobs that may wait.
    #[arg(long, env = "HONE_MAX_QUEUED_JOBS", value_name = "N", default_value_t = 1000)]
    pub max_queued_jobs: u32,
    /// How long a trainer may take to dial, after its start or after the server's.
    #[arg(long, env = "HONE_ATTACH_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    pub attach_timeout: Duration,
    /// How long a trainer may take to finish its step, save and leave before it is killed.
    #[arg(long, env = "HONE_STOP_GRACE", value_name = "TIME", default_value = "120s", value_parser = units::duration)]
    pub stop_grace: Duration,
    /// How long a trainer may get nothing done before it is killed and, while the job's retries last, started anew; where
    /// steps are long, 20 times their median.
    #[arg(long, env = "HONE_STALL_TIMEOUT", value_name = "TIME", default_value = "10m", value_parser = units::duration)]
    pub stall_timeout: Duration,
    /// How log lines look.
    #[arg(long, env = "HONE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Options {
    /// File to write `ip:port` into once the server listens.
    pub port_file: Option<PathBuf>,
    /// The web page; absent where there is none.
    pub http: Option<Http>,
    /// The metrics for Prometheus; absent where there are none.
    pub metrics: Option<metrics::Listen>,
    /// Who takes traces and metrics; absent where they are sent nowhere.
    pub collector: Option<Collector>,
    /// Folder of the job store, logs and caches; absolute.
    pub data_dir: PathBuf,
    /// Root URI of models, datasets and jobs.
    pub storage_root: String,
    /// How object stores are reached.
    pub storage: StorageOptions,
    /// The trainer's program.
    pub trainer: PathBuf,
    /// Which URIs jobs may read.
    pub access: Access,
    /// File of the tokens that may call; absent where nobody is asked for one.
    pub token_file: Option<PathBuf>,
    /// TLS; absent where the port speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Names of variables that trainers get of the server's environment, beside those they need as a rule.
    pub trainer_env: Vec<String>,
    /// Bounds on what is asked.
    pub limits: Limits,
    /// How long a model that nobody asks stays loaded.
    pub keep_model: Duration,
    /// How long a trainer may take to dial.
    pub attach_timeout: Duration,
    /// How long a trainer may take to finish its step, save and leave before it is killed.
    pub stop_grace: Duration,
    /// How long a trainer may get nothing done before it is killed.
    pub stall_timeout: Duration,
}

/// Bounds on what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that run at once.
    pub max_running_jobs: u32,
    /// Jobs that may wait.
    pub max_queued_jobs: u32,
    /// Largest dataset, in bytes.
    pub max_dataset_bytes: u64,
    /// Largest model, in bytes.
    pub max_model_bytes: u64,
    /// Most memory of a preview, in bytes.
    pub max_preview_memory_bytes: u64,
    /// Most bytes of models fetched from object stores that are kept; absent for all.
    pub max_model_cache_bytes: Option<u64>,
    /// Models that may be loaded at a time to answer who waits.
    pub max_loaded_models: u32,
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {what}")]
pub struct Invalid {
    setting: &'static str,
    what: String,
}

impl Flags {
    /// The settings these flags ask for.
    pub fn into_options(self, storage: StorageOptions) -> Result<Options, Invalid> {
        self.check_listen("--listen", self.listen)?;
        let http = self.http_listen.map(|listen| Http { listen, port_file: self.http_port_file.clone() });
        if let Some(http) = &http {
            self.check_listen("--http-listen", http.listen)?;
        }
        let data_dir = std::path::absolute(&self.data_dir)
            .map_err(|error| Invalid { setting: "--data-dir", what: error.to_string() })?;
        let storage_root = match self.storage_root {
            Some(root) => root_uri(&root)?,
            None => folder_uri("--data-dir", &data_dir.join("storage"))?,
        };
        let trainer = match self.trainer {
            Some(path) => runnable(&path).ok_or_else(|| Invalid {
                setting: "--trainer",
                what: format!("{} is not a program", path.display()),
            })?,
            None => find_trainer()?,
        };
        let is_private = self.listen.ip().is_loopback() && self.token_file.is_none() && self.tls_client_ca.is_none();
        let prefixes = match self.allow_uri {
            prefixes if prefixes.is_empty() && is_private => vec!["file://".into(), "s3://".into()],
            prefixes => prefixes,
        };
        let access = Access::new(&storage_root, &prefixes).map_err(|what| Invalid { setting: "--allow-uri", what })?;
        let tls = self.tls_cert.zip(self.tls_key).map(|(cert, key)| Tls {
            trainer_ca: self.tls_trainer_ca.unwrap_or_else(|| cert.clone()),
            trainer_name: self.tls_trainer_name,
            client_ca: self.tls_client_ca,
            cert,
            key,
        });
        Ok(Options {
            port_file: self.port_file,
            http,
            metrics: self
                .metrics_listen
                .map(|listen| metrics::Listen { listen, port_file: self.metrics_port_file.clone() }),
            collector: Collector::find(self.otlp_endpoint, |name| std::env::var(name).ok()),
            data_dir,
            storage_root,
            storage,
            trainer,
            access,
            token_file: self.token_file,
            tls,
            trainer_env: self.trainer_env,
            limits: Limits {
                max_running_jobs: self.max_running_jobs,
                max_queued_jobs: self.max_queued_jobs,
                max_dataset_bytes: self.max_dataset_bytes,
                max_model_bytes: self.max_model_bytes,
                max_preview_memory_bytes: self.max_preview_memory,
                max_model_cache_bytes: self.max_model_cache,
                max_loaded_models: self.max_loaded_models,
            },
            keep_model: self.keep_model,
            attach_timeout: self.attach_timeout,
            stop_grace: self.stop_grace,
            stall_timeout: self.stall_timeout,
        })
    }

    /// A port that others reach asks who they are, unless its owner says that it need not.
    fn check_listen(&self, setting: &'static str, listen: SocketAddr) -> Result<(), Invalid> {
        let asks = self.token_file.is_some() || self.tls_client_ca.is_some();
        let is_safe = listen.ip().is_loopback() || asks || self.allow_unauthenticated;
        let what = || {
            format!(
                "{listen} is reached from other machines, and nobody would be asked who he is; give --token-file or --tls-client-ca, or \
                 say --allow-unauthenticated when something before this server asks"
            )
        };
        is_safe.then_some(()).ok_or_else(|| Invalid { setting, what: what() })
    }
}

/// The address at which a trainer on this machine reaches a server that listens on `address`.
pub(crate) fn dialled(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A root as a URI; a plain path is a folder of this machine.
fn root_uri(root: &str) -> Result<String, Invalid> {
    let setting = "--storage-root";
    if !root.contains("://") {
        let path = std::path::absolute(root).map_err(|error| Invalid { setting, what: error.to_string() })?;
        return folder_uri(setting, &path);
    }
    if !["file://", "s3://"].iter().any(|scheme| root.starts_with(scheme)) {
        return Err(Invalid { setting, what: format!("{root} is no file:// or s3:// URI") });
    }
    Ok(root.trim_end_matches('/').to_string())
}

fn folder_uri(setting: &'static str, path: &Path) -> Result<String, Invalid> {
    let url = Url::from_file_path(path);
    let url = url.map_err(|()| Invalid { setting, what: format!("{} is no usable path", path.display()) })?;
    Ok(url.as_str().trim_end_matches('/').to_string())
}

fn find_trainer() -> Result<PathBuf, Invalid> {
    const NAME: &str = "hone-trainer";
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
    let on_path = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).map(|folder| folder.join(NAME)).collect::<Vec<_>>())
        .unwrap_or_default();
    let candidates = beside.iter().chain(&on_path);
    candidates.filter_map(|path| runnable(path)).next().ok_or_else(|| {
        let folder = beside.as_deref().and_then(Path::parent).map(|folder| folder.display().to_string());
        let what = format!(
            "there is no {NAME} in {} nor on PATH; build it, or name it with --trainer",
            folder.unwrap_or_else(|| "the folder of this program".into())
        );
        Invalid { setting: "trainer", what }
    })
}

/// The absolute path of a program, if it is one.
fn runnable(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path).ok()?;
    (found.is_file() && found.permissions().mode() & 0o111 != 0).then(|| std::path::absolute(path).ok()).flatten()
}

#[cfg(test)]
mod tests;

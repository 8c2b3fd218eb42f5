//! Settings: flags or environment in, checked [`Options`] out. Nothing else in the server reads either.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use hone_data::storage::StorageOptions;
use url::Url;

use crate::access::Access;

/// The hone server: fine-tuning jobs over gRPC.
///
/// Object stores are reached with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, HONE_S3_ENDPOINT and HONE_S3_REGION.
#[derive(Debug, Parser)]
#[command(name = "hone-server", version)]
pub struct Flags {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, env = "HONE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,
    /// File to write `ip:port` into once the server listens.
    #[arg(long, env = "HONE_PORT_FILE", value_name = "PATH")]
    pub port_file: Option<PathBuf>,
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
    /// file:// or s3:// prefixes that jobs may read beside the storage root
    /// [default: all of both when listening on loopback, none otherwise].
    #[arg(long, env = "HONE_ALLOW_URI", value_name = "PREFIX", value_delimiter = ',')]
    pub allow_uri: Vec<String>,
    /// Largest dataset that may be uploaded, such as 16GiB.
    #[arg(long, env = "HONE_MAX_DATASET_BYTES", value_name = "SIZE", default_value = "16GiB", value_parser = size)]
    pub max_dataset_bytes: u64,
    /// Largest model that may be uploaded.
    #[arg(long, env = "HONE_MAX_MODEL_BYTES", value_name = "SIZE", default_value = "512GiB", value_parser = size)]
    pub max_model_bytes: u64,
    /// Jobs that may wait.
    #[arg(long, env = "HONE_MAX_QUEUED_JOBS", value_name = "N", default_value_t = 1000)]
    pub max_queued_jobs: u32,
    /// How long a trainer may take to dial, after its start or after the server's.
    #[arg(long, env = "HONE_ATTACH_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub attach_timeout: Duration,
    /// How long a trainer may take to finish its step, save and leave before it is killed.
    #[arg(long, env = "HONE_STOP_GRACE", value_name = "TIME", default_value = "120s", value_parser = duration)]
    pub stop_grace: Duration,
    /// How long a trainer may get nothing done before it is killed and, while the job's retries last, started anew; where
    /// steps are long, 20 times their median.
    #[arg(long, env = "HONE_STALL_TIMEOUT", value_name = "TIME", default_value = "10m", value_parser = duration)]
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
    /// Bounds on what is asked.
    pub limits: Limits,
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
        let prefixes = match self.allow_uri {
            prefixes if prefixes.is_empty() && self.listen.ip().is_loopback() => vec!["file://".into(), "s3://".into()],
            prefixes => prefixes,
        };
        let access = Access::new(&storage_root, &prefixes).map_err(|what| Invalid { setting: "--allow-uri", what })?;
        Ok(Options {
            port_file: self.port_file,
            data_dir,
            storage_root,
            storage,
            trainer,
            access,
            limits: Limits {
                max_running_jobs: self.max_running_jobs,
                max_queued_jobs: self.max_queued_jobs,
                max_dataset_bytes: self.max_dataset_bytes,
                max_model_bytes: self.max_model_bytes,
            },
            attach_timeout: self.attach_timeout,
            stop_grace: self.stop_grace,
            stall_timeout: self.stall_timeout,
        })
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

/// A duration as `500ms`, `30s`, `2m` or `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let expected = || format!("{text:?} is no duration; write 500ms, 30s, 2m or 1h");
    let number: u64 = number.parse().map_err(|_| expected())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(expected)
}

/// A size as a number of bytes, or with KiB, MiB, GiB or TiB behind it.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let expected = || format!("{text:?} is no size; write bytes, or 64MiB, 16GiB, 1TiB");
    let number: u64 = number.parse().map_err(|_| expected())?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(expected()),
    };
    number.checked_mul(1 << shift).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("10"), Ok(10));
        for bad in ["", "s", "-1s", "1 fortnight", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "1XB", "99999999TiB"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_trainer_reaches_a_server_that_listens_everywhere_over_loopback() {
        for (listens, expected) in [("0.0.0.0:7", "127.0.0.1:7"), ("[::]:7", "[::1]:7"), ("10.0.0.1:7", "10.0.0.1:7")] {
            assert_eq!(dialled(listens.parse().unwrap()).to_string(), expected);
        }
    }

    fn options(args: &[&str]) -> Options {
        let program = std::env::current_exe().unwrap();
        let args = ["hone-server", "--trainer", program.to_str().unwrap()].into_iter().chain(args.iter().copied());
        Flags::try_parse_from(args).unwrap().into_options(StorageOptions::default()).unwrap()
    }

    #[test]
    fn everything_may_be_read_on_loopback_and_only_the_root_otherwise() {
        let home = options(&["--data-dir", "/data"]);
        assert_eq!(home.storage_root, "file:///data/storage");
        assert!(home.access.allows("s3://bucket/a"));
        let open = options(&["--data-dir", "/data", "--listen", "0.0.0.0:0"]);
        assert!(!open.access.allows("s3://bucket/a"));
        assert!(open.access.allows("file:///data/storage/models/a"));
        let some = options(&["--listen", "0.0.0.0:0", "--allow-uri", "s3://bucket/rows", "--allow-uri", "s3://other"]);
        assert!(some.access.allows("s3://bucket/rows/a.jsonl") && some.access.allows("s3://other/x"));
        assert!(!some.access.allows("s3://bucket/secret"));
    }

    #[test]
    fn a_missing_trainer_is_named() {
        let flags = Flags::try_parse_from(["hone-server", "--trainer", "/no/such/trainer"]).unwrap();
        let error = flags.into_options(StorageOptions::default()).unwrap_err().to_string();
        assert_eq!(error, "--trainer: /no/such/trainer is not a program");
    }
}

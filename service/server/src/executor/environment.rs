//! The environment of a trainer: what it needs to compute and to reach storage, and nothing else that the server was
//! started with. The key of the server's certificate, the file of tokens and whatever else lies in the environment of the
//! machine stay out of it.

use std::ffi::OsString;

use tokio::process::Command;

/// Variables that every trainer gets.
const NAMES: [&str; 19] = [
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HONE_DEVICE",
    "HONE_LOG_FORMAT",
    "LC_ALL",
];

/// Beginnings of variables that every trainer gets: libraries that compute, the object store, and the collector.
const PREFIXES: [&str; 16] = [
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "CUBLAS_",
    "CUDNN_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "TORCH_",
    "PYTORCH_",
    "RAYON_",
    "TOKENIZERS_",
    "AWS_",
    "HONE_S3_",
    "OTEL_",
];

/// Leaves a command only the variables that a trainer may have, and those that are named here.
pub(crate) fn clean(command: &mut Command, also: &[String]) {
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| is_handed_on(name, also)));
}

fn is_handed_on(name: &OsString, also: &[String]) -> bool {
    name.to_str().is_some_and(|name| {
        // Trainers have a name of their own.
        name != "OTEL_SERVICE_NAME"
            && (NAMES.contains(&name)
                || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || also.iter().any(|other| other == name))
    })
}

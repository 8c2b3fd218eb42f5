//! The control plane of hone: gRPC calls in; recorded jobs, running trainers and streams of events out.
//!
//! [`run`] puts the parts together. A call comes in through `api`, which translates and delegates. [`jobs`] keeps every
//! change in the [`store`] before anybody sees it; [`record`] decides what a change does. [`scheduler`] starts waiting
//! jobs through an [`executor`], [`supervisor`] stays with each attempt until its end, and `api::trainer` is where the
//! trainer dials in. [`attempts`] is where these meet. Nothing here computes: a trainer is a process of its own, and
//! LibTorch is never linked.

use std::fs::{File, TryLockError};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{self, BoxFuture};
use futures::{FutureExt, TryFutureExt, TryStreamExt};
use hone_data::storage::{self, StorageOptions, Watched};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpIncoming;

use crate::api::Gate;
use crate::attempts::Attempts;
use crate::config::{Options, dialled};
use crate::corked::Corked;
use crate::executor::Executor;
use crate::executor::local::{Dial, Local};
use crate::jobs::Jobs;
use crate::layout::Layout;
use crate::logs::Logs;
use crate::metrics::{Outlets, Standing};
use crate::scheduler::Scheduler;
use crate::store::Store;
use crate::store::sqlite::{OpenError, Sqlite};
use crate::supervisor::{Patience, Supervisor};
use crate::tls::Acceptor;
use crate::tokens::Tokens;

pub mod access;
mod answering;
mod api;
pub mod attempts;
pub mod caller;
mod changes;
mod checkpoints;
pub mod config;
mod corked;
mod doctor;
pub mod executor;
pub mod jobs;
mod layout;
mod logs;
pub mod metrics;
mod place;
pub mod record;
pub mod scheduler;
pub mod store;
pub mod supervisor;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod tokens;
mod uploads;
pub mod web;

#[doc(hidden)]
pub use api::fuzzing;
pub use api::preview::answer as answer_preview;

/// Name and version that telemetry goes under.
const SERVICE: &str = "hone-server";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the last of telemetry may take to be sent.
const LAST_TELEMETRY: Duration = Duration::from_secs(2);

/// How long open calls may take to end once the server stops.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener has no address.
    #[error("cannot tell the address listened on: {0}")]
    Address(std::io::Error),
    /// The data folder cannot be used.
    #[error("{}: cannot use the data folder: {source}", path.display())]
    DataDir {
        /// The folder or the file in it.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another server works on the data folder.
    #[error("{}: another hone-server uses this data folder; stop it, or name another folder with --data-dir", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The storage root cannot be used.
    #[error("the storage root cannot be used: {0}")]
    Storage(#[from] storage::Error),
    /// The file of tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] tokens::Error),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The job store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The job store failed at start.
    #[error(transparent)]
    Recovery(#[from] store::Error),
    /// The web page cannot be served.
    #[error("--http-listen {address}: the web page cannot be served: {source}")]
    Page {
        /// Its address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The metrics cannot be served.
    #[error("--metrics-listen {address}: the metrics cannot be served: {source}")]
    MetricsPage {
        /// Their address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The metrics cannot be set up.
    #[error("the metrics cannot be set up: {0}")]
    Metrics(String),
    /// What sends telemetry cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] hone_telemetry::Error),
    /// Reflection cannot be set up.
    #[error("reflection cannot be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Serving ended.
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Serves until `shutdown` ends and the trainers have saved and left.
pub async fn run(listener: TcpListener, options: Options, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let address = listener.local_addr().map_err(Error::Address)?;
    let _lock = lock(&options.data_dir)?;
    let store = Arc::new(Sqlite::open(&options.data_dir.join("hone.db"))?);
    let dial = Dial { server: dialled(address), tls: options.tls.clone() };
    let executor = Arc::new(Local::new(&options, dial));
    let parts = Parts { store, executor, clock: Arc::new(chrono::Utc::now) };
    serve(listener, options, parts, shutdown).await
}

/// What the server is put together from, beside its options.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) clock: jobs::Clock,
}

pub(crate) async fn serve(
    listener: TcpListener,
    options: Options,
    parts: Parts,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let address = listener.local_addr().map_err(Error::Address)?;
    let outlets = Arc::new(Outlets::open(options.metrics.is_some(), options.collector.as_ref())?);
    let metrics = outlets.metrics();
    let watched = Watched::by(metrics.clone());
    let layout = Layout::open(&options.storage_root, &StorageOptions { watched, ..options.storage.clone() })?;
    layout.probe().await?;
    // `stopping`: no new work, watchers are sent away. `stopped`: the trainers are gone, so their door may close.
    let (stopping, stopped) = (CancellationToken::new(), CancellationToken::new());
    let tokens = tokens(&options, address, &stopping)?;
    let jobs = Arc::new(Jobs::new(parts.store.clone(), parts.clock, metrics.clone()));
    let attempts = Arc::new(Attempts::default());
    outlets.look_at(&attempts);
    let patience = Patience {
        attach_timeout: options.attach_timeout,
        stop_grace: options.stop_grace,
        stall_timeout: options.stall_timeout,
    };
    let trainers = TaskTracker::new();
    let scheduler = Scheduler {
        jobs: jobs.clone(),
        attempts: attempts.clone(),
        executor: parts.executor,
        supervisor: Supervisor { jobs: jobs.clone(), patience },
        max_running_jobs: options.limits.max_running_jobs,
        tasks: trainers.clone(),
        stopping: stopping.clone(),
    };
    let logs = Logs::new(&options.data_dir);
    remove_what_jobs_left(&logs, &jobs).await?;
    scheduler.adopt().await?;
    trainers.spawn(scheduler.run());

    let tls = acceptor(&options, tls::OF_GRPC, &stopping)?;
    let standing = Standing { jobs: jobs.clone(), metrics: metrics.clone() };
    if options.collector.is_some() {
        tokio::spawn(standing.clone().keep_looking(stopping.clone()));
    }
    let nothing = || Box::pin(stopped.clone().cancelled_owned().map(Ok));
    let figures: BoxFuture<'_, _> = match &options.metrics {
        Some(at) => {
            let page = metrics::Page::open(at, outlets.registry(), standing).await?;
            Box::pin(page.serve(stopped.clone()))
        }
        None => nothing(),
    };
    let needs_certificate = options.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let options = Arc::new(options);
    let shared = api::Shared {
        jobs,
        attempts: attempts.clone(),
        store: parts.store,
        layout,
        logs,
        metrics,
        gate: Gate::new(tokens, needs_certificate),
        options: options.clone(),
        stopping: stopping.clone(),
        stopped: stopped.clone(),
        tasks: TaskTracker::new(),
    };
    let (router, inside, health) = api::router(&shared).await?;
    let page: BoxFuture<'_, _> = match &options.http {
        Some(http) => {
            let tls = acceptor(&options, tls::OF_BROWSERS, &stopping)?;
            let page = web::Page::open(http, inside, shared.gate.asks(), tls).await?;
            Box::pin(page.serve(stopped.clone()))
        }
        None => nothing(),
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let closed = stopped.clone().cancelled_owned();
    let calls: BoxFuture<'_, _> = match tls {
        Some(tls) => Box::pin(router.serve_with_incoming_shutdown(tls.over(incoming).map_ok(Corked::new), closed)),
        None => Box::pin(router.serve_with_incoming_shutdown(incoming.map_ok(Corked::new), closed)),
    };
    let calls = calls.map_err(Error::from).boxed();
    announce(address, &options)?;

    let stop = async {
        shutdown.await;
        health.stop().await;
        stopping.cancel();
        attempts.stop_all();
        trainers.close();
        trainers.wait().await;
        stopped.cancel();
    };
    serve_until(stop, [calls, page, figures]).await?;
    shared.tasks.close();
    let _ = tokio::time::timeout(LAST_CALLS, shared.tasks.wait()).await;
    within(LAST_TELEMETRY, move || outlets.end()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Keeps the doors open until `stop` has ended, then lets the calls end that are open. A door that closes by itself ends the
/// server.
async fn serve_until<const N: usize>(
    stop: impl Future<Output = ()>,
    mut doors: [BoxFuture<'_, Result<(), Error>>; N],
) -> Result<(), Error> {
    tokio::select! {
        (closed, ..) = future::select_all(&mut doors) => return closed,
        () = stop => {}
    }
    // A client that does not let go of its connection does not keep the server alive.
    match tokio::time::timeout(LAST_CALLS, future::join_all(doors)).await {
        Ok(ended) => ended.into_iter().collect(),
        Err(_) => Ok(()),
    }
}

/// Does what blocks, and waits for it no longer than `patience`. Its thread is none of tokio's, for which the process would
/// wait when it leaves.
async fn within(patience: Duration, work: impl FnOnce() + Send + 'static) {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        work();
        let _ = ended.send(());
    });
    let _ = tokio::time::timeout(patience, end).await;
}

/// The tokens that calls need, where there is a file of them, which is read again until the server stops.
fn tokens(options: &Options, address: SocketAddr, stopping: &CancellationToken) -> Result<Option<Arc<Tokens>>, Error> {
    let Some(file) = &options.token_file else { return Ok(None) };
    let tokens = Arc::new(Tokens::open(file)?);
    tracing::info!(tokens = tokens.count(), "calls need a token");
    let page = options.http.as_ref().is_some_and(|http| !http.listen.ip().is_loopback());
    if options.tls.is_none() && (page || !address.ip().is_loopback()) {
        tracing::warn!("tokens come over connections that are not encrypted; set --tls-cert and --tls-key");
    }
    let looking = tokens.clone();
    tokio::spawn(changes::keep_looking("the tokens", move || looking.look_again(), stopping.clone()));
    Ok(Some(tokens))
}

/// What makes handshakes with the files of TLS, which are read again until the server stops.
fn acceptor(
    options: &Options,
    protocols: tls::Protocols,
    stopping: &CancellationToken,
) -> Result<Option<Arc<Acceptor>>, Error> {
    let Some(tls) = &options.tls else { return Ok(None) };
    let tls = Arc::new(Acceptor::open(tls, protocols)?);
    let looking = tls.clone();
    tokio::spawn(changes::keep_looking("the files of TLS", move || looking.look_again(), stopping.clone()));
    Ok(Some(tls))
}

/// Removes the logs of jobs that are not there any more: an earlier server was cut between a job and its logs.
async fn remove_what_jobs_left(logs: &Logs, jobs: &Jobs) -> Result<(), Error> {
    for job_id in logs.job_ids() {
        match jobs.get(&job_id).await {
            Ok(_) => {}
            Err(store::Error::NotFound { .. }) => logs.remove(&job_id),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Takes the data folder for this process; the lock ends with it.
fn lock(data_dir: &Path) -> Result<File, Error> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::DataDir { path, source }
    };
    std::fs::create_dir_all(data_dir).map_err(failed(data_dir))?;
    let path = data_dir.join("hone.lock");
    let file = File::create(&path).map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: data_dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(failed(&path)(source)),
    }
}

/// Tells where the server is: in the log, and in a file.
fn announce(address: SocketAddr, options: &Options) -> Result<(), Error> {
    // What a pod's grace period must be longer than: trainers save and leave, then calls and tasks end.
    let leaves_within_seconds = (options.stop_grace + 2 * LAST_CALLS).as_secs();
    let (storage_root, data_dir) = (&options.storage_root, options.data_dir.display());
    tracing::info!(%address, storage_root, %data_dir, leaves_within_seconds, "listening");
    let Some(path) = &options.port_file else { return Ok(()) };
    write_address(path, address)
}

/// Writes an address into a file, which is whole whenever it is there.
fn write_address(path: &Path, address: SocketAddr) -> Result<(), Error> {
    let failed = |source| Error::DataDir { path: path.to_path_buf(), source };
    let mut partial = path.to_path_buf().into_os_string();
    partial.push(".partial");
    std::fs::write(&partial, format!("{address}\n")).map_err(failed)?;
    std::fs::rename(&partial, path).map_err(failed)
}

//! The gRPC surface: each call is translated, delegated and answered. Proto types stop here.

use std::sync::Arc;

use hone_data::cache::Cache;
use hone_proto::trainer::v1::trainer_service_server::TrainerServiceServer;
use hone_proto::v1::dataset_service_server::DatasetServiceServer;
use hone_proto::v1::generation_service_server::GenerationServiceServer;
use hone_proto::v1::job_service_server::JobServiceServer;
use hone_proto::v1::model_service_server::ModelServiceServer;
use hone_proto::v1::system_service_server::SystemServiceServer;
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};
use tower::util::MapRequestLayer;

use self::measured::Measured;
use self::preview::Previewer;
use crate::answering::Answerers;
use crate::attempts::Attempts;
use crate::checkpoints::Checkpoints;
use crate::config::Options;
use crate::jobs::Jobs;
use crate::layout::Layout;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::uploads::{Unfinished, Uploads};
use crate::{Error, doctor};

mod convert;
mod datasets;
mod download;
pub mod fuzzing;
mod gate;
mod generation;
mod inputs;
pub(crate) mod inside;
mod intact;
mod jobs;
mod measured;
mod models;
mod page;
pub(crate) mod preview;
mod receive;
mod report;
mod status;
mod system;
mod tensorboard;
#[cfg(test)]
mod tests;
mod traced;
mod trainer;
mod watch;

pub(crate) use gate::Gate;
pub(crate) use inside::Inside;

/// Largest message taken or sent, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Largest piece of a file in one message, in bytes.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Calls of one connection at a time.
const MAX_CONCURRENT_STREAMS: u32 = 1024;

/// Bytes that a stream and a connection may have on their way to the server, unread: over a way of 100 ms a stream carries
/// up to 20 MiB a second, and four of an upload in parts all of theirs. It is also what a connection can make the server hold.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Uploads at a time; each holds some parts in memory.
const MAX_UPLOADS: usize = 32;

/// What the services work with.
pub(crate) struct Shared {
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) layout: Layout,
    pub(crate) logs: Logs,
    pub(crate) metrics: Metrics,
    pub(crate) gate: Gate,
    pub(crate) options: Arc<Options>,
    pub(crate) stopping: CancellationToken,
    pub(crate) stopped: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// The router, whose calls are measured, pass the gate and are watched on their way in.
pub(crate) type Watched = Router<Stack<MapRequestLayer<intact::Watch>, Stack<Gate, Stack<Measured, Identity>>>>;

/// All services for those outside and for those inside, and the control of their health.
pub(crate) async fn router(shared: &Shared) -> Result<(Watched, Inside, Health), Error> {
    let Shared { jobs, attempts, store, layout, logs, metrics, gate, options, stopping, stopped, tasks } = shared;
    let inputs = inputs::Inputs::new(store.clone(), layout.clone(), options.access.clone());
    let unfinished = swept(shared).await?;
    let uploads = Uploads::new(store.clone(), layout.clone(), unfinished, MAX_UPLOADS, tasks.clone());
    let reports = report::Reports::new(jobs.clone(), layout.clone());
    let job_service = JobServiceServer::new(jobs::JobApi {
        reports: reports.clone(),
        jobs: jobs.clone(),
        attempts: attempts.clone(),
        watches: watch::Watches::new(jobs.clone(), metrics.clone(), stopping.clone()),
        checkpoints: Checkpoints::new(layout.clone()),
        logs: logs.clone(),
        inputs: inputs.clone(),
        max_queued_jobs: options.limits.max_queued_jobs,
        stopping: stopping.clone(),
    });
    let dataset_service = DatasetServiceServer::new(datasets::DatasetApi {
        uploads: uploads.clone(),
        inputs: inputs.clone(),
        previewer: Previewer::new(
            Cache::new(options.data_dir.join("cache"), options.limits.max_model_cache_bytes),
            options.limits.max_preview_memory_bytes,
            options.trainer_env.clone(),
        ),
        max_bytes: options.limits.max_dataset_bytes,
    });
    let model_service =
        ModelServiceServer::new(models::ModelApi { uploads, max_bytes: options.limits.max_model_bytes });
    let system_service = SystemServiceServer::new(system::SystemApi {
        limits: options.limits,
        storage_root: layout.root_uri().to_string(),
        trainer: doctor::start(&options.trainer, &options.trainer_env, stopping.clone()),
    });
    let generation_service = GenerationServiceServer::new(generation::GenerationApi {
        answerers: Answerers::new(options, stopping.clone(), tasks.clone()),
        inputs: inputs.clone(),
        stopping: stopping.clone(),
    });
    let trainer_service = TrainerServiceServer::new(trainer::TrainerApi {
        jobs: jobs.clone(),
        attempts: attempts.clone(),
        inputs,
        layout: layout.clone(),
        reports,
        stop_grace: options.stop_grace,
        stopped: stopped.clone(),
        tasks: tasks.clone(),
    });
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health { reporter };
    health.set(ServingStatus::Serving).await;
    let routes = Routes::new(health_service)
        .add_service(reflection()?.build_v1()?)
        .add_service(reflection()?.build_v1alpha()?)
        .add_service(bounded!(job_service))
        .add_service(bounded!(dataset_service))
        .add_service(bounded!(model_service))
        .add_service(bounded!(generation_service))
        .add_service(bounded!(system_service))
        .add_service(bounded!(trainer_service));
    let inside = Inside::new(gate, routes.clone());
    let router = Server::builder()
        .layer(Measured(metrics.clone()))
        .layer(gate.clone())
        .layer(MapRequestLayer::new(intact::watched as intact::Watch))
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(std::time::Duration::from_secs(20)))
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_routes(routes);
    Ok((router, inside, health))
}

/// The notes of uploads, once what an earlier server left unfinished is removed.
async fn swept(shared: &Shared) -> Result<Unfinished, Error> {
    let path = shared.options.data_dir.join("uploads");
    let failed = |source| Error::DataDir { path: path.clone(), source };
    let unfinished = Unfinished::open(path.clone()).map_err(failed)?;
    unfinished.sweep(&*shared.store, &shared.layout).await.map_err(failed)?;
    Ok(unfinished)
}

/// A service that takes and sends no larger messages than the limit. Each service is a type of its own, without a trait
/// in common.
macro_rules! bounded {
    ($service:expr) => {
        $service.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(4 * MAX_MESSAGE_BYTES)
    };
}
use bounded;

/// Reflection over the public API and the messages of error details, so that grpcurl prints both. What trainers and
/// server say to each other is nobody else's business.
fn reflection() -> Result<tonic_reflection::server::Builder<'static>, Error> {
    let decode = |bytes: &[u8]| {
        FileDescriptorSet::decode(bytes)
            .map_err(|error| Error::Reflection(tonic_reflection::server::Error::from(error)))
    };
    let mut own = decode(hone_proto::FILE_DESCRIPTOR_SET)?;
    own.file.retain(|file| file.package() != "hone.trainer.v1");
    Ok(tonic_reflection::server::Builder::configure()
        .register_file_descriptor_set(own)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET))
}

/// The health that others see.
pub(crate) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// From now on nothing new is wanted here.
    pub(crate) async fn stop(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        let names = [
            "",
            JobServiceServer::<jobs::JobApi>::NAME,
            DatasetServiceServer::<datasets::DatasetApi>::NAME,
            ModelServiceServer::<models::ModelApi>::NAME,
            GenerationServiceServer::<generation::GenerationApi>::NAME,
            SystemServiceServer::<system::SystemApi>::NAME,
            TrainerServiceServer::<trainer::TrainerApi>::NAME,
        ];
        for name in names {
            self.reporter.set_service_status(name, status).await;
        }
    }
}

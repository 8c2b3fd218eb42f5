//! Keeps one connection to the server alive: hello, send what is not acknowledged, hear what is asked, dial again.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use hone_job::spec::JobSpec;
use hone_proto::trainer::v1 as pb;
use pb::attach_request::Message as Say;
use pb::attach_response::Message as Hear;
use pb::trainer_service_client::TrainerServiceClient;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status, Streaming};

use super::queue::Queue;
use super::{Command, Error, Options, Welcome};
use crate::pulse;

/// Messages on their way at once; the rest waits in the queue.
const IN_FLIGHT: usize = 64;
/// A server that is there opens a connection in this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is asked for life this often, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Dials and keeps the connection.
pub(super) struct Connection {
    options: Options,
    queue: Arc<Queue>,
    stream: Option<Stream>,
}

/// An attached stream.
struct Stream {
    outbound: mpsc::Sender<pb::AttachRequest>,
    inbound: Streaming<pb::AttachResponse>,
    /// Reports up to here are sent, or known to the server.
    sent: u64,
}

/// Why a stream ended.
#[derive(Debug)]
enum Broken {
    /// Another try may work.
    ForNow(String),
    /// No try will.
    ForGood(String),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Broken {
        let what = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            // The server knows us and says no: another job's secret, an older attempt, a job that is over, another protocol.
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => Broken::ForGood(what),
            _ => Broken::ForNow(what),
        }
    }
}

impl Connection {
    /// The first connection, with the work.
    pub(super) async fn open(options: Options, queue: Arc<Queue>) -> Result<(Connection, Welcome), Error> {
        endpoint(&options)?;
        let mut connection = Connection { options, queue, stream: None };
        let start = Instant::now();
        let mut tries = 0;
        loop {
            let last = match connection.dial().await {
                Ok(welcome) => return Ok((connection, welcome)),
                Err(Broken::ForGood(reason)) => return Err(connection.refused(reason)),
                Err(Broken::ForNow(last)) => last,
            };
            let delay = connection.delay(tries);
            let waited = start.elapsed();
            if waited + delay > connection.options.attach_within {
                return Err(Error::Unreachable { server: connection.options.server, waited, last });
            }
            tracing::debug!(%last, ?delay, "cannot attach yet");
            tokio::time::sleep(delay).await;
            tries += 1;
        }
    }

    /// Runs until the last report is acknowledged, or the server refuses for good.
    pub(super) async fn keep(mut self) {
        let queue = self.queue.clone();
        // A thread that waits for acknowledgements must hear of it should this task die.
        let outcome = AssertUnwindSafe(self.keep_going()).catch_unwind().await;
        let lost = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => self.refused("the task that keeps the connection died".into()),
        };
        tracing::error!(error = %lost, "nobody will hear of this attempt again: the work is saved, then the trainer leaves");
        queue.lose(lost);
    }

    async fn keep_going(&mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let broken = match self.stream.take() {
                Some(stream) => match self.exchange(stream).await {
                    Ok(()) => return Ok(()),
                    Err(broken) => broken,
                },
                None => match self.dial().await {
                    Ok(_) => {
                        tracing::info!(server = %self.options.server, "attached again");
                        tries = 0;
                        continue;
                    }
                    Err(broken) => broken,
                },
            };
            match broken {
                Broken::ForGood(reason) => return Err(self.refused(reason)),
                Broken::ForNow(what) => {
                    let delay = self.delay(tries);
                    tracing::warn!(%what, ?delay, "the server is away; training goes on");
                    tokio::time::sleep(delay).await;
                    tries += 1;
                }
            }
        }
    }

    /// Says hello and takes the answer. Reports that the server turns out to have are forgotten.
    async fn dial(&mut self) -> Result<Welcome, Broken> {
        let (outbound, requests) = mpsc::channel(IN_FLIGHT);
        let hello = pb::Hello {
            protocol_version: pb::PROTOCOL_VERSION,
            job_id: self.options.job_id.clone(),
            attempt: self.options.attempt,
            secret: self.options.secret.expose().to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
        };
        let said = outbound.try_send(request(Say::Hello(hello)));
        said.map_err(|_| Broken::ForNow("the stream closed before it opened".into()))?;
        // Made anew for every try: the authorities may have changed with the server's certificate.
        let endpoint = endpoint(&self.options).map_err(|error| Broken::ForNow(error.to_string()))?;
        let answer = timeout(self.options.welcome_within, async move {
            let channel = endpoint.connect().await.map_err(|error| Broken::ForNow(innermost(&error)))?;
            let mut inbound = client(channel).attach(ReceiverStream::new(requests)).await?.into_inner();
            let first = inbound.message().await?;
            Ok::<_, Broken>((inbound, first))
        });
        let waited = self.options.welcome_within;
        let (inbound, first) = answer.await.map_err(|_| Broken::ForNow(format!("no answer within {waited:?}")))??;
        let welcome = match first.and_then(|response| response.message) {
            Some(Hear::Welcome(welcome)) => welcome,
            _ => return Err(Broken::ForNow("the stream ended before a welcome".into())),
        };
        let sent = welcome.last_number;
        let welcome = self.understand(welcome)?;
        self.queue.welcome(sent).map_err(|mismatch| Broken::ForGood(mismatch.to_string()))?;
        self.stream = Some(Stream { outbound, inbound, sent });
        Ok(welcome)
    }

    fn understand(&self, welcome: pb::Welcome) -> Result<Welcome, Broken> {
        let spec: JobSpec = serde_json::from_str(&welcome.spec_json)
            .map_err(|error| Broken::ForGood(format!("its spec cannot be read: {error}")))?;
        Ok(Welcome {
            job_id: self.options.job_id.clone(),
            attempt: self.options.attempt,
            spec,
            job_uri: welcome.job_uri,
            resume_from: Some(welcome.resume_from).filter(|uri| !uri.is_empty()),
            reference_uri: welcome.reference_uri,
            traceparent: welcome.traceparent,
        })
    }

    /// Sends reports and hears answers until the last report is acknowledged.
    async fn exchange(&self, mut stream: Stream) -> Result<(), Broken> {
        let mut heartbeat = interval(self.options.heartbeat_every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.queue.is_finished() {
            // Answers are heard while a full stream makes reports wait; otherwise the two sides could wait for each other.
            tokio::select! {
                answer = stream.inbound.message() => match answer?.map(|response| response.message) {
                    Some(message) => self.hear(message),
                    None => return Err(Broken::ForNow("the server closed the stream".into())),
                },
                permit = stream.outbound.reserve(), if self.queue.has_after(stream.sent) => {
                    let permit = permit.map_err(|_| Broken::ForNow("the connection broke".into()))?;
                    if let Some(report) = self.queue.after(stream.sent) {
                        stream.sent = report.number;
                        permit.send(request(Say::Report(report)));
                    }
                }
                _ = heartbeat.tick() => {
                    // When the stream is full, what fills it is sign enough of life.
                    let (step, reports) = self.queue.progress();
                    let beat = pb::Heartbeat { step, progress: reports + pulse::count() };
                    let _ = stream.outbound.try_send(request(Say::Heartbeat(beat)));
                }
                () = self.queue.changed() => {}
            }
        }
        Ok(())
    }

    fn hear(&self, message: Option<Hear>) {
        match message {
            Some(Hear::Acknowledged(acknowledged)) => self.queue.acknowledge(acknowledged.number),
            Some(Hear::Control(control)) => match control.command() {
                pb::Command::Cancel => self.queue.request(Command::Cancel),
                pb::Command::Stop => self.queue.request(Command::Stop),
                pb::Command::Checkpoint => self.queue.request(Command::Checkpoint),
                pb::Command::Unspecified => tracing::warn!(command = control.command, "an unknown command is ignored"),
            },
            Some(Hear::Welcome(_)) | None => tracing::warn!("a message out of place is ignored"),
        }
    }

    /// Half fixed, half chance, so that trainers that lost the same server do not come back in step.
    fn delay(&self, tries: u32) -> Duration {
        let grown = self.options.first_delay.saturating_mul(1 << tries.min(16)).min(self.options.longest_delay);
        grown.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    fn refused(&self, reason: String) -> Error {
        Error::Refused { server: self.options.server.clone(), reason }
    }
}

fn endpoint(options: &Options) -> Result<Endpoint, Error> {
    let url = &options.server;
    let unusable = |what: String| Error::Url { url: url.clone(), what };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|error| unusable(innermost(&error)))?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("http") => endpoint,
        Some("https") => endpoint.tls_config(tls(options)?).map_err(|error| unusable(innermost(&error)))?,
        _ => return Err(unusable("it starts with neither http:// nor https://".into())),
    };
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// What the server's certificate is compared with. The trainer shows none: it proves itself with the attempt's secret.
fn tls(options: &Options) -> Result<ClientTlsConfig, Error> {
    let unreadable = |path: &Path, error: std::io::Error| Error::Url {
        url: options.server.clone(),
        what: format!("cannot read the authorities in {}: {error}", path.display()),
    };
    let mut tls = match &options.server_ca {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|error| unreadable(path, error))?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let Some(name) = &options.server_name {
        tls = tls.domain_name(name);
    }
    Ok(tls)
}

/// Effective specs may hold a chat template of some size.
fn client(channel: Channel) -> TrainerServiceClient<Channel> {
    TrainerServiceClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20)
}

fn request(message: Say) -> pb::AttachRequest {
    pb::AttachRequest { message: Some(message) }
}

/// The last cause of a chain: tonic's own words ("transport error") say nothing.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

//! The trainer's end of `hone.trainer.v1`: reports are kept until they are acknowledged, and sent again over a new
//! connection when the old one breaks.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use hone_proto::trainer::v1 as pb;
use hone_tests::Hello;
use pb::attach_request::Message as Request;
use pb::attach_response::Message as Response;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

/// Most bytes of a report that is sent; larger ones are for the server to refuse.
const NO_LIMIT: usize = usize::MAX;

/// How long a server may be away before the trainer gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a trainer is started with.
pub(crate) struct Start {
    pub(crate) server: String,
    pub(crate) job_id: String,
    pub(crate) attempt: u32,
    pub(crate) secret: String,
    pub(crate) hello: Hello,
}

/// The server does not take this trainer, or is gone.
#[derive(Debug, Clone)]
pub(crate) struct Lost(pub(crate) String);

/// The reporting end.
pub(crate) struct Link {
    next_number: std::cell::Cell<u64>,
    orders: UnboundedSender<Order>,
    heard: watch::Receiver<Heard>,
}

/// What the link's task is to do.
enum Order {
    Send(pb::Report),
    Repeat,
    Redial,
}

/// What the server has said so far.
#[derive(Debug, Clone, Default)]
struct Heard {
    acknowledged: u64,
    command: Option<pb::Command>,
    lost: Option<Lost>,
}

impl Link {
    /// Dials, and gives the link and the work once the server has taken this trainer.
    pub(crate) async fn attach(start: Start) -> Result<(Self, pb::Welcome), Lost> {
        let (orders, received) = unbounded_channel();
        let (tell, heard) = watch::channel(Heard::default());
        let (welcomed, welcome) = oneshot::channel();
        let task = Task { start, received, kept: VecDeque::new(), tell, welcomed: Some(welcomed) };
        tokio::spawn(task.run());
        match welcome.await {
            Ok(welcome) => {
                let next_number = std::cell::Cell::new(welcome.last_number + 1);
                Ok((Self { next_number, orders, heard }, welcome))
            }
            Err(_) => Err(heard.borrow().lost.clone().unwrap_or(Lost("the link ended".into()))),
        }
    }

    /// Reports under the next number.
    pub(crate) fn report(&self, body: pb::report::Body) -> anyhow::Result<()> {
        let number = self.next_number.replace(self.next_number.get() + 1);
        let report = pb::Report { number, time: Some(SystemTime::now().into()), body: Some(body) };
        self.order(Order::Send(report))
    }

    /// Sends the last report again.
    pub(crate) fn repeat(&self) -> anyhow::Result<()> {
        self.order(Order::Repeat)
    }

    /// Leaves a number out.
    pub(crate) fn skip_number(&self) {
        self.next_number.set(self.next_number.get() + 1);
    }

    /// Drops the connection; the link dials again.
    pub(crate) fn redial(&self) -> anyhow::Result<()> {
        self.order(Order::Redial)
    }

    /// What the server wants, if anything.
    pub(crate) fn command(&self) -> Option<pb::Command> {
        self.heard.borrow().command
    }

    /// Waits until the server wants something.
    pub(crate) async fn told(&self) -> anyhow::Result<()> {
        self.wait(|heard| heard.command.is_some()).await
    }

    /// Waits until everything reported is acknowledged.
    pub(crate) async fn flushed(&self) -> anyhow::Result<()> {
        let last = self.next_number.get() - 1;
        self.wait(|heard| heard.acknowledged >= last).await
    }

    /// Waits until the server is gone, which is an error.
    pub(crate) async fn lost(&self) -> anyhow::Result<()> {
        self.wait(|_| false).await
    }

    async fn wait(&self, done: impl Fn(&Heard) -> bool) -> anyhow::Result<()> {
        let mut heard = self.heard.clone();
        let heard = heard.wait_for(|heard| heard.lost.is_some() || done(heard)).await.context("the link ended")?;
        match &heard.lost {
            Some(Lost(why)) => anyhow::bail!("{why}"),
            None => Ok(()),
        }
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).ok().context("the link ended")
    }
}

/// Keeps the connection.
struct Task {
    start: Start,
    received: UnboundedReceiver<Order>,
    /// Reports not yet acknowledged.
    kept: VecDeque<pb::Report>,
    tell: watch::Sender<Heard>,
    welcomed: Option<oneshot::Sender<pb::Welcome>>,
}

/// A connection over which the server has said welcome.
struct Connection {
    sender: UnboundedSender<pb::AttachRequest>,
    responses: Streaming<pb::AttachResponse>,
}

/// Why a connection is over.
enum End {
    /// Dial again.
    Broken(String),
    /// The trainer has left.
    Closed,
    /// The server wants no more of this trainer.
    Refused(Status),
}

impl Task {
    async fn run(mut self) {
        let mut away_since = Instant::now();
        let lost = loop {
            let end = match self.dial().await {
                Ok(connection) => {
                    let end = self.serve(connection).await;
                    away_since = Instant::now();
                    end
                }
                Err(end) => end,
            };
            match end {
                End::Closed => return,
                End::Refused(status) => break format!("the server refused: {status}"),
                End::Broken(why) if away_since.elapsed() > PATIENCE => break format!("the server is gone: {why}"),
                End::Broken(why) => eprintln!("dialling again: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        self.tell.send_modify(|heard| heard.lost = Some(Lost(lost)));
    }

    /// A connection up to the welcome, with what the server lacks sent again.
    async fn dial(&mut self) -> Result<Connection, End> {
        let broken = |error: tonic::transport::Error| End::Broken(error.to_string());
        let client = pb::trainer_service_client::TrainerServiceClient::connect(self.start.server.clone());
        let mut client = client.await.map_err(broken)?.max_encoding_message_size(NO_LIMIT);
        let (sender, requests) = unbounded_channel();
        let first = match self.start.hello.heartbeat_first {
            true => Request::Heartbeat(pb::Heartbeat::default()),
            false => Request::Hello(self.hello()),
        };
        send(&sender, first);
        let attached = client.attach(UnboundedReceiverStream::new(requests)).await.map_err(ended)?;
        let mut responses = attached.into_inner();
        let first = responses.message().await.map_err(ended)?;
        let Some(Response::Welcome(welcome)) = first.and_then(|response| response.message) else {
            return Err(End::Broken("no welcome".into()));
        };
        self.kept.retain(|report| report.number > welcome.last_number);
        self.acknowledge(welcome.last_number);
        for report in &self.kept {
            send(&sender, Request::Report(report.clone()));
        }
        if let Some(welcomed) = self.welcomed.take() {
            let _ = welcomed.send(welcome);
        }
        Ok(Connection { sender, responses })
    }

    fn hello(&self) -> pb::Hello {
        let Start { job_id, attempt, secret, hello, .. } = &self.start;
        pb::Hello {
            protocol_version: hello.protocol_version.unwrap_or(pb::PROTOCOL_VERSION),
            job_id: job_id.clone(),
            attempt: hello.attempt.unwrap_or(*attempt),
            secret: hello.secret.clone().unwrap_or_else(|| secret.clone()),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    async fn serve(&mut self, mut connection: Connection) -> End {
        let mut heartbeat = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                order = self.received.recv() => match order {
                    Some(Order::Send(report)) => {
                        send(&connection.sender, Request::Report(report.clone()));
                        self.kept.push_back(report);
                    }
                    Some(Order::Repeat) => {
                        if let Some(report) = self.kept.back() {
                            send(&connection.sender, Request::Report(report.clone()));
                        }
                    }
                    Some(Order::Redial) => return End::Broken("told to".into()),
                    None => return End::Closed,
                },
                response = connection.responses.message() => match response {
                    Ok(Some(response)) => self.hear(response),
                    Ok(None) => return End::Broken("the server ended the stream".into()),
                    Err(status) => return ended(status),
                },
                _ = heartbeat.tick() => send(&connection.sender, Request::Heartbeat(self.heartbeat())),
            }
        }
    }

    /// Only reports count as something got done.
    fn heartbeat(&self) -> pb::Heartbeat {
        pb::Heartbeat { step: 0, progress: self.kept.back().map_or(0, |report| report.number) }
    }

    fn hear(&mut self, response: pb::AttachResponse) {
        match response.message {
            Some(Response::Acknowledged(acknowledged)) => {
                // The last one stays, so that it can be repeated.
                while self.kept.len() > 1 && self.kept[0].number <= acknowledged.number {
                    self.kept.pop_front();
                }
                self.acknowledge(acknowledged.number);
            }
            Some(Response::Control(control)) => {
                self.tell.send_modify(|heard| heard.command = Some(control.command()));
            }
            Some(Response::Welcome(_)) | None => {}
        }
    }

    fn acknowledge(&self, number: u64) {
        self.tell.send_modify(|heard| heard.acknowledged = heard.acknowledged.max(number));
    }
}

fn send(sender: &UnboundedSender<pb::AttachRequest>, message: Request) {
    // A broken connection shows where responses are read.
    let _ = sender.send(pb::AttachRequest { message: Some(message) });
}

/// What an error of the stream means: the connection broke, or the server refuses.
fn ended(status: Status) -> End {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded => {
            End::Broken(status.to_string())
        }
        _ => End::Refused(status),
    }
}

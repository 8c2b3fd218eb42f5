//! A network that breaks on command: a TCP proxy before a server, which can cut, stall, refuse and be far away.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The proxy; its address stays, whatever happens behind it. Dropped, it and its connections are gone.
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
    accepting: AbortHandle,
}

/// Pieces that are on a long way at most: more than any window of HTTP/2 lets go unanswered.
const ON_THE_WAY: usize = 8192;

/// What connections obey.
struct Network {
    target: Mutex<String>,
    /// Connections made under an older number are cut.
    generation: watch::Sender<u64>,
    stalled: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    /// How long bytes are on their way.
    delay: Mutex<Duration>,
    /// Bytes from the server after which the connections to come are cut, one entry each.
    budgets: Mutex<VecDeque<u64>>,
    /// Connections made so far.
    connections: watch::Sender<u64>,
}

impl Proxy {
    /// A proxy on a free port before `target`, which is `ip:port`.
    pub async fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound");
        let network = Arc::new(Network {
            target: Mutex::new(target.to_owned()),
            generation: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
            delay: Mutex::default(),
            budgets: Mutex::default(),
            connections: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, network.clone())).abort_handle();
        Self { address, network, accepting }
    }

    /// Where to connect to, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends connections to come elsewhere.
    pub fn set_target(&self, target: &str) {
        target.clone_into(&mut self.network.target.lock().expect("not poisoned"));
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        self.network.generation.send_modify(|generation| *generation += 1);
    }

    /// Cuts the connections to come, each after so many bytes from the server; later ones are left alone.
    pub fn cut_after(&self, bytes: impl IntoIterator<Item = u64>) {
        self.network.budgets.lock().expect("not poisoned").extend(bytes);
    }

    /// Whether cuts ordered by [`cut_after`](Self::cut_after) are still to come.
    pub fn has_cuts_left(&self) -> bool {
        !self.network.budgets.lock().expect("not poisoned").is_empty()
    }

    /// While true, connections stay open and carry nothing.
    pub fn stall(&self, stalled: bool) {
        self.network.stalled.send_replace(stalled);
    }

    /// While true, new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.network.refusing.send_replace(refusing);
    }

    /// On the connections to come bytes take so long in each direction, however many they are.
    pub fn delay(&self, delay: Duration) {
        *self.network.delay.lock().expect("not poisoned") = delay;
    }

    /// Connections made so far.
    pub fn connections(&self) -> u64 {
        *self.network.connections.borrow()
    }

    /// Waits until more than `seen` connections have been made.
    pub async fn connected_after(&self, seen: u64) {
        let mut connections = self.network.connections.subscribe();
        let reached = connections.wait_for(|count| *count > seen);
        crate::soon("another connection", reached).await.expect("the proxy lives");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, network: Arc<Network>) {
    while let Ok((near, _)) = listener.accept().await {
        network.connections.send_modify(|count| *count += 1);
        if !*network.refusing.borrow() {
            tokio::spawn(carry(near, network.clone()));
        }
    }
}

/// Carries one connection until an end closes it or it is cut.
async fn carry(near: TcpStream, network: Arc<Network>) {
    let mut generation = network.generation.subscribe();
    let born = *generation.borrow();
    let budget = network.budgets.lock().expect("not poisoned").pop_front().unwrap_or(u64::MAX);
    let target = network.target.lock().expect("not poisoned").clone();
    let Ok(far) = TcpStream::connect(target).await else { return };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = pump(near_read, far_write, &network, u64::MAX) => {}
        () = pump(far_read, near_write, &network, budget) => {}
        _ = generation.wait_for(|now| *now > born) => {}
    }
}

/// Moves bytes until the end, an error, or `budget` bytes.
async fn pump(from: OwnedReadHalf, to: OwnedWriteHalf, network: &Network, budget: u64) {
    let delay = *network.delay.lock().expect("not poisoned");
    let (tx, rx) = mpsc::channel(if delay.is_zero() { 1 } else { ON_THE_WAY });
    tokio::join!(take(from, tx, delay, budget), give(rx, to, network.stalled.subscribe()));
}

/// Takes up to `budget` bytes, each piece with the time at which it is due at the other end.
async fn take(mut from: OwnedReadHalf, tx: mpsc::Sender<(Instant, Vec<u8>)>, delay: Duration, mut budget: u64) {
    let mut buffer = vec![0; 16 << 10];
    while budget > 0 {
        let Ok(len @ 1..) = from.read(&mut buffer).await else { return };
        let len = len.min(usize::try_from(budget).unwrap_or(usize::MAX));
        if tx.send((Instant::now() + delay, buffer[..len].to_vec())).await.is_err() {
            return;
        }
        budget -= len as u64;
    }
}

async fn give(mut rx: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf, mut stalled: watch::Receiver<bool>) {
    while let Some((due, bytes)) = rx.recv().await {
        tokio::time::sleep_until(due).await;
        if stalled.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

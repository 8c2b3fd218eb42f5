//! A place where a fake trainer waits until the test lets it go on, so that a test acts at a known moment.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::soon;

/// A place to wait at. Give its [`address`](Gate::address) to [`Act::WaitAt`](crate::Act::WaitAt).
pub struct Gate {
    listener: TcpListener,
    address: String,
}

/// A trainer that stands at a gate. Dropped without a word, the trainer gives up and leaves.
pub struct Arrival(TcpStream);

impl Gate {
    /// A gate, closed.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("bound").to_string();
        Self { listener, address }
    }

    /// Where it stands.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Waits until a trainer stands before it.
    pub async fn reached(&self) -> Arrival {
        let (stream, _) = soon("a trainer to reach the gate", self.listener.accept()).await.expect("the gate stands");
        Arrival(stream)
    }

    /// The trainer's side: waits until let through. False when the test is over.
    pub async fn pass(address: &str) -> bool {
        match TcpStream::connect(address).await {
            Ok(mut stream) => stream.read_u8().await.is_ok(),
            Err(_) => false,
        }
    }
}

impl Arrival {
    /// Lets the trainer go on.
    pub async fn open(mut self) {
        // A trainer that has died meanwhile needs no opening.
        let _ = self.0.write_all(b"1").await;
    }

    /// Waits until the trainer's process is gone.
    pub async fn gone(mut self) {
        let read = soon("the trainer to die", self.0.read(&mut [0])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "a trainer at a gate says nothing");
    }
}

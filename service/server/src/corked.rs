//! A connection that holds small writes back until all who have something to say on it have said it.
//!
//! Each stream of a connection is a task of its own, and the connection's task is woken by the first of them: an event for
//! fifty watchers would be fifty writes, each with its way through the kernel. So a flush first lets those run who are ready,
//! and writes then.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Most bytes that are held back.
const MAX_HELD: usize = 64 << 10;

/// Writes from this size on are not worth a copy.
const LARGE: usize = 16 << 10;

/// A connection with what is held back.
#[derive(Debug)]
pub(crate) struct Corked<C> {
    connection: C,
    held: BytesMut,
    /// Whether the others have had their turn since the last flush.
    has_yielded: bool,
}

impl<C> Corked<C> {
    /// Holds nothing yet.
    pub(crate) fn new(connection: C) -> Self {
        Self { connection, held: BytesMut::new(), has_yielded: false }
    }
}

impl<C: AsyncWrite + Unpin> Corked<C> {
    fn poll_write_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.held.has_remaining() {
            let num_bytes = ready!(Pin::new(&mut self.connection).poll_write(context, &self.held))?;
            if num_bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(num_bytes);
        }
        // Many connections are silent for long.
        self.held = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Corked<C> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let num_bytes = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if num_bytes >= LARGE || self.held.len() + num_bytes > MAX_HELD {
            ready!(self.poll_write_held(context))?;
        }
        if num_bytes >= LARGE {
            return Pin::new(&mut self.connection).poll_write_vectored(context, slices);
        }
        slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
        Poll::Ready(Ok(num_bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.has_remaining() && !self.has_yielded {
            self.has_yielded = true;
            // Behind all that are ready now.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_write_held(context))?;
        self.has_yielded = false;
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(context))?;
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Corked<C> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, into)
    }
}

impl<C: Connected> Connected for Corked<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes every write, and remembers it.
    #[derive(Default)]
    struct Recorder(Arc<Mutex<Vec<Vec<u8>>>>);

    impl AsyncWrite for Recorder {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_all_who_are_ready_say_goes_out_in_one_write() {
        let writes = Arc::default();
        let mut connection = Corked::new(Recorder(Arc::clone(&writes)));
        connection.write_all(b"one, ").await.unwrap();
        assert!(futures::poll!(std::pin::pin!(connection.flush())).is_pending(), "others first");
        connection.write_all(b"two").await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [b""; 0]);
        connection.flush().await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [b"one, two"]);
    }

    #[tokio::test]
    async fn what_is_large_or_last_is_not_held_back_and_comes_in_its_turn() {
        let writes = Arc::default();
        let mut connection = Corked::new(Recorder(Arc::clone(&writes)));
        connection.write_all(b"small").await.unwrap();
        connection.write_all(&[7; LARGE]).await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [b"small".to_vec(), vec![7; LARGE]]);
        for _ in 0..=MAX_HELD / 1000 {
            connection.write_all(&[8; 1000]).await.unwrap();
        }
        assert_eq!(writes.lock().unwrap()[2].len(), MAX_HELD / 1000 * 1000, "no more is held than may be");
        connection.shutdown().await.unwrap();
        assert_eq!(writes.lock().unwrap()[3].len(), 1000);
    }
}

//! How an upload that breaks off ends.

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::*;

#[tokio::test]
async fn an_upload_that_breaks_off_never_looks_complete() {
    let (tx, rx) = channel::<Option<pb::UploadDatasetRequest>>(2);
    let chunk = pb::Dataset::chunk(Bytes::from_static(b"half"));
    tx.send(Some(chunk.clone())).await.expect("room");
    drop(tx);
    let mut sent = Box::pin(messages(rx));
    assert_eq!(sent.next().await, Some(chunk));
    assert_eq!(sent.next().await, Some(pb::UploadDatasetRequest::default()), "a message that the server refuses");
    assert_eq!(sent.next().now_or_never(), None, "and no end of the stream");
}

#[tokio::test]
async fn an_upload_that_is_complete_ends_its_stream() {
    let (tx, rx) = channel::<Option<pb::UploadDatasetRequest>>(2);
    tx.send(None).await.expect("room");
    assert_eq!(messages(rx).count().await, 0);
}

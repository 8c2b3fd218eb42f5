//! Uploads that broke off: how long they are kept, and how many.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::advance;

use super::session::{KEPT_FOR, MAX_PARKED};
use super::*;
use crate::store::memory::Memory;

struct Rig {
    folder: tempfile::TempDir,
    uploads: Uploads,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = format!("file://{}", folder.path().join("storage").display());
        let layout = Layout::open(&root, &Default::default()).unwrap();
        let unfinished = Unfinished::open(folder.path().join("uploads")).unwrap();
        let uploads = Uploads::new(Arc::new(Memory::default()), layout, unfinished, 64, TaskTracker::new());
        Self { folder, uploads }
    }

    fn hold(&self, request_id: &str) -> Hold {
        self.uploads.hold(Key::new(Kind::Dataset, "default", request_id))
    }

    /// A stream that brings half and breaks off.
    async fn break_off(&self, request_id: &str) {
        let claim = self.hold(request_id).claim().await.unwrap();
        let mut incoming = self.uploads.begin(Kind::Dataset, 1 << 20, None, &Caller::anybody()).await.unwrap();
        incoming.begin_file("rows.jsonl", "").await.unwrap();
        incoming.write(Bytes::from_static(b"half")).await.unwrap();
        claim.end(incoming, &Err(Error::Broken("cut".into()))).await;
    }

    /// A stream that brings the rest.
    async fn go_on(&self, request_id: &str) -> Upload {
        let mut claim = self.hold(request_id).claim().await.unwrap();
        let mut incoming = self.uploads.resume(&mut claim, 4, None).await.unwrap().unwrap();
        incoming.write(Bytes::from_static(b"rest")).await.unwrap();
        let upload = self.uploads.keep(&mut incoming, "rows.jsonl".into()).await.unwrap();
        claim.end(incoming, &Ok(Some(upload.clone()))).await;
        upload
    }

    /// Bytes that have come, as a stream finds them that asks.
    async fn received(&self, request_id: &str) -> u64 {
        match &*self.hold(request_id).claim().await.unwrap().state {
            State::Parked(incoming) => incoming.num_bytes,
            State::Fresh | State::Kept(_) => 0,
        }
    }

    /// Uploads that are noted as unfinished.
    fn unfinished(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("uploads")).unwrap().count()
    }

    /// Waits for it; not by tokio's clock, which stands still.
    async fn has_unfinished(&self, count: usize) {
        let start = std::time::Instant::now();
        while self.unfinished() != count {
            assert!(start.elapsed() < Duration::from_secs(20), "{} instead of {count}", self.unfinished());
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_is_kept_for_a_while_after_the_last_stream_and_then_leaves_nothing() {
    let rig = Rig::new();
    rig.break_off("mine").await;
    advance(KEPT_FOR - Duration::from_secs(1)).await;
    assert_eq!(rig.received("mine").await, 4);
    // Whoever asked is a stream, too.
    advance(KEPT_FOR - Duration::from_secs(1)).await;
    assert_eq!(rig.received("mine").await, 4);
    assert_eq!(rig.unfinished(), 1);
    advance(KEPT_FOR + Duration::from_secs(1)).await;
    rig.has_unfinished(0).await;
    assert_eq!(rig.received("mine").await, 0);
    let left = std::fs::read_dir(rig.folder.path().join("storage/datasets")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_goes_on_is_not_removed_by_the_time_it_had() {
    let rig = Rig::new();
    rig.break_off("mine").await;
    advance(KEPT_FOR - Duration::from_secs(1)).await;
    let upload = rig.go_on("mine").await;
    advance(KEPT_FOR * 2).await;
    rig.has_unfinished(0).await;
    let path = upload.uri.strip_prefix("file://").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"halfrest");
}

#[tokio::test]
async fn a_caller_who_goes_away_as_an_upload_begins_anew_leaves_nothing_of_what_was() {
    let rig = Rig::new();
    rig.break_off("mine").await;
    let mut claim = rig.hold("mine").claim().await.unwrap();
    // As far as it comes at once, and then dropped.
    let _ = rig.uploads.resume(&mut claim, 0, None).now_or_never();
    rig.has_unfinished(0).await;
}

#[tokio::test]
async fn so_many_unfinished_uploads_are_kept_and_the_next_leaves_nothing() {
    let rig = Rig::new();
    for number in 0..MAX_PARKED {
        rig.break_off(&number.to_string()).await;
    }
    rig.break_off("too many").await;
    rig.has_unfinished(MAX_PARKED).await;
    assert_eq!(rig.received("too many").await, 0);
    for number in 0..MAX_PARKED {
        assert_eq!(rig.received(&number.to_string()).await, 4);
    }
    // One that goes on makes room.
    rig.go_on("0").await;
    rig.break_off("one more").await;
    assert_eq!(rig.received("one more").await, 4);
}

#[tokio::test]
async fn who_takes_over_ends_those_before_him_and_no_others() {
    let rig = Rig::new();
    let (before, mut taker) = (rig.hold("mine"), rig.hold("mine"));
    taker.take_over();
    let after = rig.hold("mine");
    assert!(before.cut.is_cancelled() && !taker.cut.is_cancelled() && !after.cut.is_cancelled());
    assert!(matches!(before.claim().await, Err(Error::Broken(_))));
    taker.claim().await.unwrap();
    after.claim().await.unwrap();
}

//! A server far away: how many bytes a second an upload and a download take over a long way, by the number of streams.

use std::path::Path;
use std::time::{Duration, Instant};

use hone_client::{Client, ConnectOptions};

use crate::load::rows_of;
use crate::{Act, Proxy, Script, Setup};

/// Bytes a second of a transfer over the way.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// From one end of the way to the other and back.
    pub round_trip: Duration,
    /// Streams at once.
    pub streams: usize,
    /// Bytes a second to the server.
    pub upload: f64,
    /// Bytes a second from it.
    pub download: f64,
}

/// Transfers `num_bytes` in both directions, over every way with every number of streams, telling each as it is measured.
pub async fn far(num_bytes: u64, round_trips: &[Duration], streams: &[usize], mut tell: impl FnMut(Transfer)) {
    let server = Setup::default().start().await;
    server.play(Script::of([Act::Running, Act::Checkpoint { weights_bytes: num_bytes }, Act::Succeed]));
    let job = server.job().await;
    job.wait().await.expect("the job succeeds");
    let checkpoint = job.last_checkpoint().await.expect("it was saved");
    let rows = rows_of(&server.setup().path("large.jsonl"), num_bytes);
    for &round_trip in round_trips {
        for &streams in streams {
            let way = Proxy::before(server.address()).await;
            way.delay(round_trip / 2);
            let url = if round_trip.is_zero() { server.url() } else { way.url() };
            let options = ConnectOptions::new(url).transfer_streams(streams);
            let client = Client::connect(options).await.expect("the server listens");
            let upload = upload(&client, &rows, num_bytes).await;
            let folder = tempfile::tempdir().expect("a temporary folder");
            let start = Instant::now();
            let target = folder.path().join("checkpoint");
            client.job(job.id()).download(&checkpoint.checkpoint_id, &target).await.expect("it is whole");
            let download = num_bytes as f64 / start.elapsed().as_secs_f64();
            tell(Transfer { round_trip, streams, upload, download });
        }
    }
}

async fn upload(client: &Client, rows: &Path, num_bytes: u64) -> f64 {
    let start = Instant::now();
    let dataset = client.upload_dataset(rows).await.expect("it is taken");
    let seconds = start.elapsed().as_secs_f64();
    client.delete_dataset(&dataset.dataset_id).await.expect("nobody reads it");
    num_bytes as f64 / seconds
}

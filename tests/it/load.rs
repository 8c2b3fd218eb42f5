//! A little of `make load`: everybody gets everything, and the server does not grow with what passes through it.

use hone_tests::Load;

#[tokio::test]
async fn a_hundred_watchers_a_queue_and_uploads_are_served_in_bounded_memory() {
    let load = Load { watchers: 100, jobs: 20, uploads: 4, upload_bytes: 100 << 20, steps: 5 };
    let report = hone_tests::load(load).await;
    let [before, watched, uploading] = report.server_memory;
    // Four uploads hold four parts of 8 MiB each; all of them in memory would be 400 MiB.
    assert!(watched < before + (100 << 20) && uploading < before + (200 << 20), "{report}");
}

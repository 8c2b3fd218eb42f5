//! What is asked once happens once, whatever becomes of the answer.

use std::time::Duration;

use hone_client::{Client, ConnectOptions, RetryPolicy, v1};
use hone_tests::{Act, Gate, Proxy, Script, Setup, soon};

/// A client that tries again at once, as often as the test needs.
async fn client(url: String) -> Client {
    let mut retry = RetryPolicy::default();
    (retry.first_delay, retry.max_attempts) = (Duration::from_millis(1), 20);
    Client::connect(ConnectOptions::new(url).retry(retry)).await.unwrap()
}

async fn jobs(client: &Client) -> Vec<String> {
    let request = v1::ListJobsRequest { page_size: 1000, ..Default::default() };
    let jobs = client.list_jobs(request).await.unwrap().jobs;
    jobs.into_iter().map(|job| job.job_id).collect()
}

#[tokio::test]
async fn a_creation_whose_answer_is_cut_anywhere_makes_one_job() {
    let setup = Setup::default();
    let gate = Gate::new().await;
    setup.play([Script::of([Act::Running, Act::WaitAt(gate.address())])]);
    let server = setup.flag("--max-queued-jobs", 1000).start().await;
    let proxy = Proxy::before(server.address()).await;
    let mut made = Vec::new();
    // From within the HTTP/2 preface, where the request has not gone, to beyond the end of the answer, which is some
    // hundreds of bytes.
    for bytes in (1..1500).step_by(23) {
        let client = client(proxy.url()).await;
        proxy.cut();
        proxy.cut_after([bytes]);
        let job = soon("the job", client.create_job(server.spec())).await.unwrap();
        made.push(job.id().to_owned());
    }
    made.reverse();
    assert_eq!(jobs(&server.client().await).await, made, "each was made once, and is the one that was told");
}

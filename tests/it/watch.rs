//! Following a job over a network that breaks and past a server that restarts: each event once, in order.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use hone_client::{Client, ConnectOptions, JobHandle, RetryPolicy, v1};
use hone_tests::{Act, Gate, Proxy, Script, Server, Setup, events_of, soon};

/// A client that comes back at once.
async fn client(url: String) -> Client {
    let mut retry = RetryPolicy::default();
    (retry.first_delay, retry.max_delay) = (Duration::from_millis(5), Duration::from_millis(50));
    Client::connect(ConnectOptions::new(url).retry(retry).watch_timeout(Duration::from_secs(5))).await.unwrap()
}

async fn watched(job: &JobHandle) -> Vec<v1::JobEvent> {
    soon("the watch to end", job.watch().try_collect()).await.unwrap()
}

/// A finished job of many events.
async fn long_job(server: &Server) -> JobHandle {
    server.play(Script::normal(300));
    let job = server.job().await;
    events_of(&job).await;
    job
}

#[tokio::test]
async fn cuts_anywhere_lose_and_repeat_nothing() {
    let server = Setup::default().start().await;
    let job = long_job(&server).await;
    let uncut = events_of(&job).await;
    let proxy = Proxy::before(server.address()).await;
    let job = client(proxy.url()).await.job(job.id());
    // From within the HTTP/2 preface to deep in the history, in no pattern.
    proxy.cut_after([1, 9, 40, 77, 133, 500, 1021, 401, 2, 3000, 300, 2000, 64]);
    proxy.cut();
    assert_eq!(watched(&job).await, uncut);
    assert!(!proxy.has_cuts_left(), "every cut was made");
}

#[tokio::test]
async fn live_events_survive_cuts_stalls_and_refusals() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    let rounds = 6;
    let acts = (0..rounds).flat_map(|_| [Act::Steps(5), Act::WaitAt(gate.address())]);
    server.play(Script::of([Act::Running].into_iter().chain(acts).chain([Act::Succeed])));
    let proxy = Proxy::before(server.address()).await;
    let job = client(proxy.url()).await.job(server.job().await.id());
    let following = tokio::spawn({
        let job = job.clone();
        async move { watched(&job).await }
    });
    for round in 0..rounds {
        let trainer = gate.reached().await;
        let seen = proxy.connections();
        match round % 3 {
            0 => {
                proxy.cut();
                proxy.connected_after(seen).await;
            }
            1 => proxy.stall(true),
            _ => {
                proxy.stall(false);
                proxy.refuse(true);
                proxy.cut();
                proxy.connected_after(seen).await;
                proxy.refuse(false);
            }
        }
        trainer.open().await;
    }
    let followed = soon("the watch to end", following).await.unwrap();
    assert_eq!(followed, events_of(&server.client().await.job(job.id())).await);
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_replaced() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::Steps(2), Act::WaitAt(gate.address()), Act::Steps(2), Act::Succeed]));
    let id = server.job().await.id().to_owned();
    let proxy = Proxy::before(server.address()).await;
    let options = ConnectOptions::new(proxy.url()).watch_timeout(Duration::from_millis(300));
    let job = Client::connect(options).await.unwrap().job(&id);
    let mut events = job.watch();
    let first = soon("an event", events.next()).await.unwrap().unwrap();
    assert_eq!(first.sequence, 1);
    let trainer = gate.reached().await;
    proxy.stall(true);
    trainer.open().await;
    let direct = server.client().await.job(&id);
    let all = events_of(&direct).await;
    proxy.stall(false);
    let rest: Vec<_> = soon("the watch to end", events.try_collect()).await.unwrap();
    assert_eq!(rest, all[1..]);
}

#[tokio::test]
async fn a_watch_outlives_the_server_it_began_on() {
    let setup = Setup::default();
    let gate = Gate::new().await;
    setup.play([Script::of([Act::Running, Act::Steps(3), Act::WaitAt(gate.address()), Act::Steps(3), Act::Succeed])]);
    let server = setup.start().await;
    let proxy = Proxy::before(server.address()).await;
    let id = server.job().await.id().to_owned();
    let job = client(proxy.url()).await.job(&id);
    let following = tokio::spawn(async move { watched(&job).await });
    let trainer = gate.reached().await;
    let address = server.address().to_owned();
    server.kill().await;
    let server = setup.clone().listening_on(address).start().await;
    trainer.open().await;
    let followed = soon("the watch to end", following).await.unwrap();
    assert_eq!(followed, events_of(&server.client().await.job(&id)).await);
}

#[tokio::test]
async fn a_watch_from_any_number_gives_exactly_the_rest() {
    let server = Setup::default().start().await;
    let job = server.job().await;
    let all = events_of(&job).await;
    for after in 0..=all.len() {
        let rest: Vec<_> = job.watch_after(after as u64).try_collect().await.unwrap();
        assert_eq!(rest, all[after..], "after {after}");
    }
}

#[tokio::test]
async fn many_watchers_see_the_same() {
    let server = Setup::default().start().await;
    let gate = Gate::new().await;
    server.play(Script::of([Act::Running, Act::WaitAt(gate.address()), Act::Steps(200), Act::Succeed]));
    let job = server.job().await;
    let trainer = gate.reached().await;
    let watchers: Vec<_> = (0..20)
        .map(|after| {
            let job = job.clone();
            tokio::spawn(async move { job.watch_after(after % 3).try_collect::<Vec<_>>().await.unwrap() })
        })
        .collect();
    trainer.open().await;
    let all = events_of(&job).await;
    for (watcher, after) in watchers.into_iter().zip(0..) {
        assert_eq!(soon("a watcher to end", watcher).await.unwrap(), all[after % 3..]);
    }
}

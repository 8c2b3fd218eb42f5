//! The page as a browser asks for it: over a socket, word for word.

use std::path::PathBuf;

use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST};
use axum::http::{HeaderMap, Request, StatusCode};
use hone_job::checkpoint::{File, MANIFEST_VERSION, Manifest, id_of_step};
use hone_job::event::{Event, Phase};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use super::Http;
use crate::caller::Role;
use crate::config::Options;
use crate::testing::{Harness, Trainer, soon};

/// A server with a page.
struct Site {
    server: Harness,
    address: String,
    token: String,
}

/// An answer that is there as a whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

fn with_page(options: &mut Options) {
    let listen = "127.0.0.1:0".parse().unwrap();
    options.http = Some(Http { listen, port_file: Some(options.data_dir.join("page")) });
}

/// A server that asks nobody.
async fn open_site() -> Site {
    Site::of(Harness::start_with(with_page).await, String::new()).await
}

/// A server that asks for tokens, and one for each line: name, project, role and limits.
async fn asking<const N: usize>(lines: [(&str, &str, Role, &str); N]) -> (Site, [String; N]) {
    let (server, tokens) = Harness::with_tokens(lines, with_page).await;
    (Site::of(server, String::new()).await, tokens)
}

impl Site {
    async fn of(server: Harness, token: String) -> Self {
        let file = server.folder.path().join("page");
        let address = soon(async {
            loop {
                match std::fs::read_to_string(&file) {
                    Ok(address) => return address.trim().to_string(),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        Self { address: address.await, server, token }
    }

    /// Asks, and gives the answer while it comes.
    async fn ask(&self, request: axum::http::request::Builder) -> hyper::Response<Incoming> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = request.body(Empty::<Bytes>::new()).unwrap();
        let host = self.address.parse().unwrap();
        request.headers_mut().entry(HOST).or_insert(host);
        if !self.token.is_empty() {
            request.headers_mut().insert(AUTHORIZATION, format!("Bearer {}", self.token).parse().unwrap());
        }
        soon(sender.send_request(request)).await.unwrap()
    }

    async fn answer(&self, request: axum::http::request::Builder) -> Answer {
        let (parts, body) = self.ask(request).await.into_parts();
        let body = soon(body.collect()).await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.answer(Request::get(path)).await
    }

    async fn with_token(mut self, token: &str, path: &str) -> (Self, Answer) {
        self.token = token.into();
        let answer = self.get(path).await;
        (self, answer)
    }

    /// Opens the stream of a job's events.
    async fn events(&self, job_id: &str, last: Option<u64>) -> Stream {
        let mut request = Request::get(format!("/api/jobs/{job_id}/events"));
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let answer = self.ask(request).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
        Stream { body: answer.into_body(), text: String::new() }
    }
}

/// Server-sent events, read as they come.
struct Stream {
    body: Incoming,
    text: String,
}

impl Stream {
    /// The next message: its type, its id and its data. Absent once the stream has ended in good order.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some(at) = self.text.find("\n\n") {
                let block: String = self.text.drain(..at + 2).collect();
                let field = |name: &str| {
                    let found = block.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
                    found.unwrap_or_default().to_string()
                };
                let data = field("data");
                if !data.is_empty() {
                    return Some((field("event"), field("id"), serde_json::from_str(&data).unwrap()));
                }
                continue;
            }
            let frame = soon(self.body.frame()).await?.unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }

    /// The numbers of the next events.
    async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let (_, id, event) = self.next().await.unwrap();
            assert_eq!(event["sequence"], id, "{event}");
            ids.push(id.parse().unwrap());
        }
        ids
    }

    /// The numbers of all events up to the word that there are no more.
    async fn rest(mut self) -> Vec<u64> {
        let mut ids = Vec::new();
        loop {
            let (kind, id, _) = self.next().await.expect("the stream says that it ends");
            if kind == "end" {
                assert!(self.next().await.is_none());
                return ids;
            }
            ids.push(id.parse().unwrap());
        }
    }
}

#[tokio::test]
async fn the_page_comes_to_everybody_and_its_data_to_those_with_a_token() {
    let (site, [token]) = asking([("a", "p", Role::Read, "")]).await;
    let page = site.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    let script = site.get("/assets/main.js").await;
    assert_eq!((script.status, script.header("content-type")), (StatusCode::OK, "text/javascript; charset=utf-8"));
    let again = site.answer(Request::get("/assets/main.js").header("if-none-match", &script.headers[ETAG])).await;
    assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));

    let job = format!("/api/jobs/job-{}", "0".repeat(32));
    for path in ["/api/info", "/api/jobs", &job, &format!("{job}/events"), &format!("{job}/checkpoints")] {
        let refused = site.get(path).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(refused.header("www-authenticate"), "Bearer");
        assert_eq!(refused.json()["error"]["reason"], "TOKEN_REQUIRED");
    }
    let (site, unknown) = site.with_token("hone_stranger", "/api/jobs").await;
    assert_eq!(unknown.json()["error"]["reason"], "TOKEN_UNKNOWN");
    let (_, jobs) = site.with_token(&token, "/api/jobs").await;
    assert_eq!((jobs.status, jobs.json()), (StatusCode::OK, serde_json::json!({})));
}

#[tokio::test]
async fn a_job_of_another_project_is_on_no_page() {
    let lines = [("red", "red", Role::Submit, ""), ("blue", "blue", Role::Read, ""), ("all", "x", Role::Admin, "")];
    let (site, [red, blue, admin]) = asking(lines).await;
    let create = smallest();
    let job = soon(site.server.jobs().create_job(crate::testing::bearing(&red, create))).await.unwrap().into_inner();
    let job_id = job.job.unwrap().job_id;
    let nobody = hone_job::id::Kind::Job.fresh();
    let mut site = site;
    for suffix in ["", "/events", "/checkpoints", "/checkpoints/step-000001/files/manifest.json"] {
        site.token = blue.clone();
        let others = site.get(&format!("/api/jobs/{job_id}{suffix}")).await;
        let unknown = site.get(&format!("/api/jobs/{nobody}{suffix}")).await;
        assert_eq!(others.status, StatusCode::NOT_FOUND, "{suffix}");
        let told = String::from_utf8_lossy(&others.body).replace(&job_id, &nobody);
        assert_eq!(told.as_bytes(), &unknown.body[..], "the same words as of an id that nobody has");
    }
    assert_eq!(site.get("/api/jobs").await.json(), serde_json::json!({}));
    for token in [red, admin] {
        site.token = token;
        let seen = site.get(&format!("/api/jobs/{job_id}")).await.json();
        assert_eq!((&seen["job"]["jobId"], &seen["job"]["project"]), (&job_id.as_str().into(), &"red".into()));
        let list = site.get("/api/jobs?state=JOB_STATE_SUCCEEDED").await.json();
        assert_eq!(list, serde_json::json!({}), "the states asked for only");
        let refused = site.get("/api/jobs?state=JOB_STATE_ODD").await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }
}

fn smallest() -> crate::testing::Create {
    crate::testing::Create { spec: Some(crate::testing::request_spec()), ..Default::default() }
}

/// Live events, a connection that is dropped in their midst, and one that comes back with the last number it has seen.
#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_seen_without_gap_or_repeat() {
    let mut site = open_site().await;
    let job_id = site.server.create().await;
    let launched = site.server.launch().await;
    let mut trainer = Trainer::attach(&site.server, &launched.launch).await.unwrap();
    let phase = |number: u64| Event::Phase(Phase { name: "training".into(), detail: format!("{number}\n\ndata: x") });
    let mut first = site.events(&job_id, None).await;
    let before = first.ids(2).await;
    assert_eq!(before, [1, 2]);
    for number in 0..3 {
        trainer.event(phase(number)).await;
    }
    assert_eq!(first.ids(3).await, [3, 4, 5], "live");
    drop(first);
    let mut number = 0;
    for _ in 0..600 {
        number = trainer.event(phase(9)).await;
    }
    trainer.acknowledged(number).await.unwrap();
    let mut second = site.events(&job_id, Some(5)).await;
    let missed: Vec<u64> = (6..606).collect();
    assert_eq!(second.ids(600).await, missed, "what happened meanwhile");
    drop(trainer);
    launched.exit(crate::executor::Status::Code(1));
    let rest = second.rest().await;
    let last =
        site.get(&format!("/api/jobs/{job_id}")).await.json()["job"]["lastSequence"].as_str().unwrap().to_string();
    let last: u64 = last.parse().unwrap();
    assert_eq!(rest, (606..=last).collect::<Vec<_>>());
    assert_eq!(
        site.events(&job_id, Some(last)).await.rest().await,
        [0; 0],
        "one who has seen all is told that it is over"
    );
    let mut beyond = site.events(&job_id, Some(last + 1)).await;
    let (kind, _, told) = beyond.next().await.unwrap();
    assert_eq!((kind.as_str(), &told["error"]["reason"]), ("problem", &"PAST_THE_END".into()));
    let odd = site.answer(Request::get(format!("/api/jobs/{job_id}/events")).header("last-event-id", "x")).await;
    assert_eq!(odd.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_counts_among_its_calls() {
    let (mut site, [token]) = asking([("a", "p", Role::Submit, "max_calls=1")]).await;
    site.token = token.clone();
    let create = crate::testing::bearing(&token, smallest());
    let job_id = soon(site.server.jobs().create_job(create)).await.unwrap().into_inner().job.unwrap().job_id;
    let mut events = site.events(&job_id, None).await;
    events.ids(1).await;
    let busy = site.get("/api/jobs").await;
    assert_eq!(
        (busy.status, &busy.json()["error"]["reason"]),
        (StatusCode::TOO_MANY_REQUESTS, &"TOO_MANY_CALLS".into())
    );
    std::fs::write(site.server.folder.path().join("tokens"), "").unwrap();
    let (kind, _, told) = loop {
        let message = events.next().await.unwrap();
        if !message.0.is_empty() {
            break message;
        }
    };
    assert_eq!((kind.as_str(), &told["error"]["reason"]), ("problem", &"TOKEN_UNKNOWN".into()));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn every_answer_says_what_a_browser_may_do_with_it() {
    let site = open_site().await;
    let job = format!("/api/jobs/job-{}", "0".repeat(32));
    let paths = ["/", "/assets/style.css", "/api/jobs", &job, "/nothing", "/assets/../main.rs"];
    let mut answers = Vec::new();
    for path in paths {
        answers.push(site.get(path).await);
    }
    answers.push(site.answer(Request::post("/api/jobs")).await);
    answers.push(site.answer(Request::get("/").header(HOST, "evil.example")).await);
    let codes: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(codes, [200, 200, 200, 404, 404, 404, 405, 421]);
    for answer in answers {
        let policy = answer.header("content-security-policy");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        assert!(["no-store", "no-cache"].contains(&answer.header("cache-control")));
        assert!(!answer.headers.contains_key("set-cookie"));
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_name_that_another_site_points_here_is_refused_where_nobody_is_asked() {
    let site = open_site().await;
    let port = site.address.rsplit(':').next().unwrap().to_string();
    for host in ["evil.example".to_string(), format!("evil.example:{port}"), format!("127.0.0.1.evil.example:{port}")] {
        let refused = site.answer(Request::get("/api/jobs").header(HOST, &host)).await;
        assert_eq!(refused.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
    for host in [format!("localhost:{port}"), format!("[::1]:{port}")] {
        assert_eq!(site.answer(Request::get("/api/jobs").header(HOST, &host)).await.status, StatusCode::OK, "{host}");
    }
    // With tokens another site's page has none to send.
    let (asking, [_]) = asking([("a", "p", Role::Read, "")]).await;
    let named = asking.answer(Request::get("/").header(HOST, "hone.example")).await;
    assert_eq!(named.status, StatusCode::OK);
}

#[tokio::test]
async fn the_page_of_another_site_has_nothing_to_ask() {
    let site = open_site().await;
    let asked =
        async |path: &str, from: &str| site.answer(Request::get(path).header("sec-fetch-site", from)).await.status;
    for from in ["cross-site", "same-site"] {
        assert_eq!(asked("/api/jobs", from).await, StatusCode::FORBIDDEN, "{from}");
        assert_eq!(asked("/", from).await, StatusCode::OK, "a link may lead here");
    }
    for from in ["same-origin", "none"] {
        assert_eq!(asked("/api/jobs", from).await, StatusCode::OK, "{from}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed_through_the_page() {
    let site = open_site().await;
    let job_id = site.server.create().await;
    let before = site.server.get(&job_id).await;
    let paths = ["/", "/api/info", "/api/jobs", &format!("/api/jobs/{job_id}"), &format!("/api/jobs/{job_id}/events")];
    for path in paths {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let refused = site.answer(Request::builder().method(method).uri(path)).await;
            assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    assert_eq!(site.server.get(&job_id).await, before);
}

/// A job that has ended, with one checkpoint of these files; the folder of the checkpoint.
async fn saved(site: &mut Site, files: &[(&str, &[u8])]) -> (String, PathBuf) {
    let job_id = site.server.create().await;
    site.server.launch().await.exit(crate::executor::Status::Code(1));
    site.server.events(&job_id).await;
    let folder = site.server.folder.path().join("storage/jobs").join(&job_id).join("checkpoints").join(id_of_step(7));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |(name, content): &(&str, &[u8])| {
        std::fs::write(folder.join(name), content).unwrap();
        let sha256 = hex::encode(Sha256::digest(content));
        File { name: (*name).into(), size_bytes: content.len() as u64, sha256 }
    };
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        job_id: job_id.clone(),
        attempt: 1,
        step: 7,
        created_at: "2026-01-02T03:04:05Z".into(),
        spec_sha256: String::new(),
        base_model_fingerprint: String::new(),
        files: files.iter().map(file).collect(),
        metrics: [("eval_loss".to_string(), 1.5)].into(),
    };
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    (job_id, folder)
}

#[tokio::test]
async fn a_file_of_a_checkpoint_is_downloaded_whole_or_breaks_off() {
    let mut site = open_site().await;
    let weights: Vec<u8> = (0..(5 << 20) / 2).map(|index| (index % 251) as u8).collect();
    let (job_id, folder) = saved(&mut site, &[("adapter_model.safetensors", &weights), ("empty.txt", b"")]).await;
    let listed = site.get(&format!("/api/jobs/{job_id}/checkpoints")).await.json();
    assert_eq!(listed["checkpoints"][0]["checkpointId"], "step-000007");
    let path = |name: &str| format!("/api/jobs/{job_id}/checkpoints/step-000007/files/{name}");

    let file = site.get(&path("adapter_model.safetensors")).await;
    assert!(file.body == weights, "{} bytes came", file.body.len());
    assert_eq!(file.headers[CONTENT_LENGTH], weights.len().to_string());
    assert_eq!(file.headers[CONTENT_DISPOSITION], "attachment; filename=\"adapter_model.safetensors\"");
    assert_eq!(file.header("content-type"), "application/octet-stream");
    assert_eq!(site.get(&path("empty.txt")).await.body.len(), 0);
    assert_eq!(site.get(&path("manifest.json")).await.body, std::fs::read(folder.join("manifest.json")).unwrap());
    for name in ["other", "..", "..%2f..%2fmanifest.json", "%2e%2e%2fmanifest.json"] {
        assert_eq!(site.get(&path(name)).await.status, StatusCode::NOT_FOUND, "{name}");
    }

    // Damaged in its first bytes, and of the right length: known at its end only.
    let mut damaged = weights.clone();
    damaged[0] ^= 1;
    std::fs::write(folder.join("adapter_model.safetensors"), &damaged).unwrap();
    let answer = site.ask(Request::get(path("adapter_model.safetensors"))).await;
    assert_eq!(answer.status(), StatusCode::OK, "its first bytes are on their way before the last are read");
    assert!(soon(answer.into_body().collect()).await.is_err(), "it must not look whole");
}

#[tokio::test]
async fn a_page_that_cannot_be_served_is_told_at_start() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let listen = taken.local_addr().unwrap();
    let options = Options { http: Some(Http { listen, port_file: None }), ..crate::testing::options(folder.path()) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = soon(Box::pin(crate::run(listener, options, std::future::pending()))).await.unwrap_err().to_string();
    assert!(error.contains("--http-listen") && error.contains(&listen.to_string()), "{error}");
}

#[tokio::test]
async fn the_page_goes_when_the_server_stops() {
    let mut site = open_site().await;
    let job_id = site.server.create().await;
    let mut events = site.events(&job_id, None).await;
    events.ids(1).await;
    site.server.launch().await.exit(crate::executor::Status::Code(1));
    let second = site.server.create().await;
    let mut waiting = site.events(&second, None).await;
    waiting.ids(1).await;
    let address = site.address.clone();
    site.server.launch().await.exit(crate::executor::Status::Code(1));
    site.server.stop();
    site.server.stopped().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

//! Secrets do not turn up where people look: each is planted, and everything that is written or answered is searched.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hone_client::{Client, ConnectOptions, Token, v1};
use hone_tests::{Collector, Hello, Script, Server, Setup, binary, events_of, run};
use tokio::process::Command;

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn holds(bytes: &[u8], canary: &str) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
}

/// A server that asks for tokens and logs all it can, and an admin's token.
async fn guarded(setup: Setup) -> (Server, String) {
    let mut make = Command::new(binary("hone-server"));
    let made = run(make.args(["token", "boss", "--project", "ops", "--role", "admin"])).await;
    let token = made.success().trim().to_owned();
    assert!(token.starts_with("hone_") && !made.stderr.contains(&token), "{made:?}");
    let tokens = setup.path("tokens");
    std::fs::write(&tokens, &made.stderr).unwrap();
    let variables = [("HONE_TOKEN_FILE", tokens.display().to_string()), ("RUST_LOG", "trace".into())];
    let setup = setup.environment(variables.map(|(name, value)| (name.to_owned(), value)));
    (setup.start().await, token)
}

async fn client_with(server: &Server, token: &str) -> Client {
    Client::connect(ConnectOptions::new(server.url()).token(token)).await.unwrap()
}

/// A trainer that tells all it knows to whoever reads its log, and dies.
fn talkative(setup: &Setup) -> PathBuf {
    let path = setup.path("talkative");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = run ] || exit 1\nenv > {}\necho \"mine: $HONE_SECRET, its: $AWS_SECRET_ACCESS_KEY, its: $OTEL_EXPORTER_OTLP_HEADERS\" >&2\nexit 3\n",
        setup.path("environment").display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn secrets_are_in_no_log_event_error_or_table() {
    let setup = Setup::default();
    let trainer = talkative(&setup);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let collector = Collector::start().await;
    let variables = [
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "canary-of-the-store"),
        ("HONE_S3_ENDPOINT", &format!("http://{silent}")),
        ("DATABASE_PASSWORD", "canary-of-the-machine"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=canary-of-the-collector"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let setup = setup.with_trainer(trainer).environment(variables).flag("--allow-uri", "file:///,s3://");
    let (server, token) = guarded(setup).await;
    let client = client_with(&server, &token).await;
    let mut told = Vec::new();

    // A trainer whose last words are secrets.
    let job = client.create_job(v1::JobSpec { max_retries: Some(0), ..server.spec() }).await.unwrap();
    told.push(format!("{:?}", events_of(&job).await));
    told.push(format!("{:?}", job.get().await.unwrap()));
    assert!(told[0].contains("mine: (a secret), its: (a secret), its: api-key=(a secret)"), "{}", told[0]);
    // A store that does not answer.
    let preview = v1::PreviewDatasetRequest {
        base_model: Some(v1::BaseModel { uri: "s3://bucket/model".into() }),
        data: Some(v1::DataSpec { train: vec!["s3://bucket/rows.jsonl".into()], ..Default::default() }),
        ..Default::default()
    };
    told.push(format!("{:?}", client.preview_dataset(preview).await.unwrap_err()));
    // A token that nobody knows, through the SDK and the command line.
    let stranger = "hone_canary-of-a-stranger";
    told.push(format!("{:?}", client_with(&server, stranger).await.server_info().await.unwrap_err()));
    told.push(format!("{client:?} {:?}", Token::from(stranger)));
    for token in [stranger, &token] {
        let mut hone = Command::new(binary("hone"));
        hone.env("HONE_SERVER", server.url()).env("HONE_TOKEN", token).env("RUST_LOG", "trace").args(["jobs", "list"]);
        told.push(format!("{:?}", run(&mut hone).await));
    }

    let environment = std::fs::read_to_string(server.setup().path("environment")).unwrap();
    let attempt = environment.lines().find_map(|line| line.strip_prefix("HONE_SECRET=")).unwrap().to_owned();
    for name in ["HONE_TOKEN_FILE=", "DATABASE_PASSWORD="] {
        assert!(!environment.contains(name), "the trainer has no use for {name}\n{environment}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(5), Some("0"), "a core dump would hold secrets: {core}");

    let setup = server.setup().clone();
    server.stop().await;
    assert!(collector.keys().contains(&"canary-of-the-collector".to_owned()), "it is sent, and searched for");
    // What the trainer itself wrote is its own; the server's words, its store, and all it keeps are searched.
    let own = [setup.path("environment"), setup.data_dir().join("logs")];
    let kept = files(&setup.path("")).into_iter().filter(|path| !own.iter().any(|own| path.starts_with(own)));
    let mut written: Vec<(PathBuf, Vec<u8>)> = kept.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    assert!(written.iter().any(|(path, bytes)| path.ends_with("server.log") && bytes.len() > 10_000));
    assert!(written.iter().any(|(path, _)| path.ends_with("data/hone.db")));
    written.push(("answers".into(), told.join("\n").into_bytes()));
    for canary in [
        token.as_str(),
        stranger,
        attempt.as_str(),
        "canary-of-the-store",
        "canary-of-the-machine",
        "canary-of-the-collector",
    ] {
        for (path, bytes) in &written {
            assert!(!holds(bytes, canary), "{canary} is in {}", path.display());
        }
    }
}

#[tokio::test]
async fn a_secret_that_is_wrong_is_not_repeated() {
    let setup = Setup::default();
    let secret = "canary-of-a-stranger";
    setup.play([Script::greeting(Hello { secret: Some(secret.into()), ..Hello::default() })]);
    let (server, token) = guarded(setup.flag("--allow-uri", "file:///")).await;
    let job = client_with(&server, &token).await;
    let job = job.create_job(v1::JobSpec { max_retries: Some(0), ..server.spec() }).await.unwrap();
    let told = format!("{:?} {:?}", events_of(&job).await, job.get().await.unwrap());
    assert!(told.contains("secret is not that of the attempt"), "{told}");
    let setup = server.setup().clone();
    server.stop().await;
    let scripts = setup.path("scripts.json");
    for path in files(&setup.path("")).into_iter().filter(|path| *path != scripts) {
        assert!(!holds(&std::fs::read(&path).unwrap(), secret), "{}", path.display());
    }
    assert!(!told.contains(secret), "{told}");
}

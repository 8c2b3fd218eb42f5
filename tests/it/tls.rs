//! TLS between all three: client, server and trainer.

use hone_client::v1::JobState;
use hone_client::{Client, Code, ConnectOptions, Error};
use hone_tests::{Authority, Certificate, Server, Setup, binary, events_of, next_event, run, soon};
use tokio::process::Command;

/// A setup whose certificate is for a name that is not its address, and the authority behind it.
fn with_tls() -> (Setup, Authority) {
    let setup = Setup::default();
    let authority = Authority::new(setup.path(""), "servers");
    let Certificate { cert, key } = authority.sign("hone.example");
    let setup = setup
        .flag("--tls-cert", cert.display())
        .flag("--tls-key", key.display())
        .flag("--tls-trainer-ca", authority.file().display())
        .flag("--tls-trainer-name", "hone.example");
    (setup, authority)
}

fn options(server: &Server, authority: &Authority) -> ConnectOptions {
    ConnectOptions::new(format!("https://{}", server.address())).ca_file(authority.file()).server_name("hone.example")
}

/// Whether an error is of the connection: the server itself has not answered.
fn said_nothing(error: &Error) -> bool {
    error.rpc().is_none_or(|error| error.reason.is_empty())
}

#[tokio::test]
async fn a_job_runs_over_tls_with_certificates_for_callers_and_none_for_its_trainer() {
    let (setup, authority) = with_tls();
    let clients = Authority::new(setup.path(""), "clients");
    let setup = setup.with_real_trainer().flag("--allow-uri", "file:///");
    let server = setup.flag("--tls-client-ca", clients.file().display()).start().await;
    let nobody = Client::connect(options(&server, &authority)).await.unwrap();
    let error = nobody.server_info().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unauthenticated), "{error}");
    assert_eq!(error.rpc().unwrap().reason, "CERTIFICATE_REQUIRED", "{error:?}");

    let Certificate { cert, key } = clients.sign("a-client");
    let client = Client::connect(options(&server, &authority).certificate(&cert, &key)).await.unwrap();
    let mut spec = server.spec();
    let Some(hone_client::v1::job_spec::Task::Sft(sft)) = &mut spec.task else { unreachable!() };
    sft.length = Some(hone_client::v1::sft_task::Length::MaxSteps(1));
    let job = client.create_job(spec).await.unwrap();
    events_of(&job).await;
    assert_eq!(job.get().await.unwrap().state(), JobState::Succeeded);

    let mut hone = Command::new(binary("hone"));
    let text = |path: &std::path::Path| path.display().to_string();
    hone.args(["--server", &format!("https://{}", server.address()), "--server-name", "hone.example"]);
    hone.args(["--ca-file", &text(authority.file()), "--cert-file", &text(&cert), "--key-file", &text(&key)]);
    let listed = run(hone.args(["jobs", "list"])).await;
    assert!(listed.success().contains(job.id()), "{listed:?}");
}

#[tokio::test]
async fn a_server_that_cannot_prove_itself_is_not_talked_to() {
    let (setup, authority) = with_tls();
    let server = setup.start().await;
    Client::connect(options(&server, &authority)).await.unwrap().server_info().await.unwrap();
    let other = Authority::new(server.setup().path(""), "others");
    for wrong in [
        options(&server, &authority).server_name("other.example"),
        options(&server, &other),
        ConnectOptions::new(format!("https://{}", server.address())),
    ] {
        let error = soon("a refusal", Client::connect(wrong)).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    // Without TLS there is nobody to talk to either.
    let plain = Client::connect(server.url()).await.unwrap();
    assert!(said_nothing(&soon("a refusal", plain.server_info()).await.unwrap_err()));
}

#[tokio::test]
async fn a_certificate_of_another_authority_does_not_let_a_client_in() {
    let (setup, authority) = with_tls();
    let clients = Authority::new(setup.path(""), "clients");
    let server = setup.flag("--tls-client-ca", clients.file().display()).start().await;
    let Certificate { cert, key } = authority.sign("a-stranger");
    let stranger = options(&server, &authority).certificate(cert, key);
    let refused = match soon("an answer", Client::connect(stranger)).await {
        Ok(client) => soon("an answer", client.server_info()).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(said_nothing(&refused.unwrap_err()));
}

#[tokio::test]
async fn a_renewed_certificate_is_for_those_who_come_and_those_who_are_there_stay() {
    let (setup, authority) = with_tls();
    let server = setup.with_real_trainer().flag("--allow-uri", "file:///").start().await;
    let client = Client::connect(options(&server, &authority)).await.unwrap();
    let mut spec = server.spec();
    let Some(hone_client::v1::job_spec::Task::Sft(sft)) = &mut spec.task else { unreachable!() };
    sft.length = Some(hone_client::v1::sft_task::Length::MaxSteps(1_000_000));
    let job = client.create_job(spec).await.unwrap();
    let mut events = job.watch();
    next_event(&mut events, "train_step").await;

    let cert = server.setup().path("hone.example-cert.pem");
    std::fs::write(&cert, "half a certifi").unwrap();
    server.says("the files of TLS before this change stay in force").await;
    Client::connect(options(&server, &authority)).await.unwrap().server_info().await.unwrap();

    let renewed = Authority::new(server.setup().path(""), "renewed");
    renewed.sign("hone.example");
    server.says("the files of TLS have changed").await;
    let newcomer = Client::connect(options(&server, &renewed)).await.unwrap();
    let error = soon("a refusal", Client::connect(options(&server, &authority))).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    for _later in 0..3 {
        next_event(&mut events, "train_step").await;
    }
    newcomer.job(job.id()).cancel().await.unwrap();
    next_event(&mut events, "CANCELLED").await;
}

#[tokio::test]
async fn files_that_make_no_tls_are_named_at_start() {
    let setup = Setup::default();
    let authority = Authority::new(setup.path(""), "servers");
    let (one, other) = (authority.sign("one.example"), authority.sign("other.example"));
    let missing = setup.path("missing.pem");
    for (cert, key) in [(&one.cert, &other.key), (&missing, &one.key), (&one.cert, &missing), (&one.key, &one.cert)] {
        let flags = setup.clone().flag("--tls-cert", cert.display()).flag("--tls-key", key.display());
        let ended = flags.run().await;
        assert_ne!(ended.code(), 0);
        assert!(ended.stderr.contains(".pem") && !ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

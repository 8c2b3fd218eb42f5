//! Answers while somebody waits: with a scripted process for what may happen to it, and with a real model.

use std::process::Stdio;

use futures::StreamExt;
use hone_client::{Code, Error, v1};
use hone_tests::{Ended, Server, Setup, binary, events_of, fixture_model, repository, run, sft, soon, uri};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

fn prompt(model: &str, prompt: &str) -> v1::GenerateRequest {
    v1::GenerateRequest {
        base_model: Some(v1::BaseModel { uri: uri(fixture_model(model)) }),
        prompt: Some(prompt.to_owned()),
        ..Default::default()
    }
}

async fn text(server: &Server, request: v1::GenerateRequest) -> Result<String, Error> {
    soon("an answer", server.client().await.generate(request).await.unwrap().text()).await
}

#[tokio::test]
async fn an_answer_comes_piece_by_piece_and_a_model_stays_for_those_that_follow() {
    let server = Setup::default().start().await;
    let pieces: Vec<_> =
        server.client().await.generate(prompt("llama", "echo one two three")).await.unwrap().collect().await;
    let pieces: Vec<_> = pieces.into_iter().map(Result::unwrap).collect();
    let whole: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(whole, "one two three");
    let finished = pieces.last().unwrap().finished.unwrap();
    assert_eq!((finished.reason(), finished.prompt_tokens), (v1::FinishReason::Length, 1));
    let first = text(&server, prompt("llama", "pid")).await.unwrap();
    let others = futures::future::join_all((0..20).map(|_| text(&server, prompt("llama", "pid")))).await;
    assert!(others.into_iter().all(|other| other.unwrap() == first), "one process");
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_and_ends_nothing_else() {
    let server = Setup::default().start().await;
    let pid = text(&server, prompt("llama", "pid")).await.unwrap();
    let refused = text(&server, prompt("llama", "refuse me")).await.unwrap_err();
    let rpc = refused.rpc().unwrap();
    assert_eq!((rpc.code, rpc.reason.as_str()), (Code::InvalidArgument, "INVALID_DATA"));
    assert!(refused.to_string().contains("it makes no sense"), "{refused}");
    assert_eq!(text(&server, prompt("llama", "pid")).await.unwrap(), pid);

    // A process that dies takes those who wait with it, and the next one who asks gets another.
    let mut begun = server.client().await.generate(prompt("llama", "begin")).await.unwrap();
    while begun.next().await.unwrap().unwrap().text.is_empty() {}
    let crashed = text(&server, prompt("llama", "crash")).await.unwrap_err();
    assert_eq!(crashed.code(), Some(Code::Internal));
    assert!(crashed.to_string().contains("these are the last words"), "{crashed}");
    let error = soon("the end", begun.next()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("exit status: 7"), "{error}");
    assert_ne!(text(&server, prompt("llama", "pid")).await.unwrap(), pid);

    let client = server.client().await;
    let turn = v1::ChatMessage { role: String::new(), content: "a".into() };
    let wrong = [
        (v1::GenerateRequest { base_model: None, ..prompt("llama", "a") }, "base_model.uri"),
        (v1::GenerateRequest { prompt: None, ..prompt("llama", "") }, "messages"),
        (v1::GenerateRequest { messages: vec![turn.clone()], prompt: None, ..prompt("llama", "") }, "messages[0].role"),
        (
            v1::GenerateRequest {
                sampling: Some(v1::SamplingSpec { top_p: Some(0.0), ..Default::default() }),
                ..prompt("llama", "a")
            },
            "sampling.top_p",
        ),
        (v1::GenerateRequest { checkpoint: Some("nowhere".into()), ..prompt("llama", "a") }, "checkpoint"),
    ];
    for (request, field) in wrong {
        let error = client.generate(request).await.unwrap_err();
        let fields: Vec<_> = error.rpc().unwrap().violations.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, [field], "{error}");
    }
}

#[tokio::test]
async fn who_asks_another_model_waits_until_nobody_asks_the_first() {
    let server = Setup::default().start().await;
    let client = server.client().await;
    let mut begun = client.generate(prompt("llama", "begin")).await.unwrap();
    while begun.next().await.unwrap().unwrap().text.is_empty() {}
    let mut other = client.generate(prompt("mistral", "echo there is room")).await.unwrap();
    let waits = soon("word of waiting", other.next()).await.unwrap().unwrap();
    assert!(waits.waiting.contains("other models answer"), "{waits:?}");
    // One who goes away is waited for no more.
    drop(begun);
    assert_eq!(soon("an answer", other.text()).await.unwrap(), "there is room");

    let server = Setup::default().flag("--max-loaded-models", 2).flag("--keep-model", "1ms").start().await;
    let client = server.client().await;
    let mut begun = client.generate(prompt("llama", "begin")).await.unwrap();
    while begun.next().await.unwrap().unwrap().text.is_empty() {}
    assert_eq!(text(&server, prompt("mistral", "echo beside it")).await.unwrap(), "beside it");
    server.says("a model that nobody asked was unloaded").await;
    let (stopped, rest) = tokio::join!(server.stop(), soon("the end", begun.collect::<Vec<_>>()));
    let error = rest.into_iter().next_back().unwrap().unwrap_err();
    assert_eq!(error.rpc().map(|rpc| rpc.reason.as_str()), Some("SERVER_STOPPING"), "{error}");
    assert!(stopped.success());
}

async fn hone(server: &Server, arguments: &[&str], input: &str) -> Ended {
    let mut command = Command::new(binary("hone"));
    command.env("HONE_SERVER", server.url()).args(arguments).stdin(Stdio::piped());
    if input.is_empty() {
        command.stdin(Stdio::null());
        return run(&mut command).await;
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let out = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { status: out.status, stdout: text(out.stdout), stderr: text(out.stderr) }
}

#[tokio::test]
async fn what_was_trained_is_talked_to_in_the_terminal() {
    let server = Setup::default().with_real_trainer().start().await;
    let client = server.client().await;
    let rows = repository().join("tests/fixtures/sft/rows.jsonl");
    let mut spec = sft(uri(fixture_model("llama")), uri(&rows));
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.length = Some(v1::sft_task::Length::MaxSteps(6));
    task.optimizer = Some(v1::OptimizerSpec { learning_rate: Some(5e-3), ..Default::default() });
    let trained = client.create_job(spec).await.unwrap();
    events_of(&trained).await;

    let ask = |checkpoint: Option<String>| v1::GenerateRequest {
        checkpoint,
        messages: vec![v1::ChatMessage { role: "user".into(), content: "Hello?".into() }],
        prompt: None,
        sampling: Some(v1::SamplingSpec { max_new_tokens: Some(8), ..Default::default() }),
        ..prompt("llama", "")
    };
    let uri_of = trained.last_checkpoint().await.unwrap().uri;
    let (base, tuned) = tokio::join!(text(&server, ask(None)), text(&server, ask(Some(uri_of))));
    let (base, tuned) = (base.unwrap(), tuned.unwrap());
    assert_ne!(base, tuned, "the adapter takes part, beside the base model in the same process");

    let flags = ["generate", trained.id(), "--max-new-tokens", "8"];
    let told = hone(&server, &[&flags[..], &["--message", "Hello?"]].concat(), "").await;
    assert_eq!(told.success().trim_end_matches('\n'), tuned.replace('\r', "\u{fffd}").trim_end_matches('\n'));
    // A conversation: the second turn has the first before it, a new one does not.
    let told = hone(&server, &[&flags[..], &["--json"]].concat(), "Hello?\nHello?\n/new\nHello?\n").await;
    let finished: Vec<u64> = told
        .success()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter_map(|piece| piece["finished"]["prompt_tokens"].as_u64())
        .collect();
    let [first, second, anew] = finished[..] else { panic!("three answers: {}", told.stdout) };
    assert!(second > first && anew == first, "{finished:?}");
}

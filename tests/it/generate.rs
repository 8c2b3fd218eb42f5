//! Prompts that what was trained answers, by the client and by the command line.

use std::process::Command;

use hone_client::v1::{self, job_event::Event};
use hone_tests::{Setup, binary, events_of, fixture_model, repository, sft, uri, write_lines};
use serde_json::{Value, json};

#[tokio::test]
async fn what_was_trained_answers_rows_by_the_command_line() {
    let server = Setup::default().with_real_trainer().start().await;
    let client = server.client().await;
    let rows = repository().join("tests/fixtures/sft/rows.jsonl");
    let mut spec = sft(uri(fixture_model("llama")), uri(&rows));
    let Some(v1::job_spec::Task::Sft(task)) = &mut spec.task else { panic!("an sft job") };
    task.length = Some(v1::sft_task::Length::MaxSteps(2));
    let trained = client.create_job(spec).await.unwrap();
    events_of(&trained).await;

    let folder = server.setup().path("asked");
    std::fs::create_dir(&folder).unwrap();
    let prompts = folder.join("prompts.jsonl");
    let asked = [json!({"prompt": "Once"}), json!({"messages": [{"role": "user", "content": "Hello?"}]})];
    write_lines(&prompts, asked.map(|row| row.to_string()));
    let hone = |arguments: &[&str]| {
        let out = Command::new(binary("hone")).env("HONE_SERVER", server.url()).args(arguments).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let to = folder.join("answers");
    let (prompts, home) = (prompts.to_str().unwrap(), to.to_str().unwrap());
    let flags = ["--max-new-tokens", "6", "--temperature", "0.9", "--answers-per-row", "2", "--to", home];
    let told = hone(&[&["generate", trained.id(), "--data", prompts], &flags[..]].concat());
    assert!(told.contains("written 4 answers") && told.contains("prompts.jsonl:1"), "{told}");
    let text = std::fs::read_to_string(to.join("answers.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<_> = lines.iter().map(|line| (line["row"].as_u64(), line["answer_index"].as_u64())).collect();
    assert_eq!(places, [(1, 0), (1, 1), (2, 0), (2, 1)].map(|(row, answer)| (Some(row), Some(answer))));
    assert!(lines.iter().all(|line| line["answer"].is_string() && line["finish_reason"].is_string()), "{text}");

    // The same by the API: the event has the first answers.
    let task = v1::GenerateTask {
        data: Some(v1::PromptRows { rows: vec![uri(&rows)], max_examples: Some(3), ..Default::default() }),
        sampling: Some(v1::SamplingSpec { max_new_tokens: Some(4), ..Default::default() }),
        ..Default::default()
    };
    let spec = v1::JobSpec {
        base_model: Some(v1::BaseModel { uri: uri(fixture_model("llama")) }),
        task: Some(v1::job_spec::Task::Generate(task)),
        ..Default::default()
    };
    let job = client.create_job(spec).await.unwrap();
    let report = events_of(&job).await.into_iter().find_map(|event| match event.event {
        Some(Event::Answers(report)) => Some(report),
        _ => None,
    });
    let report = report.unwrap();
    assert_eq!((report.answers, report.failed_rows, report.shown.len()), (3, 0, 3));
    assert!(report.shown.iter().all(|shown| !shown.prompt.is_empty() && !shown.expected.is_empty()));
}

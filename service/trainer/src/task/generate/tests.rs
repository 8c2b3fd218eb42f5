//! Answers beside those that a model gives to one prompt alone.

use hone_job::spec::{PromptRows, Sampling, Task};
use serde_json::{Value, json};
use tch::{Device, Kind};

use super::*;
use crate::link::Command;
use crate::peft;
use crate::task::testing::{Case, Recorder, fixtures, uri};

fn task(rows: &[Value], folder: &Path) -> GenerateTask {
    let path = folder.join("rows.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let task = GenerateTask::new(PromptRows::of(vec![uri(&path)]));
    GenerateTask { sampling: Sampling::greedy(6), answers_at_once: 2, ..task }
}

fn run(task: &GenerateTask, command: Option<Command>) -> (Case, End, Vec<Event>) {
    let case = Case::of("llama", Task::Generate(task.clone()));
    let observer = Arc::new(Recorder::new(command.map(|command| (0, command))));
    let end = generate(&case.welcome, task, &case.workspace(), observer.clone()).unwrap();
    (case, end, observer.events())
}

fn lines(case: &Case) -> Vec<Value> {
    let checkpoint = case.opened("step-000000");
    let text = String::from_utf8(checkpoint.file(ANSWERS).unwrap().to_vec()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn report(events: &[Event]) -> AnswerReport {
    let found = events.iter().find_map(|event| match event {
        Event::Answers(report) => Some(report.clone()),
        _ => None,
    });
    found.expect("a job tells what was written")
}

#[test]
fn every_row_is_answered_in_its_place_by_the_checkpoint_that_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let user = json!({"role": "user", "content": "What is 2 + 2?"});
    let rows = [
        json!({"messages": [user, {"role": "assistant", "content": "4"}]}),
        json!({"prompt": "Once upon"}),
        json!({"prompt": [user]}),
        json!({"prompt": vec!["word "; 3000].concat()}),
    ];
    let adapter = fixtures().join("adapters/llama_all_linear");
    let task = GenerateTask { checkpoint: Some(uri(&adapter)), ..task(&rows, folder.path()) };
    let (case, end, events) = run(&task, None);
    assert_eq!(end, End::Succeeded);

    let tokenizer = Tokenizer::open(&fixtures().join("models/llama")).unwrap();
    let model = Decoder::load(&fixtures().join("models/llama"), Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap();
    let loaded = peft::load_frozen(&adapter, &model).unwrap();
    let alone = |prompt: &generation::Prompt| {
        let prompt = generation::Prompter::new(&tokenizer).unwrap().encode(prompt).unwrap();
        let answers =
            generation::greedy_answers(&model, Some(&loaded), &tokenizer, &[&prompt], 6, &mut || true).unwrap();
        answers.unwrap().remove(0)
    };
    let lines = lines(&case);
    assert_eq!(lines.len(), 4);
    let conversation = alone(&generation::Prompt::Conversation { messages: vec![user] });
    assert_eq!((&lines[0]["answer"], &lines[0]["expected"]), (&json!(conversation), &json!("4")));
    assert_eq!(lines[2]["answer"], json!(conversation), "what is expected is not shown to the model");
    assert_eq!(lines[1]["answer"], json!(alone(&generation::Prompt::Text { prompt: "Once upon".into() })));
    assert_eq!((&lines[1]["row"], &lines[1]["prompt"]), (&json!(2), &json!("Once upon")));
    assert!(lines[3]["error"].as_str().unwrap().contains("the model was made for texts of up to"), "{}", lines[3]);
    assert!(lines[3].get("answer").is_none());

    let report = report(&events);
    assert_eq!((report.answers, report.failed_rows, report.shown.len()), (3, 1, 3));
    let tokens = |name: &str| lines.iter().take(3).map(|line| line[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((report.prompt_tokens, report.answer_tokens), (tokens("prompt_tokens"), tokens("answer_tokens")));
    assert_eq!(report.shown[0].answer, conversation);
}

#[test]
fn several_answers_to_a_row_differ_and_come_again_with_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [json!({"prompt": "Once upon"}), json!({"prompt": "Once upon"})];
    let sampling = Sampling { temperature: 1.0, ..Sampling::greedy(8) };
    let task = GenerateTask { sampling, answers_per_row: 3, ..task(&rows, folder.path()) };
    let answers = |task: &GenerateTask| lines(&run(task, None).0);
    let first = answers(&task);
    let places: Vec<_> = first.iter().map(|line| (line["row"].clone(), line["answer_index"].clone())).collect();
    let expected = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)].map(|(row, index)| (json!(row), json!(index)));
    assert_eq!(places, expected);
    let texts: std::collections::BTreeSet<_> = first.iter().map(|line| line["answer"].to_string()).collect();
    assert!(texts.len() > 3, "{texts:?}");
    assert_eq!(answers(&task), first);
    // One at a time they are the same: chance draws by the number of the answer.
    assert_eq!(answers(&GenerateTask { answers_at_once: 1, ..task }), first);
}

#[test]
fn a_job_that_is_cancelled_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (case, end, events) = run(&task(&[json!({"prompt": "a"})], folder.path()), Some(Command::Cancel));
    assert_eq!(end, End::Stopped { checkpoint_id: None });
    assert!(!events.iter().any(|event| matches!(event, Event::Answers(_) | Event::CheckpointSaved(_))));
    assert!(!case.checkpoint("step-000000").exists());
}

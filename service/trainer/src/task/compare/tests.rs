//! Comparisons beside what single evaluations and a preference run say of the same rows.

use hone_data::cache::Cache;
use hone_job::score::{Interval, ScoreReport};
use hone_job::spec::{Precision, Preference, Task};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::link::Command;
use crate::model::Decoder;
use crate::peft;
use crate::task::evaluate::evaluate_pairs;
use crate::task::objective::{PairObjective, ReferenceLogps};
use crate::task::testing::{Case, Recorder, fixtures, uri};

const ROWS: &str = "sft/rows.jsonl";
const PAIRS: &str = "dpo/pairs.jsonl";

fn adapter() -> String {
    uri(&fixtures().join("adapters/llama_all_linear"))
}

fn comparison(rows: &str, candidates: &[(&str, Option<String>)]) -> CompareTask {
    let candidates = candidates.iter().map(|(name, uri)| Candidate { name: (*name).into(), checkpoint: uri.clone() });
    CompareTask {
        candidates: candidates.collect(),
        data: ScoredRows::of(vec![uri(&fixtures().join(rows))]),
        scoring: Scoring { precision: Precision::Float32, shown_rows: 3, max_new_tokens: 4, ..Scoring::default() },
        seed: 42,
    }
}

fn run(task: &CompareTask, command: Option<Command>) -> (Case, End, Vec<Event>) {
    let case = Case::of("llama", Task::Compare(task.clone()));
    let observer = Arc::new(Recorder::new(command.map(|command| (0, command))));
    let end = compare(&case.welcome, task, &case.workspace(), observer.clone()).unwrap();
    (case, end, observer.events())
}

fn scores(events: &[Event]) -> ScoreReport {
    let found =
        events.iter().find_map(|event| if let Event::Scores(found) = event { Some(found.clone()) } else { None });
    found.expect("a comparison tells its scores")
}

fn model() -> Decoder {
    Decoder::load(&fixtures().join("models/llama"), Kind::Float, Device::Cpu, &mut |_, _| {}).unwrap()
}

fn examples(rows: &str) -> Vec<Example> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tokenizer = Arc::new(Tokenizer::open(&fixtures().join("models/llama")).unwrap());
    let workspace = Workspace::new(Cache::new("cache".into(), None), runtime.handle().clone());
    let rows = uri(&fixtures().join(rows));
    let data = ScoredRows::of(vec![rows.clone()]);
    let sources = vec![workspace.open(&rows).unwrap()];
    runtime.block_on(HeldOut::load(sources, &data, tokenizer, Arc::new(|_| {}))).unwrap().examples
}

#[test]
fn figures_of_texts_are_those_of_single_evaluations_and_differences_those_between_them() {
    let task = comparison(ROWS, &[("base", None), ("adapter", Some(adapter())), ("again", None)]);
    let (case, end, events) = run(&task, None);
    assert_eq!(end, End::Succeeded);
    let found = scores(&events);
    let (model, examples) = (model(), examples(ROWS));
    let loaded = peft::load_frozen(&fixtures().join("adapters/llama_all_linear"), &model).unwrap();
    let expected = [None, Some(&loaded), None]
        .map(|adapter| crate::task::evaluate::evaluate(&model, adapter, &examples, 2048, 0).0);
    for (one, expected) in found.models.iter().zip(&expected) {
        let own = &one.evaluation;
        assert_eq!((own.loss, own.tokens, own.examples), (expected.loss, expected.tokens, expected.examples));
        assert_eq!((own.token_accuracy, &own.buckets), (expected.token_accuracy, &expected.buckets));
    }
    let [difference, none] = &found.differences[..] else { panic!("two differences") };
    let apart = expected[1].loss.unwrap() - expected[0].loss.unwrap();
    let Interval { difference: loss, low, high } = difference.loss;
    assert!((loss - apart).abs() < 1e-9 && low < loss && loss < high, "{:?}, expected {apart}", difference.loss);
    assert_eq!(difference.wins + difference.ties + difference.losses, found.models[0].evaluation.examples);
    assert_eq!((none.loss, none.ties), (Interval::default(), 96), "a model does not differ from itself");
    assert_eq!(difference.buckets.iter().map(|bucket| bucket.examples).sum::<u64>(), 96);

    // The rows shown are those in which base and adapter are furthest apart.
    let apart = |row: &hone_job::score::ShownRow| (row.scores[1].loss.unwrap() - row.scores[0].loss.unwrap()).abs();
    assert!(apart(&found.rows[0]) >= apart(&found.rows[1]) && apart(&found.rows[1]) >= apart(&found.rows[2]));
    assert!(found.rows.iter().all(|row| !row.prompt.is_empty() && row.scores[0].answer == row.scores[2].answer));

    let checkpoint = case.opened("step-000000");
    let stored: ScoreReport = serde_json::from_slice(checkpoint.file("scores.json").unwrap()).unwrap();
    assert_eq!(stored, found);
    let lines = checkpoint.file("rows.jsonl").unwrap().clone();
    let lines: Vec<Value> = lines.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let sum = |field: &str| lines.iter().map(|line| line["scores"][1][field].as_f64().unwrap()).sum::<f64>();
    assert_eq!(lines.len(), 96);
    assert!((sum("nll") / sum("tokens") - expected[1].loss.unwrap()).abs() < 1e-9);
}

/// Against the base model, the margin's difference and the share of wins are the reward margin and accuracy of DPO with beta 1
/// and the base model as reference.
#[test]
fn differences_of_pairs_are_rewards_against_the_first_model() {
    let (_, end, events) = run(&comparison(PAIRS, &[("base", None), ("adapter", Some(adapter()))]), None);
    assert_eq!(end, End::Succeeded);
    let found = scores(&events);
    let (model, examples) = (model(), examples(PAIRS));
    let loaded = peft::load_frozen(&fixtures().join("adapters/llama_all_linear"), &model).unwrap();
    let preference = Preference { beta: 1.0, ..Preference::default() };
    let against = |reference: ReferenceLogps, adapter| {
        let train = ReferenceLogps::none(0);
        let objective = PairObjective { preference: preference.clone(), train, eval: reference };
        evaluate_pairs(&model, adapter, &objective, &examples, 2048, 0).0.preference.unwrap()
    };
    let alone = against(ReferenceLogps::none(examples.len()), None);
    let own = found.models[0].evaluation.preference.unwrap();
    let close = |one: f64, other: f64| assert!((one - other).abs() < 1e-4 * other.abs().max(1.0), "{one} {other}");
    assert_eq!((own.pairs, own.accuracy, own.ties), (alone.pairs, alone.accuracy, alone.ties));
    close(own.margin, alone.margin);
    close(own.margin_standard_error, alone.margin_standard_error);
    close(own.logps_chosen, alone.logps_chosen);
    close(own.logps_rejected, alone.logps_rejected);

    let rows = crate::task::evaluate::score_documents(&model, None, &examples, 2048, &mut |_| true).unwrap();
    let logps: Vec<f32> = rows.iter().flatten().map(|document| -document.nll as f32).collect();
    let base = ReferenceLogps(Tensor::from_slice(&logps).view([-1, 2]));
    let rewards = against(base, Some(&loaded));
    let difference = &found.differences[0];
    close(difference.margin.unwrap().difference, rewards.margin);
    assert_eq!(difference.wins as f64 / examples.len() as f64, rewards.accuracy);
    assert!(found.rows.iter().all(|row| row.rejected.is_some() && row.scores[0].margin.is_some()));
}

#[test]
fn a_whole_model_is_a_candidate_and_an_evaluation_shows_its_hardest_rows() {
    let whole = uri(&fixtures().join("models/llama"));
    let (_, _, events) = run(&comparison(ROWS, &[("base", None), ("whole", Some(whole.clone()))]), None);
    assert_eq!(scores(&events).differences[0].ties, 96);

    let CompareTask { data, scoring, .. } = comparison(ROWS, &[]);
    let task = EvaluateTask { checkpoint: Some(whole), data, scoring };
    let case = Case::of("llama", Task::Evaluate(task.clone()));
    let observer = Arc::new(Recorder::default());
    assert_eq!(evaluate(&case.welcome, &task, &case.workspace(), observer.clone()).unwrap(), End::Succeeded);
    let found = scores(&observer.events());
    assert_eq!((found.models.len(), found.differences.len(), found.rows.len()), (1, 0, 3));
    let losses: Vec<f64> = found.rows.iter().map(|row| row.scores[0].loss.unwrap()).collect();
    assert!(losses.is_sorted_by(|one, other| one >= other) && losses[0] > found.models[0].evaluation.loss.unwrap());
}

fn rows_of(lines: &[Value], folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("rows.jsonl");
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&path, text.join("\n")).unwrap();
    uri(&path)
}

/// The model's own answer is exact, a part of it is contained, and another text is neither.
#[test]
fn questions_are_answered_and_graded() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::open(&fixtures().join("models/llama")).unwrap();
    let asked = tokenizer.encode("Once upon", true).unwrap();
    let answers = greedy_answers(&model(), None, &tokenizer, &[&asked], 6, &mut || true).unwrap().unwrap();
    let own = answers[0].trim().to_string();
    let part: String = own.chars().take(own.chars().count() / 2).collect();
    let row = |completion: &str| json!({"prompt": "Once upon", "completion": completion});
    let lines = [row(&format!(" {own}")), row(part.trim()), row("something else entirely")];
    let mut task = comparison(ROWS, &[("base", None), ("adapter", Some(adapter()))]);
    task.data = ScoredRows { kind: RowKind::Questions, ..ScoredRows::of(vec![rows_of(&lines, &folder)]) };
    task.scoring.max_new_tokens = 6;
    let (case, end, events) = run(&task, None);
    assert_eq!(end, End::Succeeded);
    let found = scores(&events);
    let metrics = found.models[0].evaluation.answers.unwrap();
    assert_eq!(metrics.answers, 3);
    assert!(
        (metrics.exact_match - 1.0 / 3.0).abs() < 1e-12 && (metrics.contains - 2.0 / 3.0).abs() < 1e-12,
        "{metrics:?}"
    );
    assert!(found.models[0].evaluation.loss.is_some(), "completions are scored, too");
    let difference = &found.differences[0];
    let other = found.models[1].evaluation.answers.unwrap();
    let exact = difference.exact_match.unwrap().difference;
    assert!((exact - (other.exact_match - metrics.exact_match)).abs() < 1e-12, "{difference:?}");
    let checkpoint = case.opened("step-000000");
    let first = checkpoint.file("rows.jsonl").unwrap().split(|byte| *byte == b'\n').next().unwrap();
    let first: Value = serde_json::from_slice(first).unwrap();
    assert_eq!(first["scores"][0]["exact_match"], json!(true));
    assert_eq!(first["scores"][0]["answer"].as_str().unwrap().trim(), own);
}

#[test]
fn choices_are_told_apart_by_their_likelihood() {
    let folder = tempfile::tempdir().unwrap();
    let choices = [" one", " a much longer choice of several words", " two"];
    let line = |right: usize| json!({"question": "How many?", "choices": choices, "answer": right});
    let mut task = comparison(ROWS, &[("base", None), ("again", None)]);
    task.data =
        ScoredRows { kind: RowKind::Choices, ..ScoredRows::of(vec![rows_of(&[line(0), line(1), line(2)], &folder)]) };
    let (case, end, events) = run(&task, None);
    assert_eq!(end, End::Succeeded);
    let found = scores(&events);
    let figures = found.models[0].evaluation.preference.unwrap();
    // The same question three times, each choice once the right one: one of the three is the likeliest.
    assert_eq!(figures.pairs, 3);
    assert!((figures.accuracy - 1.0 / 3.0).abs() < 1e-12, "{figures:?}");
    assert!((figures.accuracy_per_token.unwrap() - 1.0 / 3.0).abs() < 1e-12, "{figures:?}");
    assert_eq!(found.differences[0].preference_accuracy, Some(Interval::default()));
    let checkpoint = case.opened("step-000000");
    let lines = checkpoint.file("rows.jsonl").unwrap().clone();
    let lines: Vec<Value> = lines.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert!(lines.iter().all(|line| line["scores"][0]["others"].as_array().unwrap().len() == 2));
}

#[test]
fn a_cancelled_comparison_leaves_nothing_and_says_nothing() {
    let task = comparison(ROWS, &[("base", None), ("adapter", Some(adapter()))]);
    let (case, end, events) = run(&task, Some(Command::Cancel));
    assert_eq!(end, End::Stopped { checkpoint_id: None });
    assert!(!events.iter().any(|event| matches!(event, Event::Scores(_) | Event::CheckpointSaved(_))));
    assert!(!case.checkpoint("step-000000").exists());
}

#[test]
fn rows_without_two_answers_are_no_pairs() {
    let mut task = comparison(ROWS, &[("base", None), ("again", None)]);
    task.data.kind = hone_job::spec::RowKind::Pairs;
    let case = Case::of("llama", Task::Compare(task.clone()));
    let observer = Arc::new(Recorder::default());
    let failure = compare(&case.welcome, &task, &case.workspace(), observer).unwrap_err().failure();
    assert_eq!(failure.reason, hone_job::failure::Reason::InvalidData);
    assert!(failure.message.contains("96 rows are malformed"), "{failure}");
}

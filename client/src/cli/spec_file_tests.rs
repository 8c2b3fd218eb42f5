//! Specs in three notations, and what is none in any.

use super::*;
use crate::json::{line, pretty};

fn read_json(text: &str) -> Result<v1::JobSpec, Failure> {
    parse(text, Format::Json, "spec.json")
}

const YAML: &str = r#"
# A comment.
display_name: first try
labels: {team: search}
base_model:
  uri: s3://models/a
sft:
  data:
    train:
      - s3://rows/train.jsonl
    eval_fraction: 0.1
  adapter:
    lora: {rank: 8, target_modules: [q_proj, v_proj]}
  optimizer:
    learning_rate: 1e-4
    epsilon:
  schedule:
    type: SCHEDULE_TYPE_LINEAR
  epochs: 2
  seed: 18446744073709551615
"#;

const TOML: &str = r#"
# A comment.
display_name = "first try"
labels = { team = "search" }
base_model.uri = "s3://models/a"

[sft]
epochs = 2
seed = "18446744073709551615"
adapter.lora = { rank = 8, target_modules = ["q_proj", "v_proj"] }
optimizer.learning_rate = 1e-4
schedule.type = "SCHEDULE_TYPE_LINEAR"

[sft.data]
train = ["s3://rows/train.jsonl"]
eval_fraction = 0.1
"#;

const JSON: &str = r#"{
    "display_name": "first try", "labels": {"team": "search"}, "base_model": {"uri": "s3://models/a"},
    "sft": {
        "data": {"train": ["s3://rows/train.jsonl"], "eval_fraction": 0.1},
        "adapter": {"lora": {"rank": 8, "target_modules": ["q_proj", "v_proj"]}},
        "optimizer": {"learning_rate": 1e-4}, "schedule": {"type": "SCHEDULE_TYPE_LINEAR"},
        "epochs": 2, "seed": 18446744073709551615
    }
}"#;

#[test]
fn a_spec_is_the_same_in_every_notation() {
    let spec = read_json(JSON).expect("JSON");
    assert_eq!(parse(YAML, Format::Yaml, "spec.yaml").expect("YAML"), spec);
    assert_eq!(parse(TOML, Format::Toml, "spec.toml").expect("TOML"), spec);
    assert_eq!(parse(JSON, Format::Yaml, "spec.yaml").expect("JSON is YAML"), spec);
}

#[test]
fn the_name_of_a_file_says_how_it_is_written() {
    for (name, text, format) in [
        ("a.json", "", Format::Json),
        ("a.yaml", "{}", Format::Yaml),
        ("a.yml", "", Format::Yaml),
        ("a.toml", "", Format::Toml),
        ("-", " {}", Format::Json),
        ("-", "sft:", Format::Yaml),
    ] {
        assert_eq!(Format::of(Path::new(name), text), format, "{name} with {text:?}");
    }
}

#[test]
fn what_is_set_over_a_spec_takes_its_place() {
    let under = read_json(JSON).expect("a spec");
    let over = read_json(
        r#"{"labels": {"run": "2"}, "sft": {"data": {"train": ["ds-1"]}, "adapter": {"lora": {"alpha": 4}}, "max_steps": 3}}"#,
    );
    let found = crate::json::value("JobSpec", &overlaid(&under, &over.expect("a spec")));
    assert_eq!(found["labels"], serde_json::json!({"run": "2", "team": "search"}));
    let sft = &found["sft"];
    assert_eq!(sft["data"], serde_json::json!({"train": ["ds-1"], "eval_fraction": 0.1}), "a list as a whole");
    assert_eq!((&sft["adapter"]["lora"]["rank"], &sft["adapter"]["lora"]["alpha"]), (&8.into(), &4.0.into()));
    assert_eq!((&sft["epochs"], &sft["max_steps"]), (&Value::Null, &"3".into()), "one length excludes the other");
    assert_eq!(found["base_model"]["uri"], "s3://models/a");
}

#[test]
fn mistakes_in_yaml_and_toml_are_told_with_their_place() {
    for (text, format, part) in [
        ("sft:\n  epochs: [\n", Format::Yaml, "spec: not YAML"),
        ("sft:\n  max_steps: many\n", Format::Yaml, "line 2"),
        ("sft:\n  epochs: 1\n  max_steps: 1\n", Format::Yaml, "length"),
        ("sft = {", Format::Toml, "spec: not TOML"),
        ("[sft]\nmax_steps = \"many\"\n", Format::Toml, "line 2"),
    ] {
        let failure = parse(text, format, "spec").expect_err(text);
        assert!(failure.to_string().contains(part), "{text}: {failure}");
    }
    let failure = parse("[sft]\nmax_stesp = 1\n", Format::Toml, "spec").expect_err("unknown");
    assert_eq!(failure.json()["error"]["violations"][0]["description"], "unknown; did you mean max_steps?");
}

#[test]
fn specs_are_read_in_both_spellings_of_names_and_numbers() {
    for text in [
        r#"{"base_model": {"uri": "m"}, "sft": {"max_steps": "3", "seed": 7, "data": {"max_length": 64}}}"#,
        r#"{"baseModel": {"uri": "m"}, "sft": {"maxSteps": 3, "seed": "7", "data": {"maxLength": 64}}}"#,
    ] {
        let spec = read_json(text).expect(text);
        let Some(v1::job_spec::Task::Sft(sft)) = spec.task else { panic!("no task in {text}") };
        assert_eq!(sft.length, Some(v1::sft_task::Length::MaxSteps(3)));
        assert_eq!(sft.seed, Some(7));
        assert_eq!(sft.data.and_then(|data| data.max_length), Some(64));
    }
}

#[test]
fn a_spec_survives_being_written_and_read() {
    let text = r#"{"display_name":"d","labels":{"any_key":"v"},"sft":{"adapter":{"lora":{"rank":4}},"order":"ORDER_SEQUENTIAL"}}"#;
    let spec = read_json(text).expect("a spec");
    assert_eq!(line("JobSpec", &spec), text);
    assert_eq!(read_json(&pretty("JobSpec", &spec)).expect("a spec"), spec);
}

#[test]
fn every_unknown_name_is_told_with_what_may_be_meant() {
    let text = r#"{"base_model": {"url": "m"}, "labels": {"free": "word"},
        "sft": {"adapter": {"lora": {"ranks": 4}}, "gradient_accumulation_steps": 2, "precision": "PRECISION_BFLOAT32"}}"#;
    let failure = read_json(text).expect_err("unknown fields");
    let told = failure.json();
    assert_eq!(told["error"]["message"], "spec.json: not a spec: 4 names are unknown");
    let violations = told["error"]["violations"].as_array().expect("violations");
    let described: Vec<_> = violations
        .iter()
        .map(|one| (one["field"].as_str().unwrap_or_default(), one["description"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(described[0], ("base_model.url", "unknown; did you mean uri?"));
    assert_eq!(described[1], ("sft.adapter.lora.ranks", "unknown; did you mean rank?"));
    assert_eq!(described[2].0, "sft.gradient_accumulation_steps");
    assert!(described[2].1.starts_with("unknown; known are data, adapter, init_from"), "{}", described[2].1);
    let near = "PRECISION_BFLOAT32 is unknown; did you mean PRECISION_FLOAT32?";
    assert_eq!(described[3], ("sft.precision", near));
}

#[test]
fn what_is_no_spec_is_told_with_its_place() {
    for (text, part) in [
        ("{\"sft\": ", "spec.json: not JSON"),
        ("{\"sft\": {\"max_steps\": \"many\"}}", "line 1 column"),
        ("{\"sft\": {\"epochs\": 1, \"max_steps\": 1}}", "length"),
        ("[]", "spec.json: not a spec"),
    ] {
        let failure = read_json(text).expect_err(text);
        assert!(failure.to_string().contains(part), "{text}: {failure}");
    }
}

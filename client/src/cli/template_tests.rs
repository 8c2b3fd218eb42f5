//! What is written reads as the spec that it was made from, and every setting is in it.

use clap::ValueEnum;

use super::*;
use crate::init::Task;
use crate::spec_file::parse;

const COMMENTED: [Format; 2] = [Format::Yaml, Format::Toml];

fn written_for(task: Task, format: Format) -> (v1::JobSpec, String) {
    let spec = task.spec("model-1", &["ds-1".to_owned()]).expect("a spec");
    let text = template(&spec, format, "train").expect("a file");
    (spec, text)
}

fn all() -> impl Iterator<Item = (Task, Format)> {
    Task::value_variants().iter().flat_map(|task| COMMENTED.map(|format| (*task, format)))
}

#[test]
fn what_is_written_is_the_smallest_spec_of_its_task() {
    for (task, format) in all().chain(Task::value_variants().iter().map(|task| (*task, Format::Json))) {
        let (spec, text) = written_for(task, format);
        let read = parse(&text, format, "spec").expect(&text);
        assert_eq!(effective(&read).expect("a spec that may run"), effective(&spec).expect("a spec"), "{task:?}");
    }
}

/// Every setting that has a value behind its `#` changes nothing when the `#` is taken away: it is the default.
#[test]
fn what_stands_behind_a_sign_is_the_default() {
    for (task, format) in all() {
        let (spec, text) = written_for(task, format);
        let between = if format == Format::Yaml { ": " } else { " = " };
        let is_default = |line: &str| {
            let setting = line.trim_start().strip_prefix('#').and_then(|line| line.split_once(between));
            setting.is_some_and(|(name, value)| !name.starts_with(' ') && !["{}", "[]"].contains(&value))
        };
        let mut taken = 0;
        let lines = text.lines().map(|line| {
            let setting = is_default(line);
            taken += usize::from(setting);
            if setting { line.replacen('#', "", 1) } else { line.to_owned() }
        });
        let all = lines.collect::<Vec<_>>().join("\n");
        let read = parse(&all, format, "spec").expect(&all);
        assert_eq!(effective(&read).expect("a spec that may run"), effective(&spec).expect("a spec"), "{all}");
        assert!(taken >= 1, "{task:?}: {text}");
    }
}

#[test]
fn a_setting_stands_below_its_meaning() {
    let (_, text) = written_for(Task::Sft, Format::Yaml);
    for line in [
        "# yaml-language-server: $schema=job-spec.schema.json",
        "  uri: \"model-1\"",
        "    train: [\"ds-1\"]",
        "      #rank: 16",
        "    #learning_rate: 0.0002",
        "  #seed: 42",
        "    #type: SCHEDULE_TYPE_COSINE",
        "    #   SCHEDULE_TYPE_LINEAR: A straight line down to the floor.",
        "    # Rank of the update. 1 to 1024. Default 16.",
    ] {
        let found = text.lines().any(|there| there.trim_start() == line.trim_start());
        assert!(found, "{text}\nshould have {line}");
    }
    let (_, text) = written_for(Task::Compare, Format::Toml);
    for line in [
        "#:schema job-spec.schema.json",
        "base_model.uri = \"model-1\"",
        "compare.candidates = [{ name = \"base\" }, { name = \"tuned\", checkpoint = \"job-…\" }]",
        "compare.data.rows = [\"ds-1\"]",
    ] {
        assert!(text.lines().any(|there| there == line), "{text}\nshould have {line}");
    }
}

#[test]
fn every_field_of_a_task_has_a_line() {
    for task in Task::value_variants() {
        let (_, text) = written_for(*task, Format::Yaml);
        let mut waiting = vec![descriptor("JobSpec").get_field_by_name(&task.name()).expect("a task")];
        while let Some(field) = waiting.pop() {
            let setting = format!("{}:", field.name());
            let there = text.lines().any(|line| line.trim_start().trim_start_matches('#').starts_with(&setting));
            assert!(there, "{task:?}: {} in\n{text}", field.name());
            let inner = field.kind().as_message().filter(|_| !field.is_list() && !field.is_map()).cloned();
            // Of the trainings that a benchmark may measure one is there.
            let other = |field: &FieldDescriptor| {
                field.containing_oneof().is_some_and(|oneof| oneof.name() == "training") && field.name() != "sft"
            };
            let fields = inner.iter().flat_map(|message| message.fields().collect::<Vec<_>>());
            waiting.extend(fields.filter(|field| !other(field)));
        }
    }
}

//! `init`: a spec to start from, in YAML: what is required is set, everything else stands there at its default behind a `#`, with
//! the proto's own words about it. Read from the descriptors, so that no setting and no default is written down twice.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hone_client::spec::{
    Benchmark, Candidate, Compare, Data, Dpo, Evaluate, Export, ExportFormat, Generate, Job, PromptRows, ScoredRows,
    Sft, effective,
};
use hone_client::v1;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::follow::Ending;
use crate::json::{descriptor, value};
use crate::output::Output;
use crate::train::{command_for, write_whole};

/// What to write.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// What the job is to do.
    task: Task,
    /// The file to write; - prints the spec. Default: TASK.yaml.
    file: Option<PathBuf>,
    /// The base model to name in it: an id, a URI, or a local path.
    #[arg(long, default_value = "model.gguf")]
    model: String,
    /// The rows to name in it: an id, a URI, or a local file. May be repeated.
    #[arg(long, default_value = "rows.jsonl")]
    rows: Vec<String>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

/// A task of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Supervised fine-tuning.
    Sft,
    /// Learning from pairs of answers.
    Dpo,
    /// One model scored on rows.
    Evaluate,
    /// Models scored on the same rows.
    Compare,
    /// Prompts that a model answers.
    Generate,
    /// A trained model as files that other tools load.
    Export,
    /// Training with several settings, to see which is fastest.
    Benchmark,
}

pub(crate) fn run(args: &InitArgs, out: &Output) -> Result<Ending, Failure> {
    let file = args.file.clone().unwrap_or_else(|| format!("{}.yaml", args.task.name()).into());
    let spec = args.task.spec(&args.model, &args.rows)?;
    let text = template(&spec, &args.command(&spec, &file))?;
    if file.to_str() == Some("-") {
        out.show("JobSpec", &spec, || text.trim_end().to_owned())?;
        return Ok(Ending::Done);
    }
    if file.exists() && !args.force {
        let message = format!("{} is there already", file.display());
        return Err(Failure::input_with_hint(message, "name another file, or write over it with --force"));
    }
    write_whole(&file, &text)?;
    match out.json {
        true => out.print(&json!({ "path": file.to_string_lossy() }).to_string())?,
        false => out.print(&format!("{}\nrun it: hone {}", file.display(), args.command(&spec, &file)))?,
    }
    Ok(Ending::Done)
}

impl InitArgs {
    fn command(&self, spec: &v1::JobSpec, file: &std::path::Path) -> String {
        spec.task.as_ref().map(|task| command_for(task, file)).unwrap_or_default()
    }
}

impl Task {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The smallest spec of the task.
    fn spec(self, model: &str, rows: &[String]) -> Result<v1::JobSpec, Failure> {
        let scored = || ScoredRows::new(rows);
        let candidates = [Candidate::new("base"), Candidate::new("tuned").checkpoint("job-…")];
        let job = match self {
            Self::Sft => Job::new(model, Sft::new(Data::new(rows))),
            Self::Dpo => Job::new(model, Dpo::new(Data::new(rows))),
            Self::Evaluate => Job::new(model, Evaluate::new(scored())),
            Self::Compare => Job::new(model, Compare::new(candidates, scored())),
            Self::Generate => Job::new(model, Generate::new(PromptRows::new(rows))),
            // A task without any setting would be none.
            Self::Export => Job::new(model, Export::new().format(ExportFormat::HuggingFace)),
            Self::Benchmark => Job::new(model, Benchmark::new().sft(Sft::new(Data::new(rows)))),
        };
        Ok(job.build()?)
    }
}

/// The whole file.
fn template(spec: &v1::JobSpec, command: &str) -> Result<String, Failure> {
    let mut page = Page::default();
    page.line(
        0,
        "# A job for hone. What stands behind a # is a setting at its default: take the # away and change it.",
    );
    page.line(0, "# Models and rows are ids, file:// or s3:// URIs, or local paths, which are uploaded first.");
    page.line(0, &format!("# Run it: hone {command}"));
    page.message(&descriptor("JobSpec"), &value("JobSpec", spec), &value("JobSpec", &effective(spec)?), 0);
    Ok(page.text)
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, depth: usize, text: &str) {
        let line = format!("{}{text}", "  ".repeat(depth));
        self.text += line.trim_end();
        self.text.push('\n');
    }

    /// The fields of a message: what is `given` is set, the rest is shown as it is by default.
    fn message(&mut self, message: &MessageDescriptor, given: &Value, defaults: &Value, depth: usize) {
        // The numbers of fields tell their age, not their place; the order of the file is that of a reader.
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(|field| field.path().to_vec());
        for field in fields {
            let name = field.name();
            let is_task = field.containing_oneof().is_some_and(|oneof| ["task", "training"].contains(&oneof.name()));
            if is_task && given.get(name).is_none() {
                continue;
            }
            if depth == 0 || matches!(field.kind(), Kind::Message(_)) {
                self.line(0, "");
            }
            self.about(&field, depth);
            self.field(&field, given.get(name), defaults.get(name), depth);
        }
    }

    fn field(&mut self, field: &FieldDescriptor, given: Option<&Value>, default: Option<&Value>, depth: usize) {
        let name = field.name();
        let kind = field.kind();
        let part = kind.as_message().filter(|_| !field.is_list() && !field.is_map());
        match (part, given, default) {
            (Some(part), ..) if part.fields().len() == 0 => self.line(depth, &format!("#{name}: {{}}")),
            (Some(part), ..) => {
                self.line(depth, &format!("{name}:"));
                let (given, default) = (given.unwrap_or(&Value::Null), default.unwrap_or(&Value::Null));
                self.message(part, given, default, depth + 1);
            }
            (None, Some(given), _) => self.line(depth, &format!("{name}: {}", written(given, &kind))),
            (None, None, Some(default)) => self.line(depth, &format!("#{name}: {}", written(default, &kind))),
            (None, None, None) if field.is_list() => self.line(depth, &format!("#{name}: []")),
            (None, None, None) if field.is_map() => self.line(depth, &format!("#{name}: {{}}")),
            (None, None, None) => self.line(depth, &format!("#{name}:")),
        }
    }

    /// What the proto says of a field, of the values that it may have, and of what its entries are made of.
    fn about(&mut self, field: &FieldDescriptor, depth: usize) {
        for line in comment(field.parent_file().file_descriptor_proto(), field.path()) {
            self.line(depth, &format!("# {line}"));
        }
        match field.kind() {
            Kind::Enum(choices) => self.choices(&choices, depth),
            Kind::Message(entry) if field.is_list() => {
                self.line(depth, "# Each has:");
                for field in entry.fields() {
                    let about = comment(field.parent_file().file_descriptor_proto(), field.path()).join(" ");
                    self.line(depth, &format!("#   {}: {about}", field.name()));
                    if let Kind::Enum(choices) = field.kind() {
                        self.choices(&choices, depth);
                    }
                }
            }
            _ => {}
        }
    }

    fn choices(&mut self, choices: &EnumDescriptor, depth: usize) {
        self.line(depth, "# One of:");
        for choice in choices.values().filter(|value| value.number() != 0) {
            let about = comment(choice.parent_file().file_descriptor_proto(), choice.path()).join(" ");
            self.line(depth, &format!("#   {}: {about}", choice.name()));
        }
    }
}

/// The lines of a comment in a proto.
fn comment(file: &prost_types::FileDescriptorProto, path: &[i32]) -> Vec<String> {
    let mut places = file.source_code_info.iter().flat_map(|info| &info.location);
    let found = places.find(|place| place.path == path);
    let text = found.map(|place| place.leading_comments()).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// A value as YAML: numbers bare, although protobuf JSON writes large ones as texts; names of enums bare; the rest as JSON.
fn written(value: &Value, kind: &Kind) -> String {
    match (value, kind) {
        (Value::String(text), Kind::Uint64 | Kind::Enum(_)) => text.clone(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec_file::{Format, parse};

    const TASKS: [Task; 7] =
        [Task::Sft, Task::Dpo, Task::Evaluate, Task::Compare, Task::Generate, Task::Export, Task::Benchmark];

    fn written_for(task: Task) -> (v1::JobSpec, String) {
        let spec = task.spec("model-1", &["ds-1".to_owned()]).expect("a spec");
        let text = template(&spec, "train").expect("a file");
        (spec, text)
    }

    #[test]
    fn what_is_written_is_the_smallest_spec_of_its_task() {
        for task in TASKS {
            let (spec, text) = written_for(task);
            let read = parse(&text, Format::Yaml, "spec.yaml").expect(&text);
            assert_eq!(effective(&read).expect("a spec that may run"), effective(&spec).expect("a spec"), "{task:?}");
        }
    }

    /// Every setting that has a value behind its `#` changes nothing when the `#` is taken away: it is the default.
    #[test]
    fn what_stands_behind_a_sign_is_the_default() {
        for task in TASKS {
            let (spec, text) = written_for(task);
            let is_default = |line: &str| {
                let setting = line.trim_start().strip_prefix('#').and_then(|line| line.split_once(": "));
                setting.is_some_and(|(name, value)| !name.starts_with(' ') && !["{}", "[]"].contains(&value))
            };
            let mut taken = 0;
            let lines = text.lines().map(|line| {
                let setting = is_default(line);
                taken += usize::from(setting);
                if setting { line.replacen('#', "", 1) } else { line.to_owned() }
            });
            let all = lines.collect::<Vec<_>>().join("\n");
            let read = parse(&all, Format::Yaml, "spec.yaml").expect(&all);
            assert_eq!(effective(&read).expect("a spec that may run"), effective(&spec).expect("a spec"), "{all}");
            assert!(taken >= 1, "{task:?}: {text}");
        }
        let (_, text) = written_for(Task::Sft);
        for line in [
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
    }

    #[test]
    fn every_field_of_a_task_has_a_line() {
        for task in TASKS {
            let (_, text) = written_for(task);
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
}

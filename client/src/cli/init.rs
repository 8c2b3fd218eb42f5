//! `init`: a spec to start from, and beside it the schema that an editor completes and checks it by.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hone_client::spec::{
    Benchmark, Candidate, Compare, Data, Dpo, Evaluate, Export, ExportFormat, Generate, Job, PromptRows, ScoredRows,
    Sft,
};
use hone_client::v1;
use serde_json::json;

use crate::failure::Failure;
use crate::follow::Ending;
use crate::output::Output;
use crate::spec_file::Format;
use crate::template::{SCHEMA_FILE, template};
use crate::train::{command_for, write_whole};

/// What `scripts/spec_schema.py` makes of the protos.
const SCHEMA: &str = include_str!("../../job-spec.schema.json");

/// What to write.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// What the job is to do.
    task: Task,
    /// The file to write, whose ending says how: .yaml, .toml, or .json, which has no room for comments; - prints the spec in
    /// YAML. Default: TASK.yaml. The schema for editors goes beside it.
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
pub(crate) enum Task {
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
    let text = template(&spec, Format::named(&file).unwrap_or(Format::Yaml), &args.command(&spec, &file))?;
    if file.to_str() == Some("-") {
        out.show("JobSpec", &spec, || text.trim_end().to_owned())?;
        return Ok(Ending::Done);
    }
    if file.exists() && !args.force {
        let message = format!("{} is there already", file.display());
        return Err(Failure::input_with_hint(message, "name another file, or write over it with --force"));
    }
    write_whole(&file, &text)?;
    let schema = file.with_file_name(SCHEMA_FILE);
    if !schema.exists() || args.force {
        write_whole(&schema, SCHEMA)?;
    }
    match out.json {
        true => out.print(&json!({ "path": file.to_string_lossy() }).to_string())?,
        false => out.print(&format!("{}\nrun it: hone {}", file.display(), args.command(&spec, &file)))?,
    }
    Ok(Ending::Done)
}

impl InitArgs {
    fn command(&self, spec: &v1::JobSpec, file: &Path) -> String {
        spec.task.as_ref().map(|task| command_for(task, file)).unwrap_or_default()
    }
}

impl Task {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The smallest spec of the task.
    pub(crate) fn spec(self, model: &str, rows: &[String]) -> Result<v1::JobSpec, Failure> {
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

//! `jobs`: create from a spec, show, list, follow, wait, pause, resume, save, cancel, fetch a report, delete.

use std::path::Path;

use chrono::Local;
use hone_client::{Client, v1};
use v1::job_event::Event;

use crate::args::JobsCommand;
use crate::failure::Failure;
use crate::follow::{Ending, closing, follow};
use crate::human::{ago, count, date, duration, printable};
use crate::narrate::{failure_text, result_text, state, state_name};
use crate::output::{Output, Paint};
use crate::page::Page;
use crate::table::Table;
use crate::train::write_whole;
use crate::{highlights, json, locate, spec_file};

/// How many of the last events are searched for the latest losses.
const LATEST_EVENTS: u64 = 400;

pub(crate) async fn run(command: JobsCommand, client: &Client, out: &Output) -> Result<Ending, Failure> {
    match command {
        JobsCommand::Create { spec, validate_only, request_id } => {
            create(&spec, validate_only, request_id, client, out).await?;
        }
        JobsCommand::Get { job } => get(&job, client, out).await?,
        JobsCommand::List { page, state, label } => {
            let filter = v1::ListJobsRequest {
                states: state.into_iter().map(i32::from).collect(),
                labels: label.into_iter().collect(),
                ..Default::default()
            };
            let jobs = list(client, page, filter).await?;
            out.show_all("Job", &jobs, || table(&jobs).text("no jobs"))?;
        }
        JobsCommand::Watch { job, after } => return follow(&client.job(job), after, out).await,
        JobsCommand::Wait { job } => {
            let finished = client.job(job).wait().await?;
            out.show("Job", &finished.job, || closing(&finished, true, out.paint))?;
            return Ok(Ending::from(&finished.outcome));
        }
        JobsCommand::Pause { job } => {
            let job = client.pause_job(&job).await?;
            out.show("Job", &job, || format!("{} {}", job.job_id, state(job.state, out.paint)))?;
        }
        JobsCommand::Resume { job, epochs, max_steps } => {
            let handle = client.job(&job);
            let job = match (epochs, max_steps) {
                (None, None) => handle.resume().await?,
                _ => {
                    let spec = handle.get().await?.spec.unwrap_or_default();
                    handle.resume_with(with_length(spec, epochs, max_steps)).await?
                }
            };
            out.show("Job", &job, || format!("{} {}", job.job_id, state(job.state, out.paint)))?;
        }
        JobsCommand::Save { job } => {
            let checkpoint = client.checkpoint_job(&job).await?;
            out.show("Checkpoint", &checkpoint, || format!("{} in {}", checkpoint.checkpoint_id, checkpoint.uri))?;
        }
        JobsCommand::Cancel { job } => {
            let job = client.cancel_job(&job).await?;
            out.show("Job", &job, || format!("{} {}", job.job_id, state(job.state, out.paint)))?;
        }
        JobsCommand::Report { job, to } => fetch_report(&job, &to, client, out).await?,
        JobsCommand::Delete { jobs } => {
            for job in jobs {
                client.delete_job(&job).await?;
                out.deleted(&job)?;
            }
        }
    }
    Ok(Ending::Done)
}

/// Writes the files of a job's report into a folder.
async fn fetch_report(job_id: &str, to: &Path, client: &Client, out: &Output) -> Result<(), Failure> {
    let files = client.job(job_id).report().await?;
    std::fs::create_dir_all(to).map_err(|error| Failure::file("make", to, error))?;
    for file in files {
        // A name is a name, whoever answers.
        let Some(name) = Path::new(&file.name).file_name() else { continue };
        let path = to.join(name);
        write_whole(&path, &file.data)?;
        match out.json {
            true => out.print(&serde_json::json!({ "output": path.to_string_lossy(), "uri": file.uri }).to_string())?,
            false => out.print(&path.display().to_string())?,
        }
    }
    Ok(())
}

/// The spec with another length.
fn with_length(mut spec: v1::JobSpec, epochs: Option<f64>, max_steps: Option<u64>) -> v1::JobSpec {
    use v1::job_spec::Task;
    use v1::{dpo_task, sft_task};
    match &mut spec.task {
        Some(Task::Sft(task)) => {
            task.length = epochs.map(sft_task::Length::Epochs).or(max_steps.map(sft_task::Length::MaxSteps));
        }
        Some(Task::Dpo(task)) => {
            task.length = epochs.map(dpo_task::Length::Epochs).or(max_steps.map(dpo_task::Length::MaxSteps));
        }
        Some(Task::Evaluate(_) | Task::Compare(_) | Task::Generate(_) | Task::Export(_) | Task::Benchmark(_))
        | None => {}
    }
    spec
}

async fn create(
    file: &Path,
    validate_only: bool,
    request_id: Option<String>,
    client: &Client,
    out: &Output,
) -> Result<(), Failure> {
    let spec = locate::spec(spec_file::read(file)?, client, out).await?;
    if validate_only {
        return validate(spec, client, out).await;
    }
    let job = match request_id {
        Some(request_id) => client.create_job_once(request_id, spec).await?,
        None => client.create_job(spec).await?,
    };
    let created = job.get().await?;
    out.show("Job", &created, || format!("{}\nwatch it: hone jobs watch {}", job.id(), job.id()))
}

/// Shows a spec with every default filled in, or why there can be no such job: a Job without an id for programs, the
/// spec for people, who may keep it in a file.
pub(crate) async fn validate(spec: v1::JobSpec, client: &Client, out: &Output) -> Result<(), Failure> {
    let effective = client.validate_job(spec).await?;
    let text = json::pretty("JobSpec", &effective);
    let job = v1::Job { spec: Some(effective), ..Default::default() };
    out.show("Job", &job, || text)
}

async fn list(client: &Client, page: Page, filter: v1::ListJobsRequest) -> Result<Vec<v1::Job>, Failure> {
    let list = async |page_size, page_token| {
        let answer = client.list_jobs(v1::ListJobsRequest { page_size, page_token, ..filter.clone() }).await?;
        Ok((answer.jobs, answer.next_page_token))
    };
    page.all(list).await
}

fn table(jobs: &[v1::Job]) -> Table {
    let mut table = Table::new(&["JOB", "NAME", "STATE", "STEP", "HELD-OUT LOSS", "CREATED"], &[3, 4]);
    let now = Local::now();
    for job in jobs {
        table.row([
            job.job_id.clone(),
            printable(job.spec.as_ref().map_or("", |spec| spec.display_name.as_str())),
            state_name(job.state),
            steps(job).unwrap_or_else(|| "-".to_owned()),
            losses(job).unwrap_or_else(|| "-".to_owned()),
            job.create_time.as_ref().map(|time| ago(time, now)).unwrap_or_default(),
        ]);
    }
    table
}

fn steps(job: &v1::Job) -> Option<String> {
    (job.total_steps > 0).then(|| format!("{}/{}", count(job.step), count(job.total_steps)))
}

fn losses(job: &v1::Job) -> Option<String> {
    let result = job.result.as_ref()?;
    let after = result.eval_loss_after?;
    Some(match result.eval_loss_before {
        Some(before) => format!("{before:.4} -> {after:.4}"),
        None => format!("{after:.4}"),
    })
}

/// The latest that a job's events say of its losses.
#[derive(Debug, Default)]
struct Latest {
    step: Option<v1::TrainStep>,
    evaluation: Option<v1::EvaluationResult>,
    checkpoint: Option<v1::CheckpointSaved>,
}

impl Latest {
    fn of(events: Vec<v1::JobEvent>) -> Self {
        let mut latest = Self::default();
        for event in events {
            match event.event {
                Some(Event::TrainStep(step)) => latest.step = Some(step),
                Some(Event::Evaluation(result)) => latest.evaluation = Some(result),
                Some(Event::CheckpointSaved(saved)) => latest.checkpoint = Some(saved),
                _ => {}
            }
        }
        latest
    }
}

async fn get(job_id: &str, client: &Client, out: &Output) -> Result<(), Failure> {
    let job = client.get_job(job_id).await?;
    if out.json {
        return out.print(&json::line("Job", &job));
    }
    let after = job.last_sequence.saturating_sub(LATEST_EVENTS);
    let latest = Latest::of(client.job(job_id).events_so_far(after).await?);
    out.print(&text(&job, &latest, out.paint))
}

/// A job for people.
fn text(job: &v1::Job, latest: &Latest, paint: Paint) -> String {
    let name = job.spec.as_ref().map_or("", |spec| spec.display_name.as_str());
    let mut lines = vec![format!("{}  {}", paint.bold(&job.job_id), printable(name)).trim_end().to_owned()];
    let mut line = |heading: &str, text: String| {
        let room = format!("\n{:11}", "");
        lines.push(format!("{}  {}", paint.dim(&format!("{heading:<9}")), text.replace('\n', &room)));
    };
    let detail = match job.state_detail.is_empty() {
        true => String::new(),
        false => format!(": {}", printable(&job.state_detail)),
    };
    line("state", format!("{}{detail}", state(job.state, paint)));
    if let Some(steps) = steps(job) {
        line("step", steps);
    }
    line("time", times(job));
    for (heading, text) in job.spec.iter().flat_map(highlights::of) {
        line(heading, text);
    }
    if let Some(step) = &latest.step {
        let loss = crate::human::loss(step.loss);
        let left = match hone_client::is_final(job.state()) {
            true => String::new(),
            false => format!(", {} left then", duration(step.remaining_seconds)),
        };
        line("loss", format!("{loss} at step {}{left}", step.step));
    }
    if let Some(result) = &latest.evaluation {
        let loss = crate::human::loss(result.loss);
        line("eval loss", format!("{loss} ± {:.4} at step {}", result.loss_standard_error, result.step));
    }
    if let (Some(saved), None) = (&latest.checkpoint, &job.result) {
        line("saved", format!("{} in {}", printable(&saved.checkpoint_id), printable(&saved.uri)));
    }
    if let Some(failure) = &job.failure {
        line("failure", failure_text(failure, paint));
    }
    if let Some(result) = &job.result {
        line("result", result_text(result, paint));
    }
    lines.join("\n")
}

fn times(job: &v1::Job) -> String {
    let mut parts = Vec::new();
    for (verb, time) in [("created", &job.create_time), ("started", &job.start_time), ("ended", &job.end_time)] {
        parts.extend(time.as_ref().map(|time| format!("{verb} {}", date(time))));
    }
    if job.attempt > 1 {
        parts.push(format!("attempt {}", job.attempt));
    }
    parts.join(", ")
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;

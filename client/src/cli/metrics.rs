//! `export-metrics`: a job's numbers for other tools: CSV, or TensorBoard's event files, as they come if one follows.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use futures::StreamExt;
use hone_client::{Client, JobHandle, v1};
use serde_json::json;
use v1::job_event::Event;

use crate::failure::Failure;
use crate::follow::Ending;
use crate::output::Output;
use crate::tensorboard;

/// Which jobs, and where to.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("to").required(true).multiple(true)))]
pub(crate) struct MetricsArgs {
    /// Ids of the jobs, job-…
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    /// A folder for CSV: a file JOB.csv for each job, a line for each number.
    #[arg(long, value_name = "DIR", group = "to")]
    csv: Option<PathBuf>,
    /// A folder for TensorBoard's event files, JOB/events.out.tfevents.…; `tensorboard --logdir DIR` shows them.
    #[arg(long, value_name = "DIR", group = "to")]
    tensorboard: Option<PathBuf>,
    /// Go on with what is still to come, until the jobs have ended.
    #[arg(long)]
    follow: bool,
}

/// A number of a job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scalar {
    /// What it is, such as `train/loss`.
    pub(crate) tag: &'static str,
    /// Steps taken.
    pub(crate) step: u64,
    /// When, in seconds since 1970.
    pub(crate) wall_time: f64,
    /// The number.
    pub(crate) value: f64,
}

/// What of an event is a number over steps. Use of the machine has no step of its own: it has the one before it.
pub(crate) fn scalars(event: &v1::JobEvent, last_step: &mut u64) -> Vec<Scalar> {
    let time = event.time.unwrap_or_default();
    let wall_time = time.seconds as f64 + f64::from(time.nanos) / 1e9;
    let (step, values): (u64, Vec<(&'static str, Option<f64>)>) = match &event.event {
        Some(Event::TrainStep(step)) => {
            *last_step = step.step;
            let mut values = vec![
                ("train/loss", step.loss),
                ("train/grad_norm", step.grad_norm),
                ("train/learning_rate", Some(step.learning_rate)),
                ("train/epoch", Some(step.epoch)),
                ("train/token_accuracy", Some(step.token_accuracy)),
                ("train/tokens_per_second", Some(step.tokens_per_second)),
                ("train/step_seconds", Some(step.step_seconds)),
            ];
            if let Some(pairs) = &step.preference {
                values.extend([("train/accuracy", Some(pairs.accuracy)), ("train/margin", Some(pairs.margin))]);
            }
            (step.step, values)
        }
        Some(Event::Evaluation(found)) => {
            let mut values = vec![
                ("eval/loss", found.loss),
                ("eval/loss_standard_error", Some(found.loss_standard_error)),
                ("eval/perplexity", found.perplexity),
                ("eval/token_accuracy", Some(found.token_accuracy)),
            ];
            if let Some(pairs) = &found.preference {
                values.extend([("eval/accuracy", Some(pairs.accuracy)), ("eval/margin", Some(pairs.margin))]);
            }
            (found.step, values)
        }
        Some(Event::GradientNoise(found)) => (found.step, vec![("train/gradient_noise_scale", found.noise_scale)]),
        Some(Event::ResourceUsage(usage)) => {
            let bytes = usage.host_memory_bytes as f64;
            (*last_step, vec![("machine/memory_bytes", Some(bytes)), ("machine/cpu_cores", Some(usage.cpu_cores))])
        }
        _ => (0, Vec::new()),
    };
    let scalar = |(tag, value): (&'static str, Option<f64>)| Some(Scalar { tag, step, wall_time, value: value? });
    values.into_iter().filter_map(scalar).collect()
}

pub(crate) async fn run(args: MetricsArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let jobs: BTreeSet<&String> = args.jobs.iter().collect();
    for job_id in &jobs {
        // One that is not there, or whose id is another thing's, is found before anything is written.
        client.get_job(job_id).await?;
    }
    let exports = jobs.into_iter().map(|job_id| export(job_id, &args, client, out));
    for done in futures::future::join_all(exports).await {
        done?;
    }
    Ok(Ending::Done)
}

async fn export(job_id: &str, args: &MetricsArgs, client: &Client, out: &Output) -> Result<(), Failure> {
    let mut files = Files::create(job_id, args)?;
    let job = client.job(job_id);
    let (mut last_step, mut numbers) = (0, 0u64);
    let mut write = |event: &v1::JobEvent, files: &mut Files| {
        let scalars = scalars(event, &mut last_step);
        numbers += scalars.len() as u64;
        files.write(&scalars)
    };
    match args.follow {
        true => follow(&job, &mut files, &mut write).await?,
        false => {
            for event in job.events_so_far(0).await? {
                write(&event, &mut files)?;
            }
        }
    }
    files.flush()?;
    for path in files.paths() {
        match out.json {
            true => out.print(&json!({ "output": path.to_string_lossy(), "numbers": numbers }).to_string())?,
            false => out.print(&path.display().to_string())?,
        }
    }
    Ok(())
}

async fn follow(
    job: &JobHandle,
    files: &mut Files,
    write: &mut impl FnMut(&v1::JobEvent, &mut Files) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut events = job.watch();
    while let Some(event) = events.next().await {
        write(&event?, files)?;
        // Whoever looks at the files sees what there is.
        files.flush()?;
    }
    Ok(())
}

/// The files of a job.
struct Files {
    csv: Option<(PathBuf, BufWriter<File>)>,
    tensorboard: Option<(PathBuf, tensorboard::Writer<BufWriter<File>>)>,
}

impl Files {
    fn create(job_id: &str, args: &MetricsArgs) -> Result<Self, Failure> {
        let mut files = Self { csv: None, tensorboard: None };
        if let Some(folder) = &args.csv {
            let (path, mut file) = create(folder, &format!("{job_id}.csv"))?;
            writeln!(file, "step,time,name,value").map_err(|error| Failure::file("write", &path, error))?;
            files.csv = Some((path, file));
        }
        if let Some(folder) = &args.tensorboard {
            // TensorBoard reads files that are named so, and the latest of a folder last.
            let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
            let (path, file) = create(&folder.join(job_id), &format!("events.out.tfevents.{seconds:010}.hone"))?;
            let writer = tensorboard::Writer::new(file).map_err(|error| Failure::file("write", &path, error))?;
            files.tensorboard = Some((path, writer));
        }
        Ok(files)
    }

    fn write(&mut self, scalars: &[Scalar]) -> Result<(), Failure> {
        for scalar in scalars {
            if let Some((path, file)) = &mut self.csv {
                let Scalar { tag, step, wall_time, value } = scalar;
                let written = writeln!(file, "{step},{wall_time:.3},{tag},{value}");
                written.map_err(|error| Failure::file("write", &*path, error))?;
            }
            if let Some((path, writer)) = &mut self.tensorboard {
                writer.write(scalar).map_err(|error| Failure::file("write", &*path, error))?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if let Some((path, file)) = &mut self.csv {
            file.flush().map_err(|error| Failure::file("write", &*path, error))?;
        }
        if let Some((path, writer)) = &mut self.tensorboard {
            writer.flush().map_err(|error| Failure::file("write", &*path, error))?;
        }
        Ok(())
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let csv = self.csv.iter().map(|(path, _)| path.as_path());
        csv.chain(self.tensorboard.iter().map(|(path, _)| path.as_path()))
    }
}

fn create(folder: &Path, name: &str) -> Result<(PathBuf, BufWriter<File>), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| Failure::file("make", folder, error))?;
    let path = folder.join(name);
    let file = File::create(&path).map_err(|error| Failure::file("write", &path, error))?;
    Ok((path, BufWriter::new(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_step_that_they_belong_to_and_what_is_absent_has_none() {
        let event = |event: Event| v1::JobEvent { event: Some(event), ..Default::default() };
        let step = v1::TrainStep { step: 3, loss: Some(1.5), learning_rate: 0.5, ..Default::default() };
        let usage = v1::ResourceUsage { host_memory_bytes: 7, ..Default::default() };
        let evaluation = v1::EvaluationResult { step: 2, loss: None, token_accuracy: 0.25, ..Default::default() };
        let mut last = 0;
        let mut told = |one: Event| {
            scalars(&event(one), &mut last).into_iter().map(|one| (one.tag, one.step, one.value)).collect::<Vec<_>>()
        };
        let train = told(Event::TrainStep(step));
        assert_eq!(train[..2], [("train/loss", 3, 1.5), ("train/learning_rate", 3, 0.5)], "no gradient norm");
        assert_eq!(told(Event::ResourceUsage(usage))[0], ("machine/memory_bytes", 3, 7.0));
        let eval = told(Event::Evaluation(evaluation));
        assert!(eval.iter().all(|(tag, step, _)| *step == 2 && *tag != "eval/loss"), "{eval:?}");
        assert!(told(Event::Phase(v1::Phase::default())).is_empty());
    }
}

//! `export-metrics`: a job's numbers for other tools: CSV or TensorBoard's event files, as they come if one follows; Parquet.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use futures::StreamExt;
use hone_client::{Client, JobHandle, v1};
use hone_metrics::scalar::{Scalar, Scalars};
use hone_metrics::tensorboard;
use serde_json::json;

use crate::failure::Failure;
use crate::follow::Ending;
use crate::output::Output;
use crate::parquet;

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
    /// A folder for Parquet: a file JOB.parquet for each job, written when all of its numbers are there.
    #[arg(long, value_name = "DIR", group = "to")]
    parquet: Option<PathBuf>,
    /// Go on with what is still to come, until the jobs have ended.
    #[arg(long)]
    follow: bool,
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
    let (mut scalars, mut numbers) = (Scalars::default(), 0u64);
    let mut write = |event: &v1::JobEvent, files: &mut Files| {
        let scalars = scalars.of(event);
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
    files.finish()?;
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
    /// With what is to be written at the end: Parquet says last where its columns are.
    parquet: Option<(PathBuf, Vec<Scalar>)>,
}

impl Files {
    fn create(job_id: &str, args: &MetricsArgs) -> Result<Self, Failure> {
        let mut files = Self { csv: None, tensorboard: None, parquet: None };
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
        if let Some(folder) = &args.parquet {
            std::fs::create_dir_all(folder).map_err(|error| Failure::file("make", folder, error))?;
            files.parquet = Some((folder.join(format!("{job_id}.parquet")), Vec::new()));
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
        if let Some((_, numbers)) = &mut self.parquet {
            numbers.extend_from_slice(scalars);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.flush()?;
        self.parquet.as_ref().map_or(Ok(()), |(path, numbers)| parquet::write(path, numbers))
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
        let tensorboard = self.tensorboard.iter().map(|(path, _)| path.as_path());
        csv.chain(tensorboard).chain(self.parquet.iter().map(|(path, _)| path.as_path()))
    }
}

fn create(folder: &Path, name: &str) -> Result<(PathBuf, BufWriter<File>), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| Failure::file("make", folder, error))?;
    let path = folder.join(name);
    let file = File::create(&path).map_err(|error| Failure::file("write", &path, error))?;
    Ok((path, BufWriter::new(file)))
}

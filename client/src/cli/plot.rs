//! `plot`: jobs as a picture: losses, rates, norms, throughput, memory; several over one another.

use std::path::Path;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use hone_client::{Client, v1};
use hone_metrics::picture::{Picture, Subject, Topic, Undrawable};
use hone_metrics::run::Run;
use serde_json::json;

use crate::args::PlotArgs;
use crate::failure::Failure;
use crate::follow::Ending;
use crate::human::counted;
use crate::narrate::state_name;
use crate::output::Output;
use crate::train::write_whole;

pub(crate) async fn run(args: PlotArgs, client: &Client, out: &Output) -> Result<Ending, Failure> {
    let format = Format::of(&args.output)?;
    if args.csv.is_some() && args.jobs.len() > 1 {
        let hint = "hone export-metrics --csv DIR writes a file for each job";
        return Err(Failure::input_with_hint("--csv takes the numbers of one job", hint));
    }
    let mut jobs = Vec::new();
    for job_id in &args.jobs {
        let job = client.get_job(job_id).await?;
        let run = Run::of(&client.job(job_id).events_so_far(0).await?);
        jobs.push((job, run));
    }
    let picture = picture(&jobs, &args.only).ok_or_else(|| {
        let hint = "wait for a first step; hone jobs watch shows when it comes";
        Failure::input_with_hint(format!("{}: there is nothing to draw yet", args.jobs.join(", ")), hint)
    })?;
    write_whole(&args.output, format.bytes(&picture)?)?;
    if let (Some(csv), [(_, run)]) = (&args.csv, &jobs[..]) {
        write_whole(csv, run.csv())?;
    }
    match out.json {
        true => out.print(&json!({ "output": args.output.to_string_lossy() }).to_string())?,
        false => out.print(&args.output.display().to_string())?,
    }
    Ok(Ending::Done)
}

/// How the picture is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Svg,
}

impl Format {
    fn of(path: &Path) -> Result<Format, Failure> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
        match ending.as_str() {
            "png" => Ok(Format::Png),
            "svg" => Ok(Format::Svg),
            _ => {
                let hint = "give --output a name that ends with .png or .svg";
                Err(Failure::input_with_hint(format!("{}: a picture is PNG or SVG", path.display()), hint))
            }
        }
    }

    fn bytes(self, picture: &Picture) -> Result<Vec<u8>, Failure> {
        let failed = |error: Undrawable| Failure::input(error.to_string());
        match self {
            Format::Png => picture.png().map_err(failed),
            Format::Svg => Ok(picture.svg().map_err(failed)?.into_bytes()),
        }
    }
}

/// Takes the word of a topic.
pub(crate) fn topic() -> impl TypedValueParser<Value = Topic> {
    PossibleValuesParser::new(Topic::ALL.map(Topic::word)).map(|word| {
        let found = Topic::ALL.into_iter().find(|topic| topic.word() == word);
        found.expect("only the words of topics are taken")
    })
}

fn picture(jobs: &[(v1::Job, Run)], topics: &[Topic]) -> Option<Picture> {
    let subject = |(job, run): &(v1::Job, Run)| {
        let name = named(job).unwrap_or(&job.job_id).to_owned();
        Subject { name, run: run.clone() }
    };
    let subjects: Vec<Subject> = jobs.iter().map(subject).collect();
    match jobs {
        [(job, run)] => {
            let title = named(job).map_or("Training".to_owned(), |name| format!("Training of {name}"));
            let called = format!("{}  ·  {}", job.job_id, state_name(job.state).to_lowercase());
            Picture::of(&title, &run.said(&called), &subjects, topics)
        }
        several => {
            let called = "thin: training, smoothed  ·  dots: held out, in a band of one standard error";
            Picture::of(&counted(several.len() as u64, "training run"), called, &subjects, topics)
        }
    }
}

fn named(job: &v1::Job) -> Option<&str> {
    job.spec.as_ref().map(|spec| spec.display_name.as_str()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_how_a_picture_is_written() {
        assert_eq!(Format::of(Path::new("a/loss.PNG")).expect("png"), Format::Png);
        assert_eq!(Format::of(Path::new("loss.svg")).expect("svg"), Format::Svg);
        for other in ["loss", "loss.jpg", "png"] {
            let failure = Format::of(Path::new(other)).expect_err(other).to_string();
            assert!(failure.contains(other) && failure.contains("PNG or SVG"), "{failure}");
        }
    }

    #[test]
    fn every_topic_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Topic::ALL.map(Topic::word).into();
        assert_eq!(words.len(), Topic::ALL.len());
    }
}

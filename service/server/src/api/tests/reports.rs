//! What a training job leaves to look at.

use hone_job::event::{Evaluation, Event, TrainStep};
use hone_job::insight::{HardExample, HardExamples};
use hone_proto::trainer::v1 as tp;
use hone_proto::v1 as pb;
use tonic::Code;

use super::assert_refused;
use crate::testing::{Harness, Launched, Trainer, soon};

/// A job whose trainer has taken some steps.
async fn trained(server: &mut Harness) -> (String, Launched, Trainer) {
    let (job_id, launched, mut trainer) = server.running_job().await;
    for step in 1..=5 {
        let loss = Some(3.0 / step as f64);
        trainer.event(Event::TrainStep(TrainStep { step, loss, ..TrainStep::default() })).await;
    }
    trainer.event(Event::Evaluation(Evaluation { step: 5, loss: Some(1.25), ..Evaluation::default() })).await;
    let example = HardExample { row: 7, ..HardExample::default() };
    trainer.event(Event::HardExamples(HardExamples { step: 5, examples: vec![example] })).await;
    (job_id, launched, trainer)
}

async fn report(server: &Harness, job_id: &str) -> Result<Vec<pb::ReportFile>, tonic::Status> {
    let mut jobs = server.jobs();
    let asked = jobs.get_report(pb::GetReportRequest { job_id: job_id.to_string() });
    soon(asked).await.map(|response| response.into_inner().files)
}

#[tokio::test]
async fn a_job_that_succeeds_has_left_its_report_by_then() {
    let mut server = Harness::start().await;
    let (job_id, launched, mut trainer) = trained(&mut server).await;
    assert_refused(report(&server, &job_id).await.map(drop), Code::NotFound, "NOT_FOUND");
    trainer.finish(tp::finished::End::Succeeded(tp::Succeeded {})).await;
    launched.exit(crate::executor::Status::Code(0));
    let events = server.events(&job_id).await;
    assert!(!events.iter().any(|event| matches!(event.event, Some(pb::job_event::Event::Warning(_)))), "{events:?}");
    let files = report(&server, &job_id).await.unwrap();
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["loss.png", "summary.json", "hard_examples.jsonl"]);
    assert!(files[0].data.starts_with(b"\x89PNG") && files[0].uri.ends_with(&format!("{job_id}/report/loss.png")));
    let summary: serde_json::Value = serde_json::from_slice(&files[1].data).unwrap();
    assert_eq!((&summary["job_id"], &summary["held_out"][0]["loss"]), (&job_id.into(), &1.25.into()));
    let lines = String::from_utf8(files[2].data.to_vec()).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(lines.trim()).unwrap()["row"], 7);
}

#[tokio::test]
async fn a_report_that_cannot_be_written_is_told_and_fails_nobody() {
    let mut server = Harness::start().await;
    let (job_id, launched, mut trainer) = trained(&mut server).await;
    let folder = server.folder.path().join("storage/jobs").join(&job_id);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("report"), "in the way").unwrap();
    trainer.finish(tp::finished::End::Succeeded(tp::Succeeded {})).await;
    launched.exit(crate::executor::Status::Code(0));
    let events = server.events(&job_id).await;
    let warning = events.iter().find_map(|event| match &event.event {
        Some(pb::job_event::Event::Warning(warning)) => Some(warning.clone()),
        _ => None,
    });
    assert_eq!(warning.expect("a warning").code, "report_not_written");
    assert_eq!(server.get(&job_id).await.state(), pb::JobState::Succeeded);
}

#[tokio::test]
async fn numbers_for_tensorboard_are_in_storage_when_an_attempt_is_over() {
    let mut server = Harness::start().await;
    let (job_id, launched, mut trainer) = trained(&mut server).await;
    trainer.finish(tp::finished::End::Succeeded(tp::Succeeded {})).await;
    launched.exit(crate::executor::Status::Code(0));
    let events = server.events(&job_id).await;
    let folder = server.folder.path().join("storage/jobs").join(&job_id).join("tensorboard");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("one file, since it was short: {files:?}") };
    let name = file.file_name().unwrap().to_str().unwrap();
    let last: u64 = name.trim_end_matches(".hone").rsplit('.').next().unwrap().parse().unwrap();
    // Before the event that the job has succeeded.
    assert_eq!((name.starts_with("events.out.tfevents."), last), (true, events.len() as u64 - 1), "{name}");
    let content = std::fs::read(file).unwrap();
    let holds = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("train/loss") && holds("eval/loss"));
}

//! Jobs as tables and summaries.

use super::*;

fn step(step: u64, loss: Option<f64>) -> v1::JobEvent {
    let step = v1::TrainStep { step, loss, ..Default::default() };
    v1::JobEvent { event: Some(Event::TrainStep(step)), ..Default::default() }
}

fn evaluation(step: u64, loss: f64) -> v1::JobEvent {
    let result = v1::EvaluationResult { step, loss: Some(loss), loss_standard_error: 0.05, ..Default::default() };
    v1::JobEvent { event: Some(Event::Evaluation(result)), ..Default::default() }
}

fn job(id: &str, state: v1::JobState) -> v1::Job {
    let spec = v1::JobSpec { display_name: format!("name of {id}"), ..Default::default() };
    v1::Job { job_id: id.into(), state: state.into(), spec: Some(spec), ..Default::default() }
}

#[test]
fn a_list_shows_state_progress_and_what_came_out() {
    let mut running = job("job-1", v1::JobState::Running);
    (running.step, running.total_steps) = (35, 1070);
    let mut done = job("job-22", v1::JobState::Succeeded);
    (done.step, done.total_steps) = (70, 70);
    done.result =
        Some(v1::JobResult { eval_loss_before: Some(3.5), eval_loss_after: Some(2.25), ..Default::default() });
    let expected = "\
JOB     NAME            STATE        STEP     HELD-OUT LOSS  CREATED
job-1   name of job-1   RUNNING  35/1,070                 -
job-22  name of job-22  SUCCEEDED   70/70  3.5000 -> 2.2500
job-3   name of job-3   QUEUED          -                 -";
    let aligned = table(&[running, done, job("job-3", v1::JobState::Queued)]).text("");
    let squeezed = |text: &str| {
        text.lines().map(|line| line.split_whitespace().collect()).collect::<Vec<Vec<_>>>().concat().join(" ")
    };
    assert_eq!(squeezed(&aligned), squeezed(expected));
    let ends: Vec<_> = aligned.lines().map(|line| line.find("HELD-OUT LOSS").map(|at| at + 13)).collect();
    assert!(ends[0].is_some());
}

#[test]
fn a_summary_says_where_the_job_stands_and_why() {
    let mut running = job("job-1", v1::JobState::Running);
    running.state_detail = "evaluating".into();
    (running.step, running.total_steps) = (35, 70);
    let latest = Latest::of(vec![step(34, Some(2.5)), evaluation(35, 2.75), step(35, Some(2.25))]);
    let expected = "\
job-1  name of job-1
state      RUNNING: evaluating
step       35/70
time
loss       2.2500 at step 35, 0.0 s left then
eval loss  2.7500 ± 0.0500 at step 35";
    let text = text(&running, &latest, Paint::plain());
    assert_eq!(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"), expected);
}

#[test]
fn a_failed_job_says_why_and_what_to_try() {
    let mut failed = job("job-1", v1::JobState::Failed);
    failed.failure = Some(v1::Failure {
        reason: v1::FailureReason::TrainerCrashed.into(),
        message: "killed by SIGKILL".into(),
        remedy: "look for the out-of-memory killer".into(),
        ..Default::default()
    });
    let text = text(&failed, &Latest::default(), Paint::plain());
    let expected = "failure    TRAINER_CRASHED: killed by SIGKILL\n           try:   look for the out-of-memory killer";
    assert!(text.ends_with(expected), "{text}");
}

//! Records of the domain as the link carries them: events and failures as JSON.

use hone_job::event::{Evaluation, Event, Outcome, PreferenceMetrics, TrainStep};
use hone_proto::trainer::v1 as pb;
use pb::finished::End as PbEnd;

use super::End;

/// The JSON of an event, in which every number is finite.
///
/// A number that may be absent is absent when it is not finite: serde_json writes null for it, which reads back as none.
/// One that must be there becomes 0, and a length bucket without a finite loss is left out.
pub(super) fn event_json(mut event: Event) -> String {
    match &mut event {
        Event::TrainStep(step) => clean_step(step),
        Event::Evaluation(evaluation) => clean_evaluation(evaluation),
        Event::CheckpointSaved(saved) => clean(&mut saved.seconds),
        // The numbers that may be absent are so where they are not finite.
        Event::ResourceUsage(usage) => clean(&mut usage.cpu_cores),
        Event::Result(Outcome { train_seconds, eval_seconds, preference_before, preference_after, .. }) => {
            clean(train_seconds);
            clean(eval_seconds);
            [preference_before, preference_after].into_iter().flatten().for_each(clean_preference);
        }
        Event::Scores(report) => {
            report.retain_finite();
            report.models.iter_mut().for_each(|model| clean_evaluation(&mut model.evaluation));
        }
        Event::Resumed(resumed) => clean(&mut resumed.epoch),
        // serde_json writes null for a best that is not finite.
        Event::EarlyStopped(_)
        | Event::Plan(_)
        // Their figures are finite or absent.
        | Event::GradientNoise(_)
        | Event::Overfitting(_)
        | Event::Leakage(_)
        | Event::Answers(_)
        // Its rates are of times above zero, or zero.
        | Event::Benchmark(_)
        | Event::HardExamples(_)
        // Its shares are absent or ratios of finite norms.
        | Event::ExportReport(_)
        | Event::StateChanged(_)
        | Event::Phase(_)
        | Event::DatasetReport(_)
        | Event::EffectiveSpec(_)
        | Event::Warning(_)
        | Event::Failure(_) => {}
    }
    serde_json::to_string(&event).expect("records have text keys and finite numbers")
}

fn clean_step(step: &mut TrainStep) {
    let TrainStep { epoch, learning_rate, token_accuracy, step_seconds, tokens_per_second, remaining_seconds, .. } =
        step;
    for number in [epoch, learning_rate, token_accuracy, step_seconds, tokens_per_second, remaining_seconds] {
        clean(number);
    }
    step.preference.iter_mut().for_each(clean_preference);
    step.gradient_groups.retain(|group| group.norm.is_finite());
}

fn clean_evaluation(evaluation: &mut Evaluation) {
    let Evaluation { loss_standard_error, token_accuracy, seconds, buckets, .. } = evaluation;
    for number in [loss_standard_error, token_accuracy, seconds] {
        clean(number);
    }
    buckets.retain(|bucket| bucket.loss.is_finite());
    buckets.iter_mut().filter_map(|bucket| bucket.preference.as_mut()).for_each(clean_preference);
    evaluation.preference.iter_mut().for_each(clean_preference);
}

fn clean_preference(metrics: &mut PreferenceMetrics) {
    let PreferenceMetrics { pairs: _, accuracy, ties, margin, reward_chosen, reward_rejected, .. } = metrics;
    for number in [accuracy, ties, margin, reward_chosen, reward_rejected] {
        clean(number);
    }
    let PreferenceMetrics { logps_chosen, logps_rejected, accuracy_standard_error, margin_standard_error, .. } =
        metrics;
    for number in [logps_chosen, logps_rejected, accuracy_standard_error, margin_standard_error] {
        clean(number);
    }
}

fn clean(number: &mut f64) {
    if !number.is_finite() {
        *number = 0.0;
    }
}

pub(super) fn finished(end: End) -> pb::Finished {
    let end = match end {
        End::Succeeded => PbEnd::Succeeded(pb::Succeeded {}),
        End::Stopped { checkpoint_id } => {
            PbEnd::Stopped(pb::Stopped { checkpoint_id: checkpoint_id.unwrap_or_default() })
        }
        End::Failed(failure) => {
            PbEnd::FailureJson(serde_json::to_string(&failure).expect("a failure is texts and a flag"))
        }
    };
    pb::Finished { end: Some(end) }
}

#[cfg(test)]
mod tests {
    use hone_job::event::{BucketLoss, CheckpointSaved};
    use hone_job::machine::ResourceUsage;

    use super::*;

    fn read_back(event: Event) -> Event {
        let json = event_json(event);
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    #[test]
    fn numbers_that_are_not_finite_are_absent_or_zero() {
        let nan = f64::NAN;
        let inf = f64::INFINITY;
        let step = TrainStep {
            step: 7,
            epoch: nan,
            loss: Some(nan),
            grad_norm: Some(inf),
            learning_rate: nan,
            token_accuracy: nan,
            step_seconds: inf,
            tokens_per_second: inf,
            remaining_seconds: nan,
            ..TrainStep::default()
        };
        assert_eq!(read_back(Event::TrainStep(step)), Event::TrainStep(TrainStep { step: 7, ..TrainStep::default() }));

        let bucket = |loss| BucketLoss { up_to_tokens: 64, loss, tokens: 9, examples: 2, preference: None };
        let evaluation = Evaluation {
            loss: Some(-inf),
            loss_standard_error: nan,
            perplexity: Some(inf),
            token_accuracy: nan,
            seconds: nan,
            buckets: vec![bucket(nan), bucket(2.5)],
            ..Evaluation::default()
        };
        let clean = Evaluation { buckets: vec![bucket(2.5)], ..Evaluation::default() };
        assert_eq!(read_back(Event::Evaluation(evaluation)), Event::Evaluation(clean));

        let saved = CheckpointSaved { eval_loss: Some(nan), seconds: inf, ..CheckpointSaved::default() };
        assert_eq!(read_back(Event::CheckpointSaved(saved)), Event::CheckpointSaved(CheckpointSaved::default()));
        let usage = ResourceUsage { cpu_cores: nan, device_utilization: Some(nan), ..ResourceUsage::default() };
        assert_eq!(read_back(Event::ResourceUsage(usage)), Event::ResourceUsage(ResourceUsage::default()));
        let outcome =
            Outcome { train_seconds: nan, eval_seconds: inf, eval_loss_after: Some(nan), ..Outcome::default() };
        assert_eq!(read_back(Event::Result(outcome)), Event::Result(Outcome::default()));
    }

    #[test]
    fn finite_numbers_arrive_as_they_were() {
        let step = TrainStep { loss: Some(0.1 + 0.2), learning_rate: 1e-300, ..TrainStep::default() };
        assert_eq!(read_back(Event::TrainStep(step.clone())), Event::TrainStep(step));
    }
}

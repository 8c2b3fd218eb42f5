//! Events as messages.

use hone_job::event::{
    DatasetReport, Evaluation, Event, ExportReport, JobEvent, LengthBucket, Outcome, Plan, PreferenceMetrics,
    ReasonCount, RowNote, SourceShare, TrainStep,
};
use hone_job::failure::{Failure, Reason};
use hone_job::insight::{GradientGroup, GradientNoise, Leakage, LeakedRow, Overfitting};
use hone_job::score::AnswerMetrics;
use hone_proto::v1 as pb;
use pb::job_event::Event as EventOneof;

use super::{machine, score, state, timestamp};

/// An event as its watchers see it.
pub(in crate::api) fn event(event: JobEvent) -> pb::JobEvent {
    pb::JobEvent {
        sequence: event.sequence,
        time: Some(timestamp(event.time)),
        attempt: event.attempt,
        trace_id: event.trace_id,
        event: Some(content(event.event)),
    }
}

fn content(event: Event) -> EventOneof {
    match event {
        Event::StateChanged(change) => EventOneof::StateChanged(pb::StateChanged {
            from: state(change.from).into(),
            to: state(change.to).into(),
            detail: change.detail,
        }),
        Event::Phase(phase) => EventOneof::Phase(pb::Phase { name: phase.name, detail: phase.detail }),
        Event::DatasetReport(rows) => EventOneof::DatasetReport(report(rows)),
        Event::EffectiveSpec(effective) => EventOneof::EffectiveSpec(hone_spec::message(*effective)),
        Event::Plan(found) => EventOneof::Plan(plan(found)),
        Event::TrainStep(step) => EventOneof::TrainStep(train_step(step)),
        Event::Evaluation(found) => EventOneof::Evaluation(evaluation(found)),
        Event::CheckpointSaved(saved) => EventOneof::CheckpointSaved(pb::CheckpointSaved {
            checkpoint_id: saved.checkpoint_id,
            step: saved.step,
            uri: saved.uri,
            size_bytes: saved.size_bytes,
            eval_loss: saved.eval_loss,
            seconds: saved.seconds,
        }),
        Event::ResourceUsage(usage) => EventOneof::ResourceUsage(machine::usage(usage)),
        Event::Warning(warning) => EventOneof::Warning(pb::Warning { code: warning.code, message: warning.message }),
        Event::Resumed(resumed) => EventOneof::Resumed(pb::Resumed {
            checkpoint_id: resumed.checkpoint_id,
            uri: resumed.uri,
            step: resumed.step,
            epoch: resumed.epoch,
            optimizer: resumed.optimizer,
        }),
        Event::EarlyStopped(stopped) => EventOneof::EarlyStopped(pb::EarlyStopped {
            step: stopped.step,
            metric: stopped.metric,
            best: stopped.best,
            best_step: stopped.best_step,
            evaluations: stopped.evaluations,
        }),
        Event::HardExamples(found) => EventOneof::HardExamples(score::hard_examples(found)),
        Event::GradientNoise(found) => EventOneof::GradientNoise(gradient_noise(found)),
        Event::Overfitting(found) => EventOneof::Overfitting(overfitting(found)),
        Event::Leakage(found) => EventOneof::Leakage(leakage(found)),
        Event::Answers(report) => EventOneof::Answers(score::answers(report)),
        Event::Benchmark(report) => EventOneof::Benchmark(hone_spec::benchmark_report(report)),
        Event::Scores(report) => EventOneof::Scores(score::report(report)),
        Event::ExportReport(report) => EventOneof::ExportReport(export_report(report)),
        Event::Failure(found) => EventOneof::Failure(failure(found)),
        Event::Result(found) => EventOneof::Result(outcome(found)),
    }
}

/// What became of rows.
pub(in crate::api) fn report(report: DatasetReport) -> pb::DatasetReport {
    pb::DatasetReport {
        split: report.split,
        rows_read: report.rows_read,
        examples: report.examples,
        tokens: report.tokens,
        trained_tokens: report.trained_tokens,
        reasons: report.reasons.into_iter().map(reason_count).collect(),
        length_histogram: report.length_histogram.into_iter().map(length_bucket).collect(),
        longest_tokens: report.longest_tokens,
        sources: report.sources.into_iter().map(source_share).collect(),
    }
}

fn export_report(report: ExportReport) -> pb::ExportReport {
    pb::ExportReport {
        format: report.format,
        weight_type: report.weight_type,
        parameters: report.parameters,
        merged_tensors: report.merged_tensors,
        update_lost: report.update_lost,
        unchanged_fraction: report.unchanged_fraction,
        worst_tensor: report.worst_tensor,
        worst_update_lost: report.worst_update_lost,
        untied: report.untied,
    }
}

fn source_share(share: SourceShare) -> pb::SourceShare {
    let SourceShare { uri, weight, examples, examples_per_epoch } = share;
    pb::SourceShare { uri, weight, examples, examples_per_epoch }
}

fn reason_count(reason: ReasonCount) -> pb::ReasonCount {
    let rows = reason.rows.into_iter().map(|RowNote { object, row, note }| pb::RowNote { object, row, note });
    pb::ReasonCount { reason: reason.reason, count: reason.count, rows: rows.collect() }
}

fn length_bucket(bucket: LengthBucket) -> pb::LengthBucket {
    pb::LengthBucket { up_to_tokens: bucket.up_to_tokens, rows: bucket.rows }
}

fn plan(plan: Plan) -> pb::Plan {
    pb::Plan {
        total_steps: plan.total_steps,
        steps_per_epoch: plan.steps_per_epoch,
        warmup_steps: plan.warmup_steps,
        eval_every_steps: plan.eval_every_steps,
        trainable_parameters: plan.trainable_parameters,
        base_parameters: plan.base_parameters,
        device: plan.device,
        precision: plan.precision,
        attention: plan.attention,
    }
}

fn train_step(step: TrainStep) -> pb::TrainStep {
    pb::TrainStep {
        step: step.step,
        epoch: step.epoch,
        loss: step.loss,
        grad_norm: step.grad_norm,
        learning_rate: step.learning_rate,
        examples: step.examples,
        tokens: step.tokens,
        trained_tokens: step.trained_tokens,
        micro_batches: step.micro_batches,
        token_accuracy: step.token_accuracy,
        step_seconds: step.step_seconds,
        tokens_per_second: step.tokens_per_second,
        skipped: step.skipped,
        remaining_seconds: step.remaining_seconds,
        peak_memory_bytes: step.peak_memory_bytes,
        preference: step.preference.map(preference),
        time: step.time.map(machine::step_time),
        gradient_groups: step.gradient_groups.into_iter().map(gradient_group).collect(),
    }
}

fn gradient_group(group: GradientGroup) -> pb::GradientGroup {
    pb::GradientGroup { name: group.name, norm: group.norm }
}

pub(super) fn evaluation(evaluation: Evaluation) -> pb::EvaluationResult {
    let buckets = evaluation.buckets.into_iter().map(|bucket| pb::BucketLoss {
        up_to_tokens: bucket.up_to_tokens,
        loss: bucket.loss,
        tokens: bucket.tokens,
        examples: bucket.examples,
        preference: bucket.preference.map(preference),
    });
    pb::EvaluationResult {
        step: evaluation.step,
        loss: evaluation.loss,
        loss_standard_error: evaluation.loss_standard_error,
        perplexity: evaluation.perplexity,
        token_accuracy: evaluation.token_accuracy,
        examples: evaluation.examples,
        tokens: evaluation.tokens,
        buckets: buckets.collect(),
        seconds: evaluation.seconds,
        best: evaluation.best,
        preference: evaluation.preference.map(preference),
        answers: evaluation.answers.map(answers),
    }
}

fn answers(found: AnswerMetrics) -> pb::AnswerMetrics {
    pb::AnswerMetrics {
        answers: found.answers,
        exact_match: found.exact_match,
        exact_match_standard_error: found.exact_match_standard_error,
        contains: found.contains,
        contains_standard_error: found.contains_standard_error,
    }
}

fn preference(found: PreferenceMetrics) -> pb::PreferenceMetrics {
    pb::PreferenceMetrics {
        pairs: found.pairs,
        accuracy: found.accuracy,
        ties: found.ties,
        margin: found.margin,
        reward_chosen: found.reward_chosen,
        reward_rejected: found.reward_rejected,
        logps_chosen: found.logps_chosen,
        logps_rejected: found.logps_rejected,
        accuracy_standard_error: found.accuracy_standard_error,
        margin_standard_error: found.margin_standard_error,
        accuracy_per_token: found.accuracy_per_token,
    }
}

/// Why something failed.
pub(super) fn failure(failure: Failure) -> pb::Failure {
    let reason = match failure.reason {
        Reason::InvalidData => pb::FailureReason::InvalidData,
        Reason::ModelUnsupported => pb::FailureReason::ModelUnsupported,
        Reason::OutOfMemory => pb::FailureReason::OutOfMemory,
        Reason::NonFinite => pb::FailureReason::NonFinite,
        Reason::Storage => pb::FailureReason::Storage,
        Reason::TrainerCrashed => pb::FailureReason::TrainerCrashed,
        Reason::TrainerStalled => pb::FailureReason::TrainerStalled,
        Reason::Preempted => pb::FailureReason::Preempted,
        Reason::Internal => pb::FailureReason::Internal,
    };
    pb::Failure {
        reason: reason.into(),
        message: failure.message,
        location: failure.location,
        remedy: failure.remedy,
        retryable: failure.retryable,
    }
}

/// What came out.
pub(super) fn outcome(outcome: Outcome) -> pb::JobResult {
    pb::JobResult {
        steps: outcome.steps,
        tokens: outcome.tokens,
        trained_tokens: outcome.trained_tokens,
        eval_loss_before: outcome.eval_loss_before,
        eval_loss_after: outcome.eval_loss_after,
        final_checkpoint_id: outcome.final_checkpoint_id,
        final_checkpoint_uri: outcome.final_checkpoint_uri,
        best_checkpoint_id: outcome.best_checkpoint_id,
        train_seconds: outcome.train_seconds,
        eval_seconds: outcome.eval_seconds,
        skipped_steps: outcome.skipped_steps,
        preference_before: outcome.preference_before.map(preference),
        preference_after: outcome.preference_after.map(preference),
    }
}

fn gradient_noise(found: GradientNoise) -> pb::GradientNoise {
    pb::GradientNoise {
        step: found.step,
        noise_scale: found.noise_scale,
        standard_error: found.standard_error,
        signal_share: found.signal_share,
        examples_per_step: found.examples_per_step,
        measured_steps: found.measured_steps,
        advice: found.advice,
    }
}

fn overfitting(found: Overfitting) -> pb::Overfitting {
    pb::Overfitting {
        step: found.step,
        turned_at_step: found.turned_at_step,
        held_out_change: found.held_out_change,
        standard_error: found.standard_error,
        training_loss_then: found.training_loss_then,
        training_loss_now: found.training_loss_now,
    }
}

fn leakage(found: Leakage) -> pb::Leakage {
    pb::Leakage {
        held_out_rows: found.held_out_rows,
        train_rows: found.train_rows,
        exact_rows: found.exact_rows,
        near_rows: found.near_rows,
        similarity: found.similarity,
        rows: found.rows.into_iter().map(leaked_row).collect(),
        seconds: found.seconds,
    }
}

fn leaked_row(pair: LeakedRow) -> pb::LeakedRow {
    pb::LeakedRow {
        object: pair.object,
        row: pair.row,
        text: pair.text,
        train_object: pair.train_object,
        train_row: pair.train_row,
        train_text: pair.train_text,
        similarity: pair.similarity,
    }
}

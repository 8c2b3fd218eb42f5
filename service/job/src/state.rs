//! Where a job stands, and the one table of moves between states.

use serde::{Deserialize, Serialize};

/// State of a job. CANCELLED, SUCCEEDED and FAILED are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Waits for a free device.
    Queued,
    /// An attempt is starting: fetching the model, reading the data.
    Preparing,
    /// Steps are being taken.
    Running,
    /// Asked to pause; the trainer finishes its step and saves.
    Pausing,
    /// Stopped by request, its work in a checkpoint.
    Paused,
    /// Asked to stop for good; the trainer finishes its step and saves.
    Cancelling,
    /// Stopped for good by request.
    Cancelled,
    /// Done; the last upload is verified.
    Succeeded,
    /// Ended by a failure.
    Failed,
}

/// What can move a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// The scheduler started an attempt.
    AttemptStarted,
    /// The trainer took its first step, or began its task.
    TrainerRunning,
    /// A user asked to pause.
    PauseRequested,
    /// A user asked to go on.
    ResumeRequested,
    /// A user asked to stop for good.
    CancelRequested,
    /// The trainer left after saving, as asked.
    TrainerStopped,
    /// The trainer finished its task and its last upload is verified.
    TrainerSucceeded,
    /// The attempt failed for good.
    AttemptFailed,
    /// The attempt ended, and another one is allowed.
    AttemptRetried,
}

impl std::fmt::Display for Trigger {
    /// What it does to a job, after "cannot".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Trigger::AttemptStarted => "be started",
            Trigger::TrainerRunning => "begin its task",
            Trigger::PauseRequested => "be paused",
            Trigger::ResumeRequested => "be resumed",
            Trigger::CancelRequested => "be cancelled",
            Trigger::TrainerStopped => "stop",
            Trigger::TrainerSucceeded => "succeed",
            Trigger::AttemptFailed => "fail",
            Trigger::AttemptRetried => "be tried again",
        })
    }
}

impl State {
    /// Every state, for tests and listings.
    pub const ALL: [State; 9] = [
        State::Queued,
        State::Preparing,
        State::Running,
        State::Pausing,
        State::Paused,
        State::Cancelling,
        State::Cancelled,
        State::Succeeded,
        State::Failed,
    ];

    /// Whether nothing more will happen to the job.
    pub fn is_final(self) -> bool {
        matches!(self, State::Cancelled | State::Succeeded | State::Failed)
    }

    /// Whether an attempt is, or may be, alive.
    pub fn has_attempt(self) -> bool {
        matches!(self, State::Preparing | State::Running | State::Pausing | State::Cancelling)
    }

    /// The transition table: the state after `trigger`, or none when the move is not allowed.
    ///
    /// A job that is cancelled or paused before its trainer runs goes straight to the final word when no attempt is
    /// alive. A trainer that succeeds while a cancel or pause is on its way has succeeded: the work is done and saved.
    pub fn after(self, trigger: Trigger) -> Option<State> {
        use State::*;
        use Trigger::*;
        Some(match (self, trigger) {
            (Queued, AttemptStarted) => Preparing,
            (Queued, CancelRequested) => Cancelled,
            (Queued, PauseRequested) => Paused,
            (Queued, AttemptFailed) => Failed,

            (Preparing, TrainerRunning) => Running,
            (Preparing | Running, PauseRequested) => Pausing,
            (Preparing | Running | Pausing, CancelRequested) => Cancelling,
            (Preparing | Running | Pausing, AttemptFailed) => Failed,
            (Preparing | Running, AttemptRetried) => Queued,
            (Preparing | Running | Pausing | Cancelling, TrainerSucceeded) => Succeeded,

            // A trainer told to pause may still report that it runs; the wish stands.
            (Pausing, TrainerRunning) => Pausing,
            (Pausing, TrainerStopped | AttemptRetried) => Paused,

            (Cancelling, TrainerRunning) => Cancelling,
            // However the attempt ends, the job was to be cancelled.
            (Cancelling, TrainerStopped | AttemptFailed | AttemptRetried) => Cancelled,

            (Paused, ResumeRequested) => Queued,
            (Paused, CancelRequested) => Cancelled,
            _ => return None,
        })
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            State::Queued => "QUEUED",
            State::Preparing => "PREPARING",
            State::Running => "RUNNING",
            State::Pausing => "PAUSING",
            State::Paused => "PAUSED",
            State::Cancelling => "CANCELLING",
            State::Cancelled => "CANCELLED",
            State::Succeeded => "SUCCEEDED",
            State::Failed => "FAILED",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::State::*;
    use super::Trigger::*;
    use super::*;

    const TRIGGERS: [Trigger; 9] = [
        AttemptStarted,
        TrainerRunning,
        PauseRequested,
        ResumeRequested,
        CancelRequested,
        TrainerStopped,
        TrainerSucceeded,
        AttemptFailed,
        AttemptRetried,
    ];

    /// The whole table, a row a state, a column a trigger in the order of `TRIGGERS`; None is a refused move.
    const TABLE: [(State, [Option<State>; 9]); 9] = [
        (Queued, [Some(Preparing), None, Some(Paused), None, Some(Cancelled), None, None, Some(Failed), None]),
        (
            Preparing,
            [
                None,
                Some(Running),
                Some(Pausing),
                None,
                Some(Cancelling),
                None,
                Some(Succeeded),
                Some(Failed),
                Some(Queued),
            ],
        ),
        (
            Running,
            [None, None, Some(Pausing), None, Some(Cancelling), None, Some(Succeeded), Some(Failed), Some(Queued)],
        ),
        (
            Pausing,
            [
                None,
                Some(Pausing),
                None,
                None,
                Some(Cancelling),
                Some(Paused),
                Some(Succeeded),
                Some(Failed),
                Some(Paused),
            ],
        ),
        (Paused, [None, None, None, Some(Queued), Some(Cancelled), None, None, None, None]),
        (
            Cancelling,
            [
                None,
                Some(Cancelling),
                None,
                None,
                None,
                Some(Cancelled),
                Some(Succeeded),
                Some(Cancelled),
                Some(Cancelled),
            ],
        ),
        (Cancelled, [None; 9]),
        (Succeeded, [None; 9]),
        (Failed, [None; 9]),
    ];

    #[test]
    fn every_pair_of_state_and_trigger_is_decided() {
        for (state, row) in TABLE {
            for (trigger, expected) in TRIGGERS.into_iter().zip(row) {
                assert_eq!(state.after(trigger), expected, "{state} after {trigger:?}");
            }
        }
    }

    #[test]
    fn final_states_never_move() {
        for state in State::ALL.into_iter().filter(|state| state.is_final()) {
            assert!(TRIGGERS.into_iter().all(|trigger| state.after(trigger).is_none()), "{state}");
        }
    }
}

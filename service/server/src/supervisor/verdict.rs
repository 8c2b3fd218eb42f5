//! Judges the end of a process that did not report its own: exit status, signal, memory counter and last words in, a
//! failure with its class out.

use hone_job::failure::{Failure, Reason};

use super::with_words;
use crate::executor::{Exit, Status};
use crate::record::preempted;

/// What programs write when they could not have memory.
const OUT_OF_MEMORY: [&str; 5] = [
    "CUDA out of memory",
    "memory allocation of",
    "std::bad_alloc",
    "DefaultCPUAllocator: can't allocate",
    "out of memory",
];

const LESS_MEMORY: &str =
    "lower batch.tokens_per_micro_batch or data.max_length, use bfloat16, or give the machine more memory";

/// Why a trainer that said nothing of it ended. One that was told to leave, and had said so, ended since it was not given
/// the time to save.
pub(super) fn verdict(exit: &Exit, told_to_leave: bool, step: u64) -> Failure {
    match exit.status {
        Status::Signal(signal) if (signal == TERM || told_to_leave) && !exit.oom_killed => {
            let message =
                format!("the trainer was told to leave, and ended by {} before it had saved", signal_name(signal));
            return preempted(&message, step);
        }
        Status::Rebooted => return preempted("the machine was started anew, or is another one", step),
        _ => {}
    }
    let (reason, message) = match exit.status {
        Status::Signal(KILL) if exit.oom_killed => {
            (Reason::OutOfMemory, "the kernel killed the trainer (SIGKILL) since memory ran out".into())
        }
        Status::Signal(signal) => (crash_or_memory(exit), format!("the trainer was killed by {}", signal_name(signal))),
        Status::Code(2) => {
            (Reason::TrainerCrashed, "the trainer could not attach to the server (exit status 2)".into())
        }
        Status::Code(0) => {
            (Reason::TrainerCrashed, "the trainer left with exit status 0 but never reported that it finished".into())
        }
        Status::Code(code) => (crash_or_memory(exit), format!("the trainer left with exit status {code}")),
        Status::Gone | Status::Rebooted => {
            let message = "the trainer ended while the server was away or not looking; how is not known";
            (Reason::TrainerCrashed, message.into())
        }
    };
    let message = match panic_line(&exit.last_words) {
        Some(line) => format!("{message}: {line}"),
        None => message,
    };
    let remedy = match reason {
        Reason::OutOfMemory => LESS_MEMORY.to_string(),
        _ => format!("look at {}", exit.log),
    };
    let failure = Failure::new(reason, with_words(message, exit)).try_this(remedy);
    if step > 0 { failure.at(format!("after step {step}")) } else { failure }
}

const KILL: i32 = 9;
const TERM: i32 = 15;

fn crash_or_memory(exit: &Exit) -> Reason {
    let about_memory = OUT_OF_MEMORY.iter().any(|words| exit.last_words.contains(words));
    if about_memory { Reason::OutOfMemory } else { Reason::TrainerCrashed }
}

/// The line in which a Rust program says that it panicked; the message follows on the next one.
fn panic_line(words: &str) -> Option<String> {
    let mut lines = words.lines().skip_while(|line| !(line.contains("panicked at")));
    let place = lines.next()?;
    let place = place.split_once("panicked at").map_or(place, |(_, place)| place).trim().trim_end_matches(':');
    let message = lines.next().unwrap_or_default().trim();
    Some(format!("panicked at {place}: {message}"))
}

/// The name that people know a signal by.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    format!("{name} (signal {signal})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Status, oom_killed: bool, last_words: &str, reason: Reason, says: &str) {
        let exit = Exit { status, oom_killed, last_words: last_words.into(), log: "/logs/x.log".into() };
        let failure = verdict(&exit, false, 7);
        assert_eq!(failure.reason, reason, "{failure}");
        assert!(failure.message.contains(says), "{failure}");
        assert!(!failure.remedy.is_empty() && failure.location == "after step 7", "{failure:?}");
    }

    #[test]
    fn every_kind_of_end_gets_its_class() {
        use Reason::{OutOfMemory, Preempted, TrainerCrashed};
        check(Status::Signal(9), false, "", TrainerCrashed, "SIGKILL");
        check(Status::Signal(9), true, "", OutOfMemory, "memory ran out");
        check(Status::Signal(11), true, "", TrainerCrashed, "SIGSEGV");
        check(Status::Signal(6), false, "memory allocation of 64 bytes failed", OutOfMemory, "SIGABRT");
        check(Status::Signal(15), false, "", Preempted, "SIGTERM");
        check(Status::Rebooted, false, "", Preempted, "started anew");
        check(Status::Signal(35), false, "", TrainerCrashed, "signal 35");
        check(Status::Code(1), false, "torch: CUDA out of memory. Tried to allocate", OutOfMemory, "exit status 1");
        check(Status::Code(0), false, "", TrainerCrashed, "never reported");
        check(Status::Code(2), false, "", TrainerCrashed, "could not attach");
        check(Status::Gone, false, "", TrainerCrashed, "server was away");
        let words = "loading\nthread 'main' panicked at src/loop.rs:3:5:\nindex out of bounds\nnote: run with";
        check(Status::Code(101), false, words, TrainerCrashed, "panicked at src/loop.rs:3:5: index out of bounds");
    }

    #[test]
    fn a_trainer_that_was_told_to_leave_and_not_given_the_time_was_preempted() {
        let exit =
            |status, oom_killed| Exit { status, oom_killed, last_words: String::new(), log: "/logs/x.log".into() };
        let reason = |status, oom_killed| verdict(&exit(status, oom_killed), true, 7).reason;
        assert_eq!(reason(Status::Signal(9), false), Reason::Preempted);
        assert_eq!(reason(Status::Signal(9), true), Reason::OutOfMemory);
        assert_eq!(reason(Status::Code(1), false), Reason::TrainerCrashed, "it left by itself");
    }
}

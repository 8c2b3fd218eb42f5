//! Real processes: a shell plays the trainer.

use std::os::unix::fs::PermissionsExt;

use hone_data::storage::Secret;

use super::*;
use crate::testing::soon;

fn local(folder: &Path, script: &str) -> Local {
    let trainer = folder.join("trainer");
    std::fs::write(&trainer, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755)).unwrap();
    Local::new(&trainer, "127.0.0.1:7".parse().unwrap(), folder)
}

fn launch() -> Launch {
    Launch { job_id: "job-1".into(), attempt: 3, secret: Secret::new("s3cret") }
}

#[tokio::test]
async fn a_trainer_gets_its_place_in_the_environment_and_its_words_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let words =
        "echo \"$1 $HONE_SERVER $HONE_JOB_ID $HONE_ATTEMPT $HONE_SECRET $HONE_CACHE_DIR\"; echo bad >&2; exit 7";
    let mut process = local(folder.path(), words).start(&launch()).await.unwrap();
    let exit = soon(process.ended()).await;
    assert_eq!((exit.status, exit.oom_killed), (Status::Code(7), false));
    let cache = folder.path().join("cache");
    let expected = format!("run http://127.0.0.1:7 job-1 3 s3cret {}\nbad", cache.display());
    assert_eq!(exit.last_words, expected);
    assert!(exit.log.ends_with("logs/job-1-3.log"));
}

#[tokio::test]
async fn the_signal_that_ended_a_trainer_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = local(folder.path(), "kill -SEGV $$").start(&launch()).await.unwrap();
    assert_eq!(soon(process.ended()).await.status, Status::Signal(11));
}

#[tokio::test]
async fn a_kill_reaches_all_that_a_trainer_started() {
    let folder = tempfile::tempdir().unwrap();
    let script = "sleep 1000 & echo $! > \"$HONE_CACHE_DIR/child\"; mv \"$HONE_CACHE_DIR/child\" \"$HONE_CACHE_DIR/ready\"; wait";
    let mut process = local(folder.path(), script).start(&launch()).await.unwrap();
    let ready = folder.path().join("cache").join("ready");
    soon(async {
        while !ready.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let child: i32 = std::fs::read_to_string(ready).unwrap().trim().parse().unwrap();
    assert!(start_of(child).is_some());
    process.kill();
    assert_eq!(soon(process.ended()).await.status, Status::Signal(9));
    soon(async {
        while start_of(child).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_process_is_found_again_by_its_handle_and_not_by_its_number_alone() {
    let folder = tempfile::tempdir().unwrap();
    let local = local(folder.path(), "exec sleep 1000");
    let mut process = local.start(&launch()).await.unwrap();
    let handle = process.handle();
    let mut found = local.find("job-1", 3, &handle).await;
    assert_eq!(found.handle(), handle);
    let (pid, _) = handle.split_once('@').unwrap();
    let mut other = local.find("job-1", 3, &format!("{pid}@12345@another-boot")).await;
    assert_eq!(soon(other.ended()).await.status, Status::Gone);
    other.kill();
    assert!(Identity::parse(&handle).lives(), "a process of another time must not be killed");
    found.kill();
    assert_eq!(soon(process.ended()).await.status, Status::Signal(9));
    assert_eq!(soon(found.ended()).await.status, Status::Gone);
}

#[tokio::test]
async fn a_trainer_whose_process_was_not_recorded_is_waited_for_until_it_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut unknown = local(folder.path(), "").find("job-1", 3, "").await;
    assert!(tokio::time::timeout(Duration::from_millis(20), unknown.ended()).await.is_err());
    unknown.kill();
    assert_eq!(soon(unknown.ended()).await.status, Status::Gone);
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Local::new(Path::new("/no/such/trainer"), "127.0.0.1:7".parse().unwrap(), folder.path());
    let error = missing.start(&launch()).await.err().unwrap().to_string();
    assert!(error.contains("/no/such/trainer"), "{error}");
}

#[test]
fn only_the_end_of_a_long_log_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("x.log");
    let text: String = (0..5000).map(|number| format!("line {number}\n")).collect();
    std::fs::write(&log, text).unwrap();
    let words = last_words(&log);
    assert_eq!(words.lines().count(), LAST_LINES);
    assert!(words.ends_with("line 4999"));
    assert_eq!(last_words(&folder.path().join("none")), "");
}

#[test]
fn a_backtrace_does_not_push_out_the_panic_it_belongs_to() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("x.log");
    let frames: String =
        (0..100).map(|n| format!("  {n:2}: core::step\n             at /src/step.rs:{n}:5\n")).collect();
    let text =
        format!("thread 'main' panicked at src/step.rs:3:5:\nno\nstack backtrace:\n{frames}note: Some details\n");
    std::fs::write(&log, text).unwrap();
    let expected = "thread 'main' panicked at src/step.rs:3:5:\nno\nstack backtrace:\nnote: Some details";
    assert_eq!(last_words(&log), expected);
}

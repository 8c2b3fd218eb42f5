//! Real processes: a shell plays the trainer.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::testing::soon;

fn local(folder: &Path, script: &str) -> Local {
    let trainer = folder.join("trainer");
    std::fs::write(&trainer, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755)).unwrap();
    local_of(&trainer, folder)
}

fn local_of(trainer: &Path, folder: &Path) -> Local {
    let mut options = crate::testing::options(folder);
    options.trainer = trainer.to_path_buf();
    options.trainer_env = vec!["CARGO_PKG_NAME".into()];
    options.storage.secret_access_key = Some(Secret::new("st0rage"));
    Local::new(&options, Dial { server: "127.0.0.1:7".parse().unwrap(), tls: None })
}

fn launch() -> Launch {
    Launch { job_id: "job-1".into(), attempt: 3, secret: Secret::new("s3cret") }
}

#[tokio::test]
async fn a_trainer_gets_its_place_in_the_environment_and_its_words_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let words =
        "echo \"$1 $HONE_SERVER $HONE_JOB_ID $HONE_ATTEMPT ${#HONE_SECRET} $HONE_CACHE_DIR\"; echo bad >&2; exit 7";
    let mut process = local(folder.path(), words).start(&launch()).await.unwrap();
    let exit = soon(process.ended()).await;
    assert_eq!((exit.status, exit.oom_killed), (Status::Code(7), false));
    let cache = folder.path().join("cache");
    let expected = format!("run http://127.0.0.1:7 job-1 3 6 {}\nbad", cache.display());
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
    assert_eq!(soon(other.ended()).await.status, Status::Rebooted);
    let mut earlier = local.find("job-1", 3, &format!("{pid}@12345@{}", boot())).await;
    assert_eq!(soon(earlier.ended()).await.status, Status::Gone);
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
    let missing = local_of(Path::new("/no/such/trainer"), folder.path());
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

#[tokio::test]
async fn a_trainer_gets_nothing_of_the_servers_environment_but_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = local(folder.path(), "env > \"$HONE_CACHE_DIR/env\"").start(&launch()).await.unwrap();
    soon(process.ended()).await;
    let printed = std::fs::read_to_string(folder.path().join("cache").join("env")).unwrap();
    let names: Vec<&str> = printed.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    // Cargo sets a dozen variables for a test: one was named by the operator, the others are nobody's business.
    for expected in ["PATH", "HONE_SECRET", "HONE_SERVER", "CARGO_PKG_NAME"] {
        assert!(names.contains(&expected), "{names:?}");
    }
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!names.contains(&"CARGO_MANIFEST_DIR"), "{names:?}");
}

#[tokio::test]
async fn a_trainer_of_a_server_with_tls_is_told_how_to_check_it() {
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls {
        cert: "/tls/cert.pem".into(),
        key: "/tls/key.pem".into(),
        client_ca: Some("/tls/clients.pem".into()),
        trainer_ca: "/tls/ca.pem".into(),
        trainer_name: Some("hone.example".into()),
    };
    let mut local = local(folder.path(), "env; exit 1");
    local.dial.tls = Some(tls);
    let words = soon(local.start(&launch()).await.unwrap().ended()).await.last_words;
    for line in ["HONE_SERVER=https://127.0.0.1:7", "HONE_SERVER_CA=/tls/ca.pem", "HONE_SERVER_NAME=hone.example"] {
        assert!(words.lines().any(|found| found == line), "{words}");
    }
    assert!(!words.contains("key.pem") && !words.contains("clients.pem"), "{words}");
}

#[tokio::test]
async fn the_last_words_of_a_trainer_hold_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo \"$HONE_SECRET, and st0rage: both\" >&2; exit 1";
    let exit = soon(local(folder.path(), script).start(&launch()).await.unwrap().ended()).await;
    assert_eq!(exit.last_words, "(a secret), and (a secret): both");
    let handle = "1@x@y";
    let found = soon(local(folder.path(), script).find("job-1", 3, handle).await.ended()).await;
    assert_eq!(found.last_words, "s3cret, and (a secret): both", "after a restart only the store's is known");
}

//! A command with a server of its own.

use std::process::Stdio;

use hone_tests::{Ended, binary, fixture_model, repository, run, soon};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn hone(folder: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("hone"));
    command.args(arguments).arg("--local").arg("--data-dir").arg(folder).stdin(Stdio::null());
    command
}

async fn ended(folder: &std::path::Path, arguments: &[&str]) -> Ended {
    run(&mut hone(folder, arguments)).await
}

#[tokio::test]
async fn one_machine_needs_nothing_else_and_what_was_trained_is_there_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let (model, rows) = (fixture_model("llama"), repository().join("tests/fixtures/sft/rows.jsonl"));
    let (model, rows) = (model.to_str().unwrap(), rows.to_str().unwrap());
    let job_file = folder.path().join("job");
    let flags = ["--max-steps", "3", "--job-file", job_file.to_str().unwrap()];
    let told = ended(folder.path(), &[&["train", "sft", "--model", model, "--train", rows], &flags[..]].concat()).await;
    assert!(told.success().contains("SUCCEEDED"), "{told:?}");
    let job_id = std::fs::read_to_string(&job_file).unwrap();
    let listed = ended(folder.path(), &["jobs", "list"]).await;
    assert!(listed.success().contains(job_id.trim()), "{listed:?}");
    let refused = ended(folder.path(), &["train", "sft", "--model", model, "--train", rows, "--detach"]).await;
    assert_eq!(refused.code(), 2, "nobody would train it");
}

/// Whoever kills the command does not leave a server behind that holds its folder.
#[tokio::test]
async fn the_server_ends_with_a_command_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (model, rows) = (fixture_model("llama"), repository().join("tests/fixtures/sft/rows.jsonl"));
    let (model, rows) = (model.to_str().unwrap(), rows.to_str().unwrap());
    let arguments = ["train", "sft", "--model", model, "--train", rows, "--max-steps", "100000", "--json"];
    let mut child = hone(folder.path(), &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let training = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("train_step") {
                return;
            }
        }
        panic!("it ended before a step");
    };
    soon("a step", training).await;
    child.kill().await.unwrap();
    // The folder is free once the trainer has saved and left; until then it is refused.
    let freed = async {
        loop {
            let listed = ended(folder.path(), &["jobs", "list", "--json"]).await;
            if listed.status.success() {
                return listed.stdout;
            }
            assert!(listed.stderr.contains("did not start"), "{}", listed.stderr);
        }
    };
    let listed = soon("the folder", freed).await;
    assert!(listed.contains("JOB_STATE_"), "{listed}");
}

//! docs/api.md in the hands of a reader who pastes its commands one after the other; and of docs/numerics.md and
//! docs/security.md, that the tests they name are there.

use std::collections::BTreeSet;

use hone_tests::{Act, Ended, Script, Server, Setup, repository, run};
use tokio::process::Command;

/// What a page tells its reader to paste into a shell.
fn commands(page: &str) -> String {
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.collect::<Vec<_>>().join("\n")
}

async fn paste(server: &Server, commands: &str, variables: &[(&str, &str)]) -> Ended {
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", commands]).current_dir(repository());
    shell.env("HONE_ADDRESS", server.address()).envs(variables.iter().copied());
    run(&mut shell).await
}

#[tokio::test]
async fn every_command_of_the_api_page_works_as_pasted() {
    let page = std::fs::read_to_string(repository().join("docs/api.md")).unwrap();
    let (before, after) = page.split_once("`CancelJob` asks").unwrap();
    let preamble = page.split("```").nth(1).unwrap().trim_start_matches("sh\n");
    let server = Setup::default().start().await;

    let done = paste(&server, &(commands(before) + "\necho \"$MODEL $ROWS $CHECKPOINT\""), &[]).await;
    let told = done.success();
    let names: Vec<_> = told.lines().last().unwrap().split(' ').collect();
    let [model, rows, checkpoint] = names[..] else { panic!("a name is missing: {names:?}") };
    assert_eq!(checkpoint, "step-000003");
    for words in ["JOB_STATE_SUCCEEDED", "\"name\": \"manifest.json\"", "\"status\": \"SERVING\"", "\"trained\": true"]
    {
        assert!(told.contains(words), "{told}\nshould say {words}");
    }

    // The job to be cancelled runs until it is.
    server.play(Script::of([Act::Running, Act::Steps(1), Act::Obey]));
    let done = paste(&server, &format!("{preamble}\n{}", commands(after)), &[("MODEL", model), ("ROWS", rows)]).await;
    let told = done.success();
    assert!(told.contains("JOB_STATE_CANCELLED"), "{told}");
    for words in ["google.rpc.BadRequest", "INVALID_FIELDS", "spec.sft.optimizer.learning_rate"] {
        assert!(done.stderr.contains(words), "{}\nshould say {words}", done.stderr);
    }
    let left = server.client().await.list_models(Default::default()).await.unwrap();
    assert!(left.models.is_empty(), "the page cleans up");
}

/// Names of functions in this repository.
async fn functions() -> BTreeSet<String> {
    let mut grep = Command::new("grep");
    grep.args([
        "-rhoE",
        "(fn|def) [a-z0-9_]+\\(",
        "--include=*.rs",
        "--include=*.py",
        "service",
        "client",
        "tests",
        "fuzz",
    ]);
    let found = run(grep.current_dir(repository())).await;
    found.success().lines().filter_map(|line| line.split([' ', '(']).nth(1)).map(str::to_owned).collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

async fn assert_known(named: &[&str], at_least: usize) {
    assert!(named.len() > at_least, "{named:?}");
    let known = functions().await;
    let missing: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn every_test_that_the_page_of_numbers_names_exists() {
    // "Test:" or "Tests:" and their names end a line.
    let page = std::fs::read_to_string(repository().join("docs/numerics.md")).unwrap();
    let lists = page.lines().filter_map(|line| line.split_once("Test: ").or_else(|| line.split_once("Tests: ")));
    assert_known(&lists.flat_map(|(_, names)| quoted(names)).collect::<Vec<_>>(), 50).await;
}

#[tokio::test]
async fn every_test_that_the_page_of_security_names_exists() {
    // The last column of the table of what is defended.
    let page = std::fs::read_to_string(repository().join("docs/security.md")).unwrap();
    let (_, table) = page.split_once("| against | how | test |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let tests = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit(" | ").next());
    assert_known(&tests.flat_map(quoted).collect::<Vec<_>>(), 20).await;
}

//! docs/api.md and docs/grpcurl.md in the hands of a reader who pastes their commands one after the other; and of
//! docs/numerics.md and docs/security.md, that the tests they name are there.

use std::collections::BTreeSet;

use hone_tests::{Ended, Server, Setup, repository, run};
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
    let server = Setup::default().with_real_trainer().start().await;
    let done = paste(&server, &(commands(&page) + "\necho \"$CHECKPOINT\""), &[]).await;
    let told = done.success();
    assert_eq!(told.lines().last(), Some("step-000003"));
    for words in [
        "JOB_STATE_SUCCEEDED",
        "JOB_STATE_CANCELLED",
        "\"name\": \"manifest.json\"",
        "\"status\": \"SERVING\"",
        "\"trained\": true",
        "\"receivedBytes\": \"100\"",
    ] {
        assert!(told.contains(words), "{told}\nshould say {words}");
    }
    for words in ["google.rpc.BadRequest", "INVALID_FIELDS", "spec.sft.optimizer.learning_rate", "UPLOAD_BROKEN"] {
        assert!(done.stderr.contains(words), "{}\nshould say {words}", done.stderr);
    }
    let left = server.client().await.list_models(Default::default()).await.unwrap();
    assert!(left.models.is_empty(), "the page cleans up");
}

/// Every call of the public API, as the protos have them.
fn calls() -> Vec<String> {
    let protos = prost_reflect::DescriptorPool::decode(hone_proto::FILE_DESCRIPTOR_SET).unwrap();
    let public = protos.services().filter(|service| service.full_name().starts_with("hone.v1."));
    let named = |service: prost_reflect::ServiceDescriptor| {
        let methods: Vec<_> = service.methods().map(|method| method.name().to_owned()).collect();
        methods.into_iter().map(move |method| format!("{}/{method}", service.full_name()))
    };
    public.flat_map(named).collect()
}

#[test]
fn every_call_has_an_example_and_a_line_in_the_table() {
    let read = |page: &str| std::fs::read_to_string(repository().join("docs").join(page)).unwrap();
    let (examples, table) = (commands(&read("api.md")), read("grpcurl.md"));
    let calls = calls();
    assert!(calls.len() > 20, "{calls:?}");
    for call in calls {
        assert!(examples.contains(&format!(" {call}")), "docs/api.md has no command with {call}");
        assert!(table.contains(&format!("| `{call}` |")), "docs/grpcurl.md has no line for {call}");
    }
}

#[test]
fn every_event_has_a_line_in_the_table() {
    let page = std::fs::read_to_string(repository().join("docs/api.md")).unwrap();
    let protos = prost_reflect::DescriptorPool::decode(hone_proto::FILE_DESCRIPTOR_SET).unwrap();
    let event = protos.get_message_by_name("hone.v1.JobEvent").unwrap();
    let kinds = event.oneofs().find(|oneof| oneof.name() == "event").unwrap();
    let missing: Vec<_> = kinds.fields().filter(|kind| !page.contains(&format!("| `{}` |", kind.name()))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn every_command_of_the_page_on_grpcurl_works_as_pasted() {
    let page = std::fs::read_to_string(repository().join("docs/grpcurl.md")).unwrap();
    let server = Setup::default().start().await;
    let done = paste(&server, &commands(&page), &[]).await;
    for words in ["hone.v1.JobService", "\"SERVING\"", "\"storageRoot\"", "rpc WatchJob"] {
        assert!(done.success().contains(words), "{done:#?} should say {words}");
    }
    assert!(done.stderr.contains("\"not_found\""), "{done:#?}");
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

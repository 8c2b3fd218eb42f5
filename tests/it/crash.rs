//! The job store dies at every write, one after the other, and has lost nothing that it had answered.

use std::path::Path;
use std::process::Stdio;

use hone_server::store::sqlite::Sqlite;
use hone_tests::{binary, preloaded, store_script};
use tokio::process::Command;

/// Contents of a store before the first step of the script and after each.
async fn contents(folder: &Path) -> Vec<String> {
    let store = Sqlite::open(&folder.join("unbroken.db")).unwrap();
    let mut contents = vec![store_script::content(&store).await];
    for step in 0..store_script::STEPS {
        store_script::take(&store, step).await;
        contents.push(store_script::content(&store).await);
    }
    contents
}

#[tokio::test]
async fn a_store_that_dies_at_any_write_has_all_that_it_answered_and_nothing_by_halves() {
    let folder = tempfile::tempdir().unwrap();
    let library = preloaded("die_at_write", folder.path()).await;
    let contents = contents(folder.path()).await;
    let mut deaths = 0;
    loop {
        let path = folder.path().join(format!("dies-{deaths}.db"));
        let mut script = Command::new(binary("store-script"));
        script.arg(&path).env("LD_PRELOAD", &library).env("DIE_AT_WRITE", (deaths + 1).to_string());
        let ended = hone_tests::run(script.stdout(Stdio::piped())).await;
        let answered = ended.stdout.lines().count();
        let store = Sqlite::open(&path).unwrap_or_else(|error| panic!("write {}: {error}", deaths + 1));
        let found = store_script::content(&store).await;
        let possible = &contents[answered..(answered + 2).min(contents.len())];
        assert!(possible.contains(&found), "died at write {}, after {answered} steps: {found}", deaths + 1);
        if ended.status.success() {
            break;
        }
        deaths += 1;
        for name in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{name}", path.display()));
        }
    }
    // Each of the steps writes at least a page and its frame's header.
    assert!(deaths > 2 * store_script::STEPS, "only {deaths} writes were seen");
}

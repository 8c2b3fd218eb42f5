//! A server that cannot start says why in one line, and what to do, and exits with a code.

use std::os::unix::fs::PermissionsExt;

use hone_tests::{Ended, Setup, uri};

/// One line for the reader, without a backtrace, that says all of `words`.
fn explains(ended: &Ended, words: &[&str]) {
    assert!(!ended.status.success(), "{ended:#?}");
    ended.code();
    let last = ended.stderr.trim_end().lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{last:?} should say {word:?}");
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Setup::default().listening_on(&address).run().await;
    explains(&ended, &[&address, "in use"]);
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_made_is_named() {
    let setup = Setup::default();
    // A file stands in its place; that stops even root, whom permissions do not.
    std::fs::write(setup.data_dir(), "a file").unwrap();
    explains(&setup.run().await, &[setup.data_dir().to_str().unwrap()]);
}

#[tokio::test]
async fn a_storage_root_that_cannot_be_written_is_named() {
    let setup = Setup::default();
    std::fs::write(setup.path("occupied"), "a file").unwrap();
    let root = uri(setup.path("occupied/storage"));
    explains(&setup.clone().flag("--storage-root", &root).run().await, &[&root]);
    explains(&setup.clone().flag("--storage-root", "ftp://host/storage").run().await, &["ftp://", "file://", "s3://"]);
}

#[tokio::test]
async fn a_trainer_that_is_missing_or_no_program_is_named() {
    let setup = Setup::default();
    let nowhere = setup.path("no-trainer");
    explains(&setup.clone().with_trainer(&nowhere).run().await, &[nowhere.to_str().unwrap()]);
    let text = setup.path("a-text");
    std::fs::write(&text, "no program").unwrap();
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o644)).unwrap();
    explains(&setup.clone().with_trainer(&text).run().await, &[text.to_str().unwrap()]);
}

#[tokio::test]
async fn two_servers_do_not_share_a_data_folder() {
    let setup = Setup::default();
    let first = setup.start().await;
    explains(&setup.run().await, &[setup.data_dir().to_str().unwrap()]);
    first.client().await.server_info().await.expect("the first serves on");
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    for (flag, value) in [("--listen", "nowhere"), ("--max-running-jobs", "0"), ("--attach-timeout", "soon")] {
        let ended = Setup::default().flag(flag, value).run().await;
        assert_eq!(ended.code(), 2, "{flag} {value}: {ended:#?}");
        assert!(ended.stderr.contains(flag), "{}", ended.stderr);
    }
}

//! Flags: what they come to, and which are refused together.

use super::*;

#[test]
fn a_trainer_reaches_a_server_that_listens_everywhere_over_loopback() {
    for (listens, expected) in [("0.0.0.0:7", "127.0.0.1:7"), ("[::]:7", "[::1]:7"), ("10.0.0.1:7", "10.0.0.1:7")] {
        assert_eq!(dialled(listens.parse().unwrap()).to_string(), expected);
    }
}

fn parsed(args: &[&str]) -> Result<Options, Invalid> {
    let program = std::env::current_exe().unwrap();
    let args = ["hone-server", "--trainer", program.to_str().unwrap()].into_iter().chain(args.iter().copied());
    Cli::try_parse_from(args).unwrap().serve.into_options(StorageOptions::default())
}

fn options(args: &[&str]) -> Options {
    parsed(args).unwrap()
}

#[test]
fn everything_may_be_read_on_loopback_and_only_the_root_otherwise() {
    let home = options(&["--data-dir", "/data"]);
    assert_eq!(home.storage_root, "file:///data/storage");
    assert!(home.access.allows("s3://bucket/a"));
    let open = options(&["--data-dir", "/data", "--listen", "0.0.0.0:0", "--allow-unauthenticated"]);
    assert!(!open.access.allows("s3://bucket/a"));
    assert!(open.access.allows("file:///data/storage/models/a"));
    let tokens = options(&["--data-dir", "/data", "--token-file", "tokens"]);
    assert!(!tokens.access.allows("s3://bucket/a"), "whoever needs a token is somebody else");
    let some = options(&["--token-file", "tokens", "--allow-uri", "s3://bucket/rows", "--allow-uri", "s3://other"]);
    assert!(some.access.allows("s3://bucket/rows/a.jsonl") && some.access.allows("s3://other/x"));
    assert!(!some.access.allows("s3://bucket/secret"));
}

#[test]
fn a_missing_trainer_is_named() {
    let cli = Cli::try_parse_from(["hone-server", "--trainer", "/no/such/trainer"]).unwrap();
    let error = cli.serve.into_options(StorageOptions::default()).unwrap_err().to_string();
    assert_eq!(error, "--trainer: /no/such/trainer is not a program");
}

#[test]
fn a_port_that_others_reach_is_refused_unless_somebody_is_asked_or_it_is_said_twice() {
    for listen in ["0.0.0.0:7400", "[::]:7400", "10.0.0.1:7400"] {
        let error = parsed(&["--listen", listen]).unwrap_err().to_string();
        for word in ["--listen", listen, "--token-file", "--tls-client-ca", "--allow-unauthenticated"] {
            assert!(error.contains(word), "{error:?} should say {word:?}");
        }
        parsed(&["--listen", listen, "--allow-unauthenticated"]).unwrap();
        parsed(&["--listen", listen, "--token-file", "tokens"]).unwrap();
        let tls = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
        parsed(&[&["--listen", listen][..], &tls].concat()).unwrap_err();
        parsed(&[&["--listen", listen, "--tls-client-ca", "ca.pem"][..], &tls].concat()).unwrap();
    }
    for listen in ["127.0.0.1:7400", "127.8.8.8:7400", "[::1]:7400"] {
        parsed(&["--listen", listen]).unwrap();
    }
}

#[test]
fn the_page_is_off_unless_asked_for_and_bound_by_the_same_rule() {
    assert_eq!(options(&[]).http, None);
    let http = options(&["--http-listen", "127.0.0.1:7480"]).http.unwrap();
    assert_eq!(http.listen.to_string(), "127.0.0.1:7480");
    let error = parsed(&["--http-listen", "0.0.0.0:7480"]).unwrap_err().to_string();
    for word in ["--http-listen", "0.0.0.0:7480", "--token-file", "--tls-client-ca", "--allow-unauthenticated"] {
        assert!(error.contains(word), "{error:?} should say {word:?}");
    }
    parsed(&["--http-listen", "0.0.0.0:7480", "--token-file", "tokens"]).unwrap();
    parsed(&["--http-listen", "0.0.0.0:7480", "--allow-unauthenticated"]).unwrap();
}

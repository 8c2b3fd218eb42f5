//! The file of tokens: who is in it, what is wrong with it, and a change while the server runs.

use super::*;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn a_token_is_known_by_its_digest_alone() {
    let (token, line) = fresh("nightly", "search", Role::Submit);
    let (other, other_line) = fresh("boss", "all", Role::Admin);
    let (_folder, path) =
        file(&format!("# who may call\n\n{line} max_jobs=4 max_bytes=1GiB # nightly runs\n{other_line}\n"));
    let tokens = Tokens::open(&path).unwrap();
    assert_eq!(tokens.count(), 2);
    let Bearer { caller, .. } = tokens.bearer(&token).unwrap();
    assert_eq!((caller.name.as_str(), caller.project.as_str(), caller.role), ("nightly", "search", Role::Submit));
    assert_eq!(caller.limits, Limits { max_jobs: Some(4), max_bytes: Some(1 << 30), ..Limits::default() });
    assert_eq!(tokens.bearer(&other).unwrap().caller.role, Role::Admin);
    let digest = line.split(' ').nth(3).unwrap();
    for stranger in ["", "hone_", digest, &token[1..], &format!("{token} "), &token.to_uppercase()] {
        assert!(tokens.bearer(stranger).is_none(), "{stranger:?}");
    }
    assert!(!format!("{tokens:?} {line}").contains(&token));
}

#[test]
fn a_line_that_is_wrong_is_named_by_its_number_and_not_shown() {
    let digest = "0".repeat(64);
    for (line, what) in [
        ("hone_secret", "name project role sha256"),
        (&format!("a b owner {digest}"), "owner"),
        (&format!("A b read {digest}"), "lower-case"),
        ("a b read hone_secret", "64 hexadecimal digits"),
        (&format!("a b read {digest} max_jobs"), "name=value"),
        (&format!("a b read {digest} max_jobs=many"), "max_jobs must be a number"),
        (&format!("a b read {digest} hone_secret=1"), "max_jobs, max_bytes, max_calls and"),
        (&format!("one b read {}", "1".repeat(64)), "came before"),
        (&format!("a b read {}", "1".repeat(64).as_str()), "came before"),
    ] {
        let (_folder, path) = file(&format!("one b read {}\n{line}\n", "1".repeat(64)));
        let error = Tokens::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains(what), "{error:?} should say {what:?}");
        assert!(!error.contains("hone_secret"), "{error}");
    }
}

#[test]
fn a_file_is_taken_over_when_it_changes_and_not_when_it_is_broken() {
    let (first, line) = fresh("first", "p", Role::Read);
    let (second, second_line) = fresh("second", "p", Role::Read);
    let (_folder, path) = file(&line);
    let tokens = Tokens::open(&path).unwrap();
    assert!(!tokens.look_again().unwrap());
    std::fs::write(&path, "broken").unwrap();
    assert!(tokens.look_again().is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(tokens.look_again().is_err());
    assert!(tokens.bearer(&first).is_some() && tokens.bearer(&second).is_none());
    std::fs::write(&path, second_line).unwrap();
    assert!(tokens.look_again().unwrap());
    assert!(tokens.bearer(&first).is_none() && tokens.bearer(&second).is_some());
}

#[test]
fn whoever_holds_a_token_that_is_taken_out_or_changed_hears_of_it() {
    let tokens_and_lines = ["stays", "goes", "sinks"].map(|name| fresh(name, "p", Role::Submit));
    let text = |lines: &[&str]| lines.join("\n");
    let [stays, goes, sinks] = tokens_and_lines.each_ref().map(|(_, line)| line.as_str());
    let (_folder, path) = file(&text(&[stays, goes, sinks]));
    let tokens = Tokens::open(&path).unwrap();
    let bearers = tokens_and_lines.each_ref().map(|(token, _)| tokens.bearer(token).unwrap());
    std::fs::write(&path, text(&["# tidied up", &sinks.replace("submit", "read"), stays])).unwrap();
    assert!(tokens.look_again().unwrap());
    assert_eq!(bearers.map(|bearer| bearer.taken_back.is_cancelled()), [false, true, true]);
    let changed = tokens.bearer(&tokens_and_lines[2].0).unwrap();
    assert!(changed.caller.role == Role::Read && !changed.taken_back.is_cancelled());
}

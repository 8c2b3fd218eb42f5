//! The page about the command line beside the commands that there are.

use tokio::process::Command;

/// Every command that a user may type, as the manual has them.
#[tokio::test]
async fn every_command_has_a_line_in_the_page_about_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hone"));
    let done = command.arg("man").arg(folder.path()).output().await.expect("hone runs");
    assert!(done.status.success(), "{done:?}");
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).expect("the page");
    let names = std::fs::read_dir(folder.path()).expect("manual pages").flatten().map(|entry| entry.path());
    let commands: Vec<_> = names.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    // Groups are told by their commands.
    let is_group = |name: &str| commands.iter().any(|other| other.starts_with(&format!("{name}-")));
    let single: Vec<_> = commands.iter().filter(|name| !is_group(name) && !name.contains("help")).collect();
    assert!(single.len() > 25, "{single:?}");
    for name in single {
        let typed = match name.as_str() {
            "hone-export-metrics" => "hone export-metrics".to_owned(),
            other => other.replacen('-', " ", 2),
        };
        assert!(page.contains(&format!("`{typed}")), "docs/cli.md should tell of {typed}");
    }
}

//! The dependency directions that ARCHITECTURE.md promises, as cargo sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hone_tests::{repository, run};
use serde_json::Value;
use tokio::process::Command;

async fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(repository()).args(arguments).args(["--offline", "--locked"]);
    run(&mut command).await.success().to_owned()
}

/// The members of the workspace: name, folder, and what each may link, build and test with.
struct Member {
    name: String,
    folder: PathBuf,
    dependencies: BTreeSet<String>,
    dev_dependencies: BTreeSet<String>,
}

async fn members() -> Vec<Member> {
    let text = cargo(&["metadata", "--no-deps", "--format-version", "1"]).await;
    let metadata: Value = serde_json::from_str(&text).expect("cargo's own JSON");
    let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let of_kind = |package: &Value, dev: bool| {
        let dependencies = list(&package["dependencies"]).into_iter();
        dependencies.filter(|one| (one["kind"] == "dev") == dev).map(|one| text_of(&one["name"])).collect()
    };
    let member = |package: &Value| Member {
        name: text_of(&package["name"]),
        folder: PathBuf::from(text_of(&package["manifest_path"])).with_file_name(""),
        dependencies: of_kind(package, false),
        dev_dependencies: of_kind(package, true),
    };
    list(&metadata["packages"]).iter().map(member).collect()
}

/// Every package that ends up in a member's programs, and what its build scripts need.
async fn linked_into(package: &str, features: &str) -> BTreeSet<String> {
    let arguments =
        ["tree", "-p", package, "--features", features, "-e", "normal,build", "--prefix", "none", "-f", "{p}"];
    let tree = cargo(&arguments).await;
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn crates_depend_in_one_direction() {
    let allowed = BTreeMap::from([
        ("hone-codegen", vec![]),
        ("hone-proto", vec![]),
        ("hone-job", vec![]),
        ("hone-ops", vec![]),
        ("hone-metrics", vec!["hone-proto"]),
        ("hone-telemetry", vec![]),
        ("hone-spec", vec!["hone-job", "hone-proto"]),
        ("hone-client", vec!["hone-metrics", "hone-proto", "hone-spec"]),
        ("hone-data", vec!["hone-job", "hone-telemetry"]),
        ("hone-server", vec!["hone-data", "hone-job", "hone-metrics", "hone-proto", "hone-spec", "hone-telemetry"]),
        ("hone-trainer", vec!["hone-data", "hone-job", "hone-ops", "hone-proto", "hone-telemetry"]),
    ]);
    let members = members().await;
    // What tests the whole may use the whole.
    let of_tests = ["hone-tests", "hone-fuzz"];
    for member in members.iter().filter(|member| !of_tests.contains(&member.name.as_str())) {
        let allowed = allowed.get(member.name.as_str()).unwrap_or_else(|| panic!("where does {} belong?", member.name));
        let own = member.dependencies.union(&member.dev_dependencies).filter(|name| name.starts_with("hone-"));
        let beyond: Vec<_> = own.filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(beyond.is_empty(), "{} must not depend on {beyond:?}", member.name);
    }
    assert_eq!(members.len(), allowed.len() + of_tests.len());
}

#[tokio::test]
async fn only_ops_and_trainer_use_the_tensor_library() {
    let users: Vec<_> =
        members().await.into_iter().filter(|member| member.dependencies.contains("tch")).map(|one| one.name).collect();
    assert_eq!(users, ["hone-ops", "hone-trainer"]);
}

#[tokio::test]
async fn neither_server_nor_client_links_libtorch() {
    for (package, features) in [("hone-server", ""), ("hone-client", "cli"), ("hone-data", "")] {
        let linked = linked_into(package, features).await;
        assert!(linked.contains("tokio"), "the tree was not read: {linked:?}");
        let torch: Vec<_> =
            linked.iter().filter(|name| ["tch", "torch-sys", "hone-ops"].contains(&name.as_str())).collect();
        assert!(torch.is_empty(), "{package} links {torch:?}");
    }
}

/// The client checks specs by the server's rules, which are a crate of their own: nothing else of the server comes along.
#[tokio::test]
async fn the_client_links_nothing_that_only_a_server_needs() {
    let linked = linked_into("hone-client", "cli").await;
    assert!(linked.contains("hone-spec"), "the rules are there: {linked:?}");
    for package in ["hone-server", "hone-data", "hone-trainer", "axum", "rusqlite", "object_store", "tokenizers"] {
        assert!(!linked.contains(package), "hone-client links {package}");
    }
}

/// rustls refuses to choose between two providers, at run time and in the middle of a call.
#[tokio::test]
async fn there_is_one_provider_of_cryptography() {
    for (package, features) in [("hone-server", ""), ("hone-trainer", ""), ("hone-client", "cli")] {
        let linked = linked_into(package, features).await;
        assert!(linked.contains("rustls") && linked.contains("aws-lc-rs"), "{package} speaks TLS by aws-lc");
        assert!(!linked.contains("ring"), "{package} brings a second provider, ring");
    }
}

#[tokio::test]
async fn the_sdk_can_be_packaged() {
    let target = tempfile::tempdir().unwrap();
    let folder = target.path().to_str().unwrap();
    let sdk = ["hone-proto", "hone-job", "hone-spec", "hone-metrics", "hone-client"];
    let packages = sdk.iter().flat_map(|package| ["-p", package]);
    let arguments = ["package", "--no-verify", "--allow-dirty", "--target-dir", folder].into_iter().chain(packages);
    cargo(&arguments.collect::<Vec<_>>()).await;
    for package in sdk {
        let made = target.path().join("package").join(format!("{package}-{}.crate", env!("CARGO_PKG_VERSION")));
        assert!(made.is_file(), "{}", made.display());
    }
}

#[tokio::test]
async fn only_ops_may_hold_unsafe_code() {
    let root = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    assert!(root.contains("[workspace.lints.rust]\nunsafe_code = \"forbid\""), "the workspace forbids unsafe code");
    for member in members().await {
        let manifest = std::fs::read_to_string(member.folder.join("Cargo.toml")).unwrap();
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(inherits, member.name != "hone-ops", "{} and the workspace's lints", member.name);
    }
}

/// Proto types stop where the outside does: the server's API, the trainer's link.
#[tokio::test]
async fn proto_types_stay_at_the_edges() {
    let edges = [
        ("hone-server", vec!["api", "testing.rs"]),
        ("hone-trainer", vec!["link", "link.rs"]),
        ("hone-data", vec![]),
        ("hone-job", vec![]),
        ("hone-ops", vec![]),
    ];
    let members = members().await;
    for (name, allowed) in edges {
        let member = members.iter().find(|member| member.name == name).unwrap();
        let sources = member.folder.join("src");
        for file in rust_files(&sources) {
            let inside = file.strip_prefix(&sources).unwrap();
            let first = inside.iter().next().unwrap().to_str().unwrap();
            let names_proto = std::fs::read_to_string(&file).unwrap().contains("hone_proto");
            assert!(!names_proto || allowed.contains(&first), "{} uses proto types", file.display());
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of sources").flatten().map(|entry| entry.path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    here.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}

//! Writes `proto/src/generated` from the protos (`make protos`). It is committed, so that nobody who builds the SDK compiles
//! a compiler of protos first; a test here says when it is old. protox compiles the protos, so that no protoc is needed.

use std::path::{Path, PathBuf};

use prost::Message;

mod builders;

const FILES: [&str; 8] = [
    "hone/v1/job.proto",
    "hone/v1/spec.proto",
    "hone/v1/event.proto",
    "hone/v1/dataset.proto",
    "hone/v1/generation.proto",
    "hone/v1/model.proto",
    "hone/v1/system.proto",
    "hone/trainer/v1/trainer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    generate(&protos().join("src/generated"))
}

/// The folder of hone-proto, which holds the protos.
fn protos() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Writes all that is generated into a folder: messages and clients, servers, the spec's builders, the descriptor set.
fn generate(out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(FILES, [protos()])?;
    let servers = out.join("server");
    std::fs::create_dir_all(&servers)?;
    std::fs::write(out.join("hone_descriptor.binpb"), descriptors.encode_to_vec())?;
    std::fs::write(out.join("hone.v1.spec.rs"), builders::source(&descriptors)?)?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_server(false)
        .out_dir(out)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())?;
    // Servers send the same messages, but for the one that a thousand receive at once.
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(servers)
        .emit_rerun_if_changed(false)
        .extern_path(".hone.v1.WatchJobResponse", "crate::encoded::WatchJobResponse")
        .extern_path(".hone.v1", "crate::v1")
        .extern_path(".hone.trainer.v1", "crate::trainer::v1")
        .compile_fds(descriptors)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 6] = [
        "hone.v1.rs",
        "hone.v1.spec.rs",
        "hone.trainer.v1.rs",
        "hone_descriptor.binpb",
        "server/hone.v1.rs",
        "server/hone.trainer.v1.rs",
    ];

    #[test]
    fn what_is_committed_is_what_the_protos_say() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        for name in ALL {
            let (new, committed) = (folder.path().join(name), protos().join("src/generated").join(name));
            let same = std::fs::read(new).unwrap() == std::fs::read(committed).unwrap();
            assert!(same, "proto/src/generated/{name} is older than the protos; `make protos` writes it anew");
        }
    }
}

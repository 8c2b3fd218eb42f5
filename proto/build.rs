//! Compiles the protos with protox, so that no protoc is needed; nothing generated is committed.

use std::path::PathBuf;

use prost::Message;

#[path = "build/builders.rs"]
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
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("hone_descriptor.binpb"), descriptors.encode_to_vec())?;
    std::fs::write(out.join("hone.v1.spec.rs"), builders::source(&descriptors)?)?;
    tonic_prost_build::configure().bytes(".").build_server(false).compile_fds(descriptors.clone())?;
    // Servers send the same messages, but for the one that a thousand receive at once.
    let servers = out.join("server");
    std::fs::create_dir_all(&servers)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(servers)
        .extern_path(".hone.v1.WatchJobResponse", "crate::encoded::WatchJobResponse")
        .extern_path(".hone.v1", "crate::v1")
        .extern_path(".hone.trainer.v1", "crate::trainer::v1")
        .compile_fds(descriptors)?;
    Ok(())
}

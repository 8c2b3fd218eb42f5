//! Compiles the protos with protox, so that no protoc is needed; nothing generated is committed.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 7] = [
    "hone/v1/job.proto",
    "hone/v1/spec.proto",
    "hone/v1/event.proto",
    "hone/v1/dataset.proto",
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
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}

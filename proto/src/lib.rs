//! The gRPC contract of hone: generated types, clients and (with the feature `server`) servers, and the descriptor set for
//! reflection. What is generated is written by `make protos`.

// Generated code: its documentation is the protos' own comments.
#![allow(missing_docs, unreachable_pub, clippy::large_enum_variant)]

#[cfg(feature = "server")]
pub mod encoded;

/// The public API.
pub mod v1 {
    include!("generated/hone.v1.rs");
    #[cfg(feature = "server")]
    include!("generated/server/hone.v1.rs");
}

/// Builders for the parts of a job's spec: a method for each field, called as the field.
pub mod spec {
    include!("generated/hone.v1.spec.rs");
}

/// Between the server and its trainers.
pub mod trainer {
    /// Version 1.
    pub mod v1 {
        include!("generated/hone.trainer.v1.rs");
        #[cfg(feature = "server")]
        include!("generated/server/hone.trainer.v1.rs");

        /// Version of the protocol spoken here; the first thing a trainer says.
        pub const PROTOCOL_VERSION: u32 = 1;
    }
}

/// All protos with their comments, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/hone_descriptor.binpb");

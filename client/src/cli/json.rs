//! JSON, by protobuf's own mapping with the proto's field names (snake_case; 64-bit integers as strings; defaults left out).
//! Read from the descriptors, so that it is right for every message.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

/// The descriptors of `hone.v1`.
pub(crate) fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(hone_proto::FILE_DESCRIPTOR_SET).expect("the build made the descriptors")
    });
    &POOL
}

/// The descriptor of a message of `hone.v1`.
pub(crate) fn descriptor(name: &str) -> MessageDescriptor {
    pool().get_message_by_name(&format!("hone.v1.{name}")).expect("a message of hone.v1")
}

/// A message of `hone.v1` as one line.
pub(crate) fn line(name: &str, message: &impl Message) -> String {
    value(name, message).to_string()
}

/// A message of `hone.v1` over several lines, for people.
pub(crate) fn pretty(name: &str, message: &impl Message) -> String {
    format!("{:#}", value(name, message))
}

/// A message of `hone.v1` as JSON.
pub(crate) fn value(name: &str, message: &impl Message) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let written = dynamic(name, message).serialize_with_options(serde_json::value::Serializer, &options);
    written.expect("JSON has room for every message")
}

/// A message of `hone.v1` beside its descriptor.
pub(crate) fn dynamic(name: &str, message: &impl Message) -> DynamicMessage {
    let encoded = message.encode_to_vec();
    DynamicMessage::decode(descriptor(name), encoded.as_slice()).expect("encoded by the same protos")
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;

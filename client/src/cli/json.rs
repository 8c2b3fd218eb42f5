//! JSON, by protobuf's own mapping with the proto's field names (snake_case; 64-bit integers as strings; defaults left out).
//! Read from the descriptors, so that it is right for every message.

use std::sync::LazyLock;

use hone_client::{FieldViolation, v1};
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use crate::failure::Failure;

/// The descriptors of `hone.v1`.
pub(crate) fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(hone_proto::FILE_DESCRIPTOR_SET).expect("the build made the descriptors")
    });
    &POOL
}

fn descriptor(name: &str) -> MessageDescriptor {
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

fn value(name: &str, message: &impl Message) -> Value {
    let encoded = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor(name), encoded.as_slice()).expect("encoded by the same protos");
    let options = SerializeOptions::new().use_proto_field_name(true);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).expect("JSON has room for every message")
}

/// Reads a spec. Every field that `hone.v1.JobSpec` does not have is named, not only the first.
pub(crate) fn job_spec(text: &str, source: &str) -> Result<v1::JobSpec, Failure> {
    let not_json = |error: serde_json::Error| Failure::input(format!("{source}: not JSON: {error}"));
    let value: Value = serde_json::from_str(text).map_err(not_json)?;
    let mut unknown = Vec::new();
    collect_unknown(&descriptor("JobSpec"), &value, "", &mut unknown);
    if !unknown.is_empty() {
        return Err(Failure::Input {
            message: format!("{source}: not a spec: {} unknown", counted(unknown.len(), "field")),
            hint: Some("the fields are those of hone.v1.JobSpec in proto/hone/v1/spec.proto".to_owned()),
            violations: unknown,
        });
    }
    let refused = |error: serde_json::Error| Failure::input(format!("{source}: not a spec: {error}"));
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    // From the text once more, since only there errors have a line and a column.
    let mut reader = serde_json::Deserializer::from_str(text);
    let spec =
        DynamicMessage::deserialize_with_options(descriptor("JobSpec"), &mut reader, &options).map_err(refused)?;
    Ok(spec.transcode_to().expect("the same message"))
}

/// Walks JSON beside the descriptor and notes what the descriptor does not know.
fn collect_unknown(message: &MessageDescriptor, value: &Value, path: &str, unknown: &mut Vec<FieldViolation>) {
    let Value::Object(members) = value else { return };
    for (name, value) in members {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let known = message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
        let Some(field) = known else {
            let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
            unknown.push(FieldViolation { field: path, description: suggestion(name, &names) });
            continue;
        };
        // Members of a map are data.
        if let (Kind::Message(inner), false) = (field.kind(), field.is_map()) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| collect_unknown(&inner, item, &path, unknown)),
                one => collect_unknown(&inner, one, &path, unknown),
            }
        }
    }
}

/// The known name that is nearest, or all of them.
fn suggestion(name: &str, known: &[String]) -> String {
    let near = known.iter().map(|known| (distance(name, known), known)).min();
    match near {
        Some((distance, near)) if distance <= 1 + name.len() / 4 => format!("unknown; did you mean {near}?"),
        _ => format!("unknown; known are {}", known.join(", ")),
    }
}

/// Levenshtein distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<_> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, against) in other.iter().enumerate() {
            let substituted = diagonal + usize::from(letter != *against);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { " is" } else { "s are" })
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;

//! A spec as a file to start from: what is required is set, everything else stands there at its default behind a `#`, with the
//! proto's own words about it. Read from the descriptors, so that no setting and no default is written down twice.

use hone_client::spec::effective;
use hone_client::v1;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use crate::failure::Failure;
use crate::json::{descriptor, value};
use crate::spec_file::Format;

/// The schema's file, which the spec's own names.
pub(crate) const SCHEMA_FILE: &str = "job-spec.schema.json";

/// The whole file, for a spec that `command` runs.
pub(crate) fn template(spec: &v1::JobSpec, format: Format, command: &str) -> Result<String, Failure> {
    let given = value("JobSpec", spec);
    let schema = match format {
        Format::Json => return Ok(bare(given)),
        Format::Yaml => format!("# yaml-language-server: $schema={SCHEMA_FILE}"),
        Format::Toml => format!("#:schema {SCHEMA_FILE}"),
    };
    let mut page = Page { format, path: Vec::new(), text: String::new() };
    page.line(&schema);
    page.line("# A job for hone. What stands behind a # is a setting at its default: take the # away and change it.");
    page.line("# Models and rows are ids, file:// or s3:// URIs, or local paths, which are uploaded first.");
    page.line(&format!("# Run it: hone {command}"));
    page.message(&descriptor("JobSpec"), &given, &value("JobSpec", &effective(spec)?));
    Ok(page.text)
}

/// What is given and nothing else: JSON has no room for comments.
fn bare(mut spec: Value) -> String {
    let mut file = serde_json::Map::from_iter([("$schema".to_owned(), SCHEMA_FILE.into())]);
    if let Some(fields) = spec.as_object_mut() {
        file.append(fields);
    }
    format!("{:#}\n", Value::Object(file))
}

/// A file on its way. YAML has a line for each part, and what belongs to it further in; in TOML every line has the whole path,
/// so that it means the same wherever it stands, and may be taken from behind its `#` alone.
struct Page {
    format: Format,
    /// Names of the parts that the line is in.
    path: Vec<String>,
    text: String,
}

impl Page {
    fn line(&mut self, text: &str) {
        let depth = if self.format == Format::Yaml { self.path.len() } else { 0 };
        let line = format!("{}{text}", "  ".repeat(depth));
        self.text += line.trim_end();
        self.text.push('\n');
    }

    /// A setting and its value, behind `sign`.
    fn setting(&mut self, sign: &str, name: &str, value: &str) {
        match self.format {
            Format::Toml => {
                let path: String = self.path.iter().map(|part| format!("{part}.")).collect();
                self.line(&format!("{sign}{path}{name} = {value}"));
            }
            _ => self.line(&format!("{sign}{name}: {value}")),
        }
    }

    /// The fields of a message: what is `given` is set, the rest is shown as it is by default.
    fn message(&mut self, message: &MessageDescriptor, given: &Value, defaults: &Value) {
        // The numbers of fields tell their age, not their place; the order of the file is that of a reader.
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(|field| field.path().to_vec());
        for field in fields {
            let name = field.name();
            let is_task = field.containing_oneof().is_some_and(|oneof| ["task", "training"].contains(&oneof.name()));
            if is_task && given.get(name).is_none() {
                continue;
            }
            if self.path.is_empty() || matches!(field.kind(), Kind::Message(_)) {
                self.line("");
            }
            self.about(&field);
            self.field(&field, given.get(name), defaults.get(name));
        }
    }

    fn field(&mut self, field: &FieldDescriptor, given: Option<&Value>, default: Option<&Value>) {
        let name = field.name();
        let kind = field.kind();
        let part = kind.as_message().filter(|_| !field.is_list() && !field.is_map());
        match (part, given, default) {
            (Some(part), ..) if part.fields().len() == 0 => self.setting("#", name, "{}"),
            (Some(part), ..) => {
                if self.format == Format::Yaml {
                    self.line(&format!("{name}:"));
                }
                self.path.push(name.to_owned());
                self.message(part, given.unwrap_or(&Value::Null), default.unwrap_or(&Value::Null));
                self.path.pop();
            }
            (None, Some(given), _) => self.setting("", name, &self.written(given, &kind)),
            (None, None, Some(default)) => self.setting("#", name, &self.written(default, &kind)),
            (None, None, None) if field.is_list() => self.setting("#", name, "[]"),
            (None, None, None) if field.is_map() => self.setting("#", name, "{}"),
            (None, None, None) => self.setting("#", name, ""),
        }
    }

    /// A value: numbers bare, although protobuf JSON writes large ones as texts; the rest as JSON, but for names of enums, which
    /// are bare in YAML, and for tables, which TOML writes in its own way.
    fn written(&self, value: &Value, kind: &Kind) -> String {
        match (value, kind, self.format) {
            (Value::String(text), Kind::Uint64, _) | (Value::String(text), Kind::Enum(_), Format::Yaml) => text.clone(),
            (_, _, Format::Toml) => in_toml(value),
            _ => value.to_string(),
        }
    }

    /// What the proto says of a field, of the values that it may have, and of what its entries are made of.
    fn about(&mut self, field: &FieldDescriptor) {
        for line in comment(field.parent_file().file_descriptor_proto(), field.path()) {
            self.line(&format!("# {line}"));
        }
        match field.kind() {
            Kind::Enum(choices) => self.choices(&choices),
            Kind::Message(entry) if field.is_list() => {
                self.line("# Each has:");
                for field in entry.fields() {
                    let about = comment(field.parent_file().file_descriptor_proto(), field.path()).join(" ");
                    self.line(&format!("#   {}: {about}", field.name()));
                    if let Kind::Enum(choices) = field.kind() {
                        self.choices(&choices);
                    }
                }
            }
            _ => {}
        }
    }

    fn choices(&mut self, choices: &EnumDescriptor) {
        self.line("# One of:");
        for choice in choices.values().filter(|value| value.number() != 0) {
            let about = comment(choice.parent_file().file_descriptor_proto(), choice.path()).join(" ");
            self.line(&format!("#   {}: {about}", choice.name()));
        }
    }
}

/// The lines of a comment in a proto.
fn comment(file: &prost_types::FileDescriptorProto, path: &[i32]) -> Vec<String> {
    let mut places = file.source_code_info.iter().flat_map(|info| &info.location);
    let found = places.find(|place| place.path == path);
    let text = found.map(|place| place.leading_comments()).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// A value in one line of TOML, whose texts, numbers and lists are JSON's.
fn in_toml(value: &Value) -> String {
    let joined = |values: Vec<String>| values.join(", ");
    match value {
        Value::Array(values) => format!("[{}]", joined(values.iter().map(in_toml).collect())),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name} = {}", in_toml(value)));
            format!("{{ {} }}", joined(fields.collect()))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;

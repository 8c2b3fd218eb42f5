//! A spec in a file: YAML, TOML or JSON in, by protobuf's own mapping of names and values; a message out, or everything that is
//! not a spec about it.

use std::io::Read;
use std::path::Path;

use hone_client::{FieldViolation, v1};
use prost_reflect::{DeserializeOptions, DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value as Field};
use serde::Deserializer;
use serde_json::Value;

use crate::failure::Failure;
use crate::json::{descriptor, dynamic};

/// Where editors look for the schema; of no meaning here.
const SCHEMA_FIELD: &str = "$schema";

/// How a spec is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Toml,
}

/// The spec in a file, whose name says how it is written; `-` is standard input.
pub(crate) fn read(file: &Path) -> Result<v1::JobSpec, Failure> {
    let text = match file.to_str() {
        Some("-") => {
            let mut text = String::new();
            let unreadable = |error| Failure::file("read", "standard input", error);
            std::io::stdin().read_to_string(&mut text).map_err(unreadable)?;
            text
        }
        _ => std::fs::read_to_string(file).map_err(|error| Failure::file("read", file, error))?,
    };
    parse(&text, Format::of(file, &text), &file.display().to_string())
}

/// Reads a spec. Every field and value that `hone.v1.JobSpec` does not have is named, not only the first.
pub(crate) fn parse(text: &str, format: Format, source: &str) -> Result<v1::JobSpec, Failure> {
    let value =
        format.value(text).map_err(|error| Failure::input(format!("{source}: not {}: {error}", format.name())))?;
    let mut unknown = Vec::new();
    collect_unknown(&descriptor("JobSpec"), &value, "", &mut unknown);
    unknown.retain(|violation| violation.field != SCHEMA_FIELD);
    if !unknown.is_empty() {
        return Err(Failure::Input {
            message: format!("{source}: not a spec: {} unknown", counted(unknown.len(), "name")),
            hint: Some(
                "fields and values are those of docs/spec.md; hone init writes a spec with all of them".to_owned(),
            ),
            violations: unknown,
        });
    }
    // From the text once more, since only there errors have a line and a column.
    let spec = format.message(text).map_err(|error| Failure::input(format!("{source}: not a spec: {error}")))?;
    Ok(spec.transcode_to().expect("the same message"))
}

impl Format {
    /// By the ending of the file's name; without one that is known, JSON begins with a brace.
    fn of(file: &Path, text: &str) -> Self {
        Self::named(file).unwrap_or(match text.trim_start().starts_with(['{', '[']) {
            true => Self::Json,
            false => Self::Yaml,
        })
    }

    /// What the ending of the file's name says.
    pub(crate) fn named(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Yaml => "YAML",
            Self::Toml => "TOML",
        }
    }

    fn value(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Json => serde_json::from_str(text).map_err(told),
            Self::Yaml => serde_saphyr::from_str(text).map_err(told),
            Self::Toml => toml::from_str(text).map_err(told),
        }
    }

    fn message(self, text: &str) -> Result<DynamicMessage, String> {
        match self {
            Self::Json => job_spec(&mut serde_json::Deserializer::from_str(text)).map_err(told),
            Self::Yaml => serde_saphyr::with_deserializer_from_str(text, |reader| job_spec(reader)).map_err(told),
            Self::Toml => toml::Deserializer::parse(text).and_then(job_spec).map_err(told),
        }
    }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn job_spec<'de, D: Deserializer<'de>>(reader: D) -> Result<DynamicMessage, D::Error> {
    // What is unknown has been told by then, all at once.
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(descriptor("JobSpec"), reader, &options)
}

/// A spec with what `over` sets in place of its own: a list as a whole, a part field by field, a label beside the others.
pub(crate) fn overlaid(spec: &v1::JobSpec, over: &v1::JobSpec) -> v1::JobSpec {
    let mut under = dynamic("JobSpec", spec);
    overlay(&mut under, &dynamic("JobSpec", over));
    under.transcode_to().expect("the same message")
}

fn overlay(under: &mut DynamicMessage, over: &DynamicMessage) {
    for (field, value) in over.fields() {
        if !under.has_field(&field) {
            under.set_field(&field, value.clone());
            continue;
        }
        match (value, under.get_field_mut(&field)) {
            (Field::Message(over), Field::Message(under)) => overlay(under, over),
            (Field::Map(over), Field::Map(under)) => under.extend(over.clone()),
            (value, there) => *there = value.clone(),
        }
    }
}

/// Walks a spec beside its descriptor and notes the fields and values that the descriptor does not know.
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
        let values = match value {
            Value::Array(items) => &items[..],
            one => std::slice::from_ref(one),
        };
        for value in values {
            match field.kind() {
                // Members of a map are data.
                Kind::Message(_) if field.is_map() => {}
                Kind::Message(inner) => collect_unknown(&inner, value, &path, unknown),
                Kind::Enum(choices) => unknown.extend(unknown_choice(&choices, value, &path)),
                _ => {}
            }
        }
    }
}

/// A word that an enum does not have. Numbers pass: a newer server may know more than this descriptor.
fn unknown_choice(choices: &EnumDescriptor, value: &Value, path: &str) -> Option<FieldViolation> {
    let word = value.as_str().filter(|word| choices.get_value_by_name(word).is_none())?;
    let names: Vec<_> = choices.values().map(|choice| choice.name().to_owned()).collect();
    Some(FieldViolation { field: path.to_owned(), description: format!("{word} is {}", suggestion(word, &names)) })
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
#[path = "spec_file_tests.rs"]
mod tests;

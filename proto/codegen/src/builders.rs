//! Builders for the parts of a job's spec, written from the descriptors: a method for each field, called as the field and
//! documented by the proto's own comment. What a comment calls required is an argument of `new`.

use std::collections::BTreeSet;
use std::fmt::Write;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const FILE: &str = "hone/v1/spec.proto";
/// What is made of parts; the client has a builder of its own for it.
const WHOLE: [&str; 3] = ["JobSpec", "BaseModel", "Resources"];

/// The builders' source.
pub(crate) fn source(descriptors: &FileDescriptorSet) -> Result<String, String> {
    let file = descriptors.file.iter().find(|file| file.name() == FILE).ok_or("spec.proto is not among the files")?;
    let mut spec = Spec { file, out: String::new() };
    let enums: Vec<_> = file.enum_type.iter().map(|one| one.name()).collect();
    let _ = writeln!(spec.out, "pub use crate::v1::{{{}}};", enums.join(", "));
    for index in 0..file.message_type.len() {
        if file.message_type[index].name() == "JobSpec" {
            spec.tasks(&file.message_type[index]);
        }
        if spec.is_part(file.message_type[index].name()) {
            spec.builder(index)?;
        }
    }
    Ok(spec.out)
}

struct Spec<'a> {
    file: &'a FileDescriptorProto,
    out: String,
}

impl<'a> Spec<'a> {
    fn message(&self, name: &str) -> Option<&'a DescriptorProto> {
        self.file.message_type.iter().find(|message| message.name() == name)
    }

    /// Whether a message is reached from a job's spec and has a builder here.
    fn is_part(&self, name: &str) -> bool {
        let (mut reached, mut waiting) = (BTreeSet::new(), vec!["JobSpec"]);
        while let Some(next) = waiting.pop() {
            let fields = self.message(next).map(|message| message.field.as_slice()).unwrap_or_default();
            let inner = fields.iter().filter(|field| field.r#type() == Type::Message).map(local_name);
            waiting.extend(inner.filter(|inner| reached.insert(*inner)));
        }
        reached.contains(name) && !WHOLE.contains(&name)
    }

    fn comment(&self, path: &[i32]) -> String {
        let places = self.file.source_code_info.iter().flat_map(|info| &info.location);
        let found = places.into_iter().find(|place| place.path == path);
        found.map(|place| place.leading_comments().trim_end().to_owned()).unwrap_or_default()
    }

    fn document(&mut self, indent: &str, comment: &str) {
        for line in comment.lines() {
            let _ = writeln!(self.out, "{indent}///{line}");
        }
    }

    /// Each task by itself says which task it is.
    fn tasks(&mut self, job: &DescriptorProto) {
        for field in job.field.iter().filter(|field| field.oneof_index.is_some() && !field.proto3_optional()) {
            let (part, variant) = (short(local_name(field)), camel(field.name()));
            self.conversion(part, "job_spec::Task", &format!("crate::v1::job_spec::Task::{variant}(from.0)"));
        }
    }

    fn conversion(&mut self, from: &str, to: &str, how: &str) {
        let _ = writeln!(
            self.out,
            "impl From<{from}> for crate::v1::{to} {{\n    fn from(from: {from}) -> Self {{\n        {how}\n    }}\n}}\n"
        );
    }

    fn builder(&mut self, index: usize) -> Result<(), String> {
        let message = &self.file.message_type[index];
        let (name, part) = (message.name(), short(message.name()));
        let about = |spec: &Self, field: usize| spec.comment(&[4, index as i32, 2, field as i32]);
        let required: Vec<usize> =
            (0..message.field.len()).filter(|field| about(self, *field).contains("Required")).collect();
        self.document("", &self.comment(&[4, index as i32]));
        let derive = if required.is_empty() { "Debug, Clone, Default, PartialEq" } else { "Debug, Clone, PartialEq" };
        let _ = writeln!(self.out, "#[derive({derive})]\npub struct {part}(crate::v1::{name});\n\nimpl {part} {{");
        self.constructor(message, &required, |spec, field| about(spec, field))?;
        for (place, field) in message.field.iter().enumerate() {
            self.document("    ", &about(self, place));
            let (argument, value) = setting(message, field)?;
            let (setter, target) = (word(field.name()), target(message, field));
            let _ = writeln!(
                self.out,
                "    pub fn {setter}(mut self, value: {argument}) -> Self {{\n        self.0.{target} = {value};\n        self\n    }}\n"
            );
        }
        let _ = writeln!(self.out, "}}\n");
        self.conversion(part, name, "from.0");
        let _ = writeln!(
            self.out,
            "impl From<crate::v1::{name}> for {part} {{\n    fn from(message: crate::v1::{name}) -> Self {{\n        Self(message)\n    }}\n}}\n"
        );
        self.alternatives(message);
        Ok(())
    }

    fn constructor(
        &mut self,
        message: &DescriptorProto,
        required: &[usize],
        about: impl Fn(&Self, usize) -> String,
    ) -> Result<(), String> {
        let _ = writeln!(self.out, "    /// Everything at its default but for what is required.");
        let (mut arguments, mut settings) = (Vec::new(), String::new());
        for place in required {
            let field = &message.field[*place];
            let first = about(self, *place);
            let first = first.lines().next().unwrap_or_default().trim().to_owned();
            let _ = writeln!(self.out, "    ///\n    /// `{}`: {first}", field.name());
            let (argument, value) = setting(message, field)?;
            arguments.push(format!("{}: {argument}", word(field.name())));
            let value = value.replace("value", &word(field.name()));
            let _ = write!(settings, "{}: {value}, ", target(message, field));
        }
        let made = match required {
            [] => "Self::default()".to_owned(),
            _ => format!("Self(crate::v1::{} {{ {settings}..Default::default() }})", message.name()),
        };
        let arguments = arguments.join(", ");
        let _ = writeln!(self.out, "    pub fn new({arguments}) -> Self {{\n        {made}\n    }}\n");
        Ok(())
    }

    /// A message that is nothing but a choice is made from what is chosen.
    fn alternatives(&mut self, message: &DescriptorProto) {
        let only_choice = message.oneof_decl.len() == 1 && message.field.iter().all(is_choice);
        if !only_choice {
            return;
        }
        let (outer, oneof) = (message.name(), message.oneof_decl[0].name());
        for field in message.field.iter().filter(|field| field.r#type() == Type::Message) {
            let path = format!("crate::v1::{}::{}::{}", snake(outer), camel(oneof), camel(field.name()));
            let how = format!("Self {{ {oneof}: Some({path}(from.0)) }}");
            self.conversion(short(local_name(field)), outer, &how);
        }
    }
}

/// What a field's method takes, and what it makes of `value`.
fn setting(message: &DescriptorProto, field: &FieldDescriptorProto) -> Result<(String, String), String> {
    let (argument, value) = match field.r#type() {
        Type::Double => ("f64".to_owned(), "value"),
        Type::Uint32 => ("u32".to_owned(), "value"),
        Type::Uint64 => ("u64".to_owned(), "value"),
        Type::Bool => ("bool".to_owned(), "value"),
        Type::String => ("impl Into<String>".to_owned(), "value.into()"),
        Type::Enum => (format!("crate::v1::{}", local_name(field)), "value.into()"),
        Type::Message => (format!("impl Into<crate::v1::{}>", local_name(field)), "value.into()"),
        other => return Err(format!("{}.{}: no builder for {other:?}", message.name(), field.name())),
    };
    if field.label() == Label::Repeated {
        let each = if value == "value" {
            "value.into_iter().collect()"
        } else {
            "value.into_iter().map(Into::into).collect()"
        };
        return Ok((format!("impl IntoIterator<Item = {argument}>"), each.to_owned()));
    }
    if is_choice(field) {
        let oneof = message.oneof_decl[field.oneof_index() as usize].name();
        let path = format!("crate::v1::{}::{}::{}", snake(message.name()), camel(oneof), camel(field.name()));
        return Ok((argument, format!("Some({path}({value}))")));
    }
    let optional = field.proto3_optional() || field.r#type() == Type::Message;
    Ok((argument, if optional { format!("Some({value})") } else { value.to_owned() }))
}

/// Whether a field is one of several that exclude each other.
fn is_choice(field: &FieldDescriptorProto) -> bool {
    field.oneof_index.is_some() && !field.proto3_optional()
}

/// The member of prost's type that holds a field.
fn target(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    match is_choice(field) {
        true => word(message.oneof_decl[field.oneof_index() as usize].name()),
        false => word(field.name()),
    }
}

fn local_name(field: &FieldDescriptorProto) -> &str {
    field.type_name().rsplit('.').next().unwrap_or_default()
}

/// A message's name without what all of them have.
fn short(name: &str) -> &str {
    name.strip_suffix("Spec").or_else(|| name.strip_suffix("Task")).unwrap_or(name)
}

fn word(name: &str) -> String {
    if name == "type" { "r#type".to_owned() } else { name.to_owned() }
}

fn camel(name: &str) -> String {
    let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
    name.split('_').filter(|part| !part.is_empty()).map(capital).collect()
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

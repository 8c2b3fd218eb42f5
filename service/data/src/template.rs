//! Chat templates: a conversation in, its text out, with the spans that `{% generation %}` marks.
//!
//! Renders what transformers renders, byte for byte: Jinja with trim_blocks and lstrip_blocks, Python's methods on texts,
//! lists and dictionaries, its way of printing values, its `tojson`, `raise_exception` and `strftime_now`. Templates come
//! with models and requests, so rendering has a budget of work and of output.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::ops::Range;

use chrono::{DateTime, FixedOffset, Local};
use hone_job::spec::limits::MAX_TEMPLATE_BYTES;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::Value as Json;

mod python;

/// Work a rendering may do, in the template engine's own unit; real conversations take thousands. A fuzzer tries many
/// small things rather than few that use all of it up.
const FUEL: u64 = if cfg!(fuzzing) { 200_000 } else { 20_000_000 };
/// Longest rendering, in bytes.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Stack of a thread that renders templates of strangers, in bytes: lists may be put into lists for as long as there is
/// `FUEL`, and are taken apart again by recursion. Only what is used of it takes memory.
pub const STACK_BYTES: usize = 512 << 20;

/// Marks of generation spans within the raw output: noncharacters, which no sound text holds. They are taken out again.
const SPAN_START: char = '\u{FDD0}';
const SPAN_END: char = '\u{FDD1}';

/// Why a conversation has no text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template is too long to be one.
    #[error("the chat template has {0} bytes; at most {MAX_TEMPLATE_BYTES} are allowed")]
    TooLong(usize),
    /// The template is not Jinja.
    #[error("the chat template cannot be parsed: {0}")]
    Syntax(String),
    /// The template itself refused the conversation, with `raise_exception`.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// Rendering failed.
    #[error("the chat template failed: {0}")]
    Render(String),
    /// The conversation holds the marks that hone uses for itself.
    #[error("the conversation holds the noncharacter U+FDD0 or U+FDD1, which no text should")]
    Noncharacter,
}

/// A chat template, parsed.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Vec<(String, Value)>,
    has_generation: bool,
}

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedChat {
    /// The text.
    pub text: String,
    /// Byte ranges of the text that stood between `{% generation %}` and `{% endgeneration %}`.
    pub generation: Vec<Range<usize>>,
}

/// What a conversation brings beside its messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatContext {
    /// Tools, as a list of JSON schemas.
    pub tools: Option<Json>,
    /// Further variables: the row's `chat_template_kwargs`.
    pub variables: serde_json::Map<String, Json>,
}

impl ChatTemplate {
    /// Parses a template. `special_tokens` become variables, as in transformers.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, Json>) -> Result<Self, Error> {
        Self::with_clock(source, special_tokens, Local::now().fixed_offset())
    }

    /// As [`Self::new`], with the time that `strftime_now` tells; one time serves every row.
    pub fn with_clock(
        source: &str,
        special_tokens: &BTreeMap<String, Json>,
        now: DateTime<FixedOffset>,
    ) -> Result<Self, Error> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(Error::TooLong(source.len()));
        }
        let (source, has_generation) = rewrite_generation_tags(source);
        let mut environment = environment(now);
        environment.add_template_owned("chat", source).map_err(|error| Error::Syntax(describe(&error)))?;
        let special_tokens = special_tokens.iter().map(|(key, token)| (key.clone(), value(token))).collect();
        Ok(Self { environment, special_tokens, has_generation })
    }

    /// Whether the template marks what the assistant wrote.
    pub fn has_generation(&self) -> bool {
        self.has_generation
    }

    /// Renders messages; with `add_generation_prompt` the text ends where the assistant is to speak.
    pub fn render(
        &self,
        messages: &[Json],
        context: &ChatContext,
        add_generation_prompt: bool,
    ) -> Result<RenderedChat, Error> {
        let mut variables: BTreeMap<String, Value> = self.special_tokens.iter().cloned().collect();
        variables.extend(context.variables.iter().map(|(key, json)| (key.clone(), value(json))));
        variables.insert("messages".into(), messages.iter().map(message).collect());
        variables.insert("tools".into(), context.tools.as_ref().map_or(Value::from(()), value));
        variables.entry("documents".into()).or_insert(Value::from(()));
        variables.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let template = self.environment.get_template("chat").map_err(|error| Error::Render(describe(&error)))?;
        let mut output = Bounded(Vec::new());
        match template.render_captured_to(variables.into_iter().collect::<Kwargs>(), &mut output) {
            Ok(_) => {}
            Err(error) => return Err(failure(&error)),
        }
        let raw = String::from_utf8(output.0).map_err(|error| Error::Render(error.to_string()))?;
        take_out_marks(&raw, self.has_generation)
    }
}

fn value(json: &Json) -> Value {
    Value::from(Serde(json))
}

/// Names a message's reasoning comes under; templates read the first, those of gpt-oss the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message, its reasoning under the names that templates read, as transformers does it.
fn message(json: &Json) -> Value {
    let found = REASONING.iter().find_map(|name| json.get(name).filter(|reasoning| !reasoning.is_null()));
    let (Json::Object(fields), Some(reasoning)) = (json, found) else { return value(json) };
    let mut renamed = serde_json::Map::new();
    renamed.insert("thinking".into(), reasoning.clone());
    renamed.extend(fields.clone());
    renamed.insert("reasoning_content".into(), reasoning.clone());
    value(&Json::Object(renamed))
}

/// The engine, set up as transformers sets up Jinja.
fn environment(now: DateTime<FixedOffset>) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the default ones"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(|out, state, value| {
        let text = python::str(state, value)?;
        out.write_str(&text).map_err(|_| JinjaError::new(ErrorKind::WriteFailure, "the rendering is too long"))
    });
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", |state: &mut State<'_, '_>, value: &Value| {
        python::str(state, value).map(Cow::into_owned)
    });
    // In Python a text and a mapping are sequences, and None cannot be iterated over.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, JinjaError> {
        Err(JinjaError::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    environment.add_function("strftime_now", move |format: &str| -> Result<String, JinjaError> {
        let mut text = String::new();
        // chrono's own to_string panics on a format it does not know.
        write!(text, "{}", now.format(format)).map_err(|_| {
            JinjaError::new(ErrorKind::InvalidOperation, format!("strftime_now: bad format {format:?}"))
        })?;
        Ok(text)
    });
    environment.add_filter(GENERATION, |text: &str| format!("{SPAN_START}{text}{SPAN_END}"));
    environment
}

/// Tells an error of `raise_exception` from others.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

/// Name of the filter that marks generation spans.
const GENERATION: &str = "__hone_generation";

/// Turns `{% generation %}` … `{% endgeneration %}` into a filter block within a scope of its own: in transformers the tag
/// is a call block, whose assignments stay inside too. Block tags take the place of block tags, so that whitespace is
/// trimmed alike. (A call block itself does not do here: the engine lets it see only what it reads, not a namespace that
/// it assigns to.)
fn rewrite_generation_tags(source: &str) -> (String, bool) {
    let mut rewritten = String::with_capacity(source.len());
    let mut found = false;
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        rewritten.push_str(before);
        // Behind the opening: in `{%}` the two would share a sign.
        let Some((inner, after)) = tag[2..].split_once("%}") else {
            rest = tag;
            break;
        };
        let word = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => Some(("with".to_string(), format!("filter {GENERATION}"))),
            "endgeneration" => Some(("endfilter".to_string(), "endwith".to_string())),
            _ => None,
        };
        let Some((first, second)) = replacement else {
            // Only the opening is consumed: a `%}` inside a text of an expression does not end its tag.
            rewritten.push_str("{%");
            rest = &tag[2..];
            continue;
        };
        found = true;
        let sign = |sign: Option<char>| sign.filter(|sign| matches!(sign, '-' | '+')).map(String::from);
        let opening = sign(inner.chars().next()).unwrap_or_default();
        let closing = sign(inner.chars().next_back()).unwrap_or_default();
        let _ = write!(rewritten, "{{%{opening} {first} %}}{{% {second} {closing}%}}");
        rest = after;
    }
    rewritten.push_str(rest);
    (rewritten, found)
}

fn take_out_marks(raw: &str, has_generation: bool) -> Result<RenderedChat, Error> {
    let mut rendered = RenderedChat { text: String::with_capacity(raw.len()), generation: Vec::new() };
    let mut open = None;
    for (piece, mark) in split_marks(raw) {
        rendered.text.push_str(piece);
        match (mark, open) {
            (None, None) => {}
            (Some(SPAN_START), None) if has_generation => open = Some(rendered.text.len()),
            (Some(SPAN_END), Some(start)) => {
                rendered.generation.push(start..rendered.text.len());
                open = None;
            }
            _ => return Err(Error::Noncharacter),
        }
    }
    Ok(rendered)
}

/// The text between marks, each piece with the mark behind it.
fn split_marks(raw: &str) -> impl Iterator<Item = (&str, Option<char>)> {
    raw.split_inclusive([SPAN_START, SPAN_END]).map(|piece| match piece.chars().next_back() {
        Some(mark @ (SPAN_START | SPAN_END)) => (&piece[..piece.len() - mark.len_utf8()], Some(mark)),
        _ => (piece, None),
    })
}

/// Output with an end.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other(format!("the rendering is longer than {MAX_OUTPUT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failure(error: &JinjaError) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut detail = None;
    while let Some(error) = next {
        if let Some(jinja) = error.downcast_ref::<JinjaError>() {
            detail = jinja.detail().or(detail);
        }
        if error.is::<Raised>() {
            return Error::Refused(detail.unwrap_or_default().to_string());
        }
        next = error.source();
    }
    Error::Render(describe(error))
}

/// The engine's message with the line in the template.
fn describe(error: &JinjaError) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

#[cfg(test)]
mod tests;

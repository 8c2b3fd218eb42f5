//! Values as Python prints them, since chat templates are written for Python's Jinja.

use std::borrow::Cow;
use std::fmt::{self, Write};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Deepest nesting that is printed.
const MAX_DEPTH: usize = 64;
/// Most bytes that values are printed as in one rendering. The engine's own budget does not see them, and a list that holds
/// a list twice, which holds another twice, is small until it is printed.
const MAX_PRINTED_BYTES: usize = if cfg!(fuzzing) { 1 << 18 } else { 16 << 20 };

/// What values were printed as so far, in bytes: one count a rendering.
#[derive(Default)]
struct Printed(usize);

/// A text that takes what is left of the budget and no more.
struct Text<'a> {
    text: String,
    printed: &'a mut Printed,
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.printed.0 = self.printed.0.saturating_add(piece.len());
        if self.printed.0 > MAX_PRINTED_BYTES {
            return Err(fmt::Error);
        }
        self.text.push_str(piece);
        Ok(())
    }
}

/// The text that `write` writes within the budget of this rendering.
fn text(state: &mut State<'_, '_>, write: impl FnOnce(&mut Text<'_>) -> Result<(), Error>) -> Result<String, Error> {
    let printed = state.get_or_insert_extension(Printed::default());
    let mut out = Text { text: String::new(), printed };
    match write(&mut out) {
        Err(_) if out.printed.0 > MAX_PRINTED_BYTES => Err(too_much()),
        written => written.map(|()| out.text),
    }
}

fn too_much() -> Error {
    let what = format!("the template prints values of more than {MAX_PRINTED_BYTES} bytes");
    Error::new(ErrorKind::InvalidOperation, what)
}

/// A method that the engine does not know: one of Python's. Those of texts that write more than they are given are counted.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    if let (Some(text), "format") = (value.as_str(), name) {
        let printed = state.get_or_insert_extension(Printed::default());
        printed.0 = printed.0.saturating_add(padding(text));
        if printed.0 > MAX_PRINTED_BYTES {
            return Err(too_much());
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

/// At most so many characters do the widths and precisions of a format's fields ask for.
fn padding(format: &str) -> usize {
    let fields = format.split('{').skip(1).filter_map(|field| field.split('}').next());
    let numbers = fields.flat_map(|field| field.split(|sign: char| !sign.is_ascii_digit()));
    let numbers = numbers.filter(|digits| !digits.is_empty()).map(|digits| digits.parse().unwrap_or(usize::MAX));
    numbers.fold(0, usize::saturating_add)
}

/// `str(value)`: texts as they are, everything else as `repr`.
pub(super) fn str<'a>(state: &mut State<'_, '_>, value: &'a Value) -> Result<Cow<'a, str>, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => Ok(Cow::Borrowed(text)),
        (None, ValueKind::Undefined) => Ok(Cow::Borrowed("")),
        _ => text(state, |out| repr(out, value, 0).map_err(Error::from)).map(Cow::Owned),
    }
}

fn repr(out: &mut Text<'_>, value: &Value, depth: usize) -> fmt::Result {
    match value.kind() {
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(out, value),
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Map if depth > MAX_DEPTH => out.write_str("..."),
        ValueKind::Seq => {
            out.write_char('[')?;
            for (index, item) in items(value).enumerate() {
                separate(out, index, ", ")?;
                repr(out, &item, depth + 1)?;
            }
            out.write_char(']')
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (index, key) in items(value).enumerate() {
                separate(out, index, ", ")?;
                repr(out, &key, depth + 1)?;
                out.write_str(": ")?;
                repr(out, &value.get_item(&key).unwrap_or_default(), depth + 1)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

/// One by one: a list that is repeated a million times is not held whole.
fn items(value: &Value) -> impl Iterator<Item = Value> {
    value.try_iter().into_iter().flatten()
}

fn separate(out: &mut Text<'_>, index: usize, separator: &str) -> fmt::Result {
    if index > 0 { out.write_str(separator) } else { Ok(()) }
}

/// A text as Python writes it in source: single quotes unless that needs escaping and double quotes do not.
fn quoted(out: &mut Text<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if c == quote => write!(out, "\\{c}"),
            c if c.is_control() && (c as u32) < 256 => write!(out, "\\x{:02x}", c as u32),
            c => out.write_char(c),
        }?;
    }
    out.write_char(quote)
}

fn number(out: &mut Text<'_>, value: &Value) -> fmt::Result {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => out.write_str(&float_repr(float)),
        _ => write!(out, "{value}"),
    }
}

/// `repr(float)`: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float_repr(float: f64) -> String {
    if !float.is_finite() {
        let name = if float.is_nan() { "nan" } else { "inf" };
        return format!("{}{name}", if float < 0.0 { "-" } else { "" });
    }
    let scientific = format!("{float:e}");
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let mantissa = scientific.split('e').next().unwrap_or_default();
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let plain = float.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// transformers' `tojson`: `json.dumps` with ensure_ascii off, and no escaping for HTML.
pub(super) fn tojson(
    state: &mut State<'_, '_>,
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(usize::try_from(indent)?.min(16)),
        }),
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let item = if indent.is_some() { "," } else { ", " };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        None => (item.to_string(), ": ".to_string()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two texts")),
    };
    let json = Json {
        indent,
        item,
        key,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    text(state, |out| json.write(out, value, 0)).map(Value::from)
}

struct Json {
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl Json {
    fn write(&self, out: &mut Text<'_>, value: &Value, depth: usize) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}")));
        match value.kind() {
            ValueKind::None => out.write_str("null")?,
            ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" })?,
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(float) if float.is_nan() => out.write_str("NaN")?,
                Ok(float) if float.is_infinite() => {
                    out.write_str(if float > 0.0 { "Infinity" } else { "-Infinity" })?
                }
                _ => number(out, value)?,
            },
            ValueKind::String => self.text(out, value.as_str().unwrap_or_default())?,
            _ if depth > MAX_DEPTH => return refuse("the value is nested too deeply"),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut is_empty = true;
                out.write_char('[')?;
                for (index, item) in items(value).enumerate() {
                    is_empty = false;
                    separate(out, index, &self.item)?;
                    self.line(out, depth + 1)?;
                    self.write(out, &item, depth + 1)?;
                }
                if !is_empty {
                    self.line(out, depth)?;
                }
                out.write_char(']')?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = items(value).collect();
                if self.sort_keys {
                    keys.sort();
                }
                out.write_char('{')?;
                for (index, key) in keys.iter().enumerate() {
                    separate(out, index, &self.item)?;
                    self.line(out, depth + 1)?;
                    self.key(out, key)?;
                    out.write_str(&self.key)?;
                    self.write(out, &value.get_item(key)?, depth + 1)?;
                }
                if !keys.is_empty() {
                    self.line(out, depth)?;
                }
                out.write_char('}')?;
            }
            kind => return refuse(&format!("{kind} is not JSON serializable")),
        }
        Ok(())
    }

    fn line(&self, out: &mut Text<'_>, depth: usize) -> fmt::Result {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.write_char('\n')?;
        (0..depth).try_for_each(|_| out.write_str(indent))
    }

    /// A key that is no text stands as the text it is printed as.
    fn key(&self, out: &mut Text<'_>, key: &Value) -> fmt::Result {
        if let Some(text) = key.as_str() {
            return self.text(out, text);
        }
        let mut printed = Text { text: String::new(), printed: &mut *out.printed };
        repr(&mut printed, key, 0)?;
        let text = printed.text;
        self.text(out, &text)
    }

    fn text(&self, out: &mut Text<'_>, text: &str) -> fmt::Result {
        out.write_char('"')?;
        for c in text.chars() {
            match c {
                '"' => out.write_str("\\\""),
                '\\' => out.write_str("\\\\"),
                '\n' => out.write_str("\\n"),
                '\r' => out.write_str("\\r"),
                '\t' => out.write_str("\\t"),
                '\u{8}' => out.write_str("\\b"),
                '\u{c}' => out.write_str("\\f"),
                c if (c as u32) < 0x20 => self.escape(out, c),
                c if self.ensure_ascii && !c.is_ascii() => self.escape(out, c),
                c => out.write_char(c),
            }?;
        }
        out.write_char('"')
    }

    fn escape(&self, out: &mut Text<'_>, c: char) -> fmt::Result {
        c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
    }
}

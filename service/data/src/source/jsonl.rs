//! JSON Lines: one object a line. Empty lines are no rows; a byte-order mark before the first is skipped.

use std::io::{self, BufRead};
use std::sync::Arc;

use hone_job::event::RowNote;
use serde_json::Value;

use super::{Error, MAX_LINE_BYTES, Row, RowResult};
use crate::example::kind;

/// The rows of a text.
pub(super) struct Lines<R> {
    reader: R,
    object: Arc<str>,
    line: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, object: Arc<str>) -> Self {
        Self { reader, object, line: 0, buffer: Vec::new(), ended: false }
    }

    fn row(&self) -> RowResult {
        let note = |note: String| RowNote { object: self.object.to_string(), row: self.line, note };
        if self.buffer.len() > MAX_LINE_BYTES {
            return Err(note(format!("the line is longer than {MAX_LINE_BYTES} bytes")));
        }
        let value: Value = serde_json::from_slice(self.content()).map_err(|error| {
            let what = error.to_string().replace(" at line 1 column", " at column");
            note(format!("not JSON: {what}; expected one JSON object on the line"))
        })?;
        match value {
            Value::Object(_) => Ok(Row { object: self.object.clone(), number: self.line, value }),
            other => Err(note(format!("{}; expected one JSON object on the line", kind(&other)))),
        }
    }

    fn content(&self) -> &[u8] {
        let content = self.buffer.trim_ascii();
        if self.line == 1 { content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content) } else { content }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<RowResult, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match read_line(&mut self.reader, &mut self.buffer) {
                Ok(true) => self.line += 1,
                Ok(false) => break,
                Err(source) => {
                    self.ended = true;
                    return Some(Err(Error::Read { object: self.object.to_string(), row: self.line, source }));
                }
            }
            if !self.content().is_empty() {
                return Some(Ok(self.row()));
            }
        }
        None
    }
}

/// Reads up to the next line end; of a line that is too long, only enough is kept to tell. False at the end.
fn read_line(reader: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.clear();
    let mut any = false;
    loop {
        let available = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        if available.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = available.iter().position(|&byte| byte == b'\n');
        let len = end.unwrap_or(available.len());
        let room = (MAX_LINE_BYTES + 1).saturating_sub(buffer.len());
        buffer.extend_from_slice(&available[..len.min(room)]);
        reader.consume(end.map_or(len, |end| end + 1));
        if end.is_some() {
            return Ok(true);
        }
    }
}

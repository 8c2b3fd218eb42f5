//! Parquet: each row becomes the JSON object it would be in a JSONL file.

use std::fs::File;
use std::sync::Arc;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::reader::RowIter;
use ::parquet::record::{Field, Row as Record};
use hone_job::event::RowNote;
use serde_json::{Map, Number, Value, json};

use super::{Error, Row, RowResult};
use crate::caught::caught;

mod pages;

use pages::Checked;

/// The rows of a file.
pub(super) struct Rows {
    records: RowIter<'static>,
    number: u64,
    object: Arc<str>,
    ended: bool,
}

impl Rows {
    pub(super) fn open(file: File, object: Arc<str>) -> Result<Self, Error> {
        let broken = |what| Error::Parquet { object: object.to_string(), row: 0, what };
        let reader = caught(|| SerializedFileReader::new(file)).map_err(broken)?;
        let metadata = reader.metadata().file_metadata();
        if metadata.schema_descr().num_columns() == 0 {
            return Err(broken(format!("it has {} rows and no columns", metadata.num_rows())));
        }
        let records =
            caught(|| Ok::<_, ParquetError>(RowIter::from_file_into(Box::new(Checked(reader))))).map_err(broken)?;
        Ok(Self { records, number: 0, object, ended: false })
    }
}

impl Rows {
    /// A record as a row. The library panics on the text of a date that no calendar has.
    fn row(&self, record: &Record) -> RowResult {
        let (object, number) = (self.object.clone(), self.number);
        match caught(|| Ok::<_, ParquetError>(self::object(record))) {
            Ok(value) => Ok(Row { object, number, value }),
            Err(what) => {
                Err(RowNote { object: object.to_string(), row: number, note: format!("a cell has no text: {what}") })
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<RowResult, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match caught(|| self.records.next().transpose()).transpose()? {
            Ok(record) => {
                self.number += 1;
                Some(Ok(self.row(&record)))
            }
            Err(what) => {
                self.ended = true;
                Some(Err(Error::Parquet { object: self.object.to_string(), row: self.number, what }))
            }
        }
    }
}

fn object(record: &Record) -> Value {
    record.get_column_iter().map(|(name, field)| (name.clone(), json_of(field))).collect::<Map<_, _>>().into()
}

/// A struct as an object. Its null fields are left out: Parquet has the fields of every row in each, and to a template a
/// message with `tool_calls: null` is one that calls tools.
fn present(record: &Record) -> Value {
    let fields = record.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
    fields.map(|(name, field)| (name.clone(), json_of(field))).collect::<Map<_, _>>().into()
}

/// A cell as JSON. Kinds that JSON has no word for become their text; bytes become an object, so that they are never
/// mistaken for a text to train on.
fn json_of(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float16(value) => float(value.to_f64()),
        // By its shortest text, so that 0.1 does not become 0.10000000149.
        Field::Float(value) => float(value.to_string().parse().unwrap_or(f64::NAN)),
        Field::Double(value) => float(*value),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => json!({"bytes": bytes.len()}),
        Field::Group(record) => present(record),
        Field::ListInternal(list) => list.elements().iter().map(json_of).collect(),
        Field::MapInternal(map) => {
            map.entries().iter().map(|(key, value)| (name(key), json_of(value))).collect::<Map<_, _>>().into()
        }
        other => other.to_string().into(),
    }
}

/// A number, or its name when JSON lacks it.
fn float(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

/// The key of a map's entry: a text as it is, anything else as its JSON.
fn name(key: &Field) -> String {
    match json_of(key) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

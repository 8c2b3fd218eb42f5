//! Parquet: each row becomes the JSON object it would be in a JSONL file.

use std::fs::File;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Number, Value, json};

use super::{Error, Row, RowResult};

const ROWS_AT_ONCE: usize = 256;

/// The rows of a file.
pub(super) struct Rows {
    batches: ParquetRecordBatchReader,
    batch: RecordBatch,
    next: usize,
    number: u64,
    object: Arc<str>,
    ended: bool,
}

impl Rows {
    pub(super) fn open(file: File, object: Arc<str>) -> Result<Self, Error> {
        let batches = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.with_batch_size(ROWS_AT_ONCE).build())
            .map_err(|error| Error::Parquet { object: object.to_string(), row: 0, what: error.to_string() })?;
        let batch = RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()));
        Ok(Self { batches, batch, next: 0, number: 0, object, ended: false })
    }

    fn fail(&mut self, what: String) -> Option<Result<RowResult, Error>> {
        self.ended = true;
        Some(Err(Error::Parquet { object: self.object.to_string(), row: self.number, what }))
    }
}

impl Iterator for Rows {
    type Item = Result<RowResult, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        while self.next >= self.batch.num_rows() {
            match self.batches.next()? {
                Ok(batch) => (self.batch, self.next) = (batch, 0),
                Err(error) => return self.fail(error.to_string()),
            }
        }
        let mut value = Map::new();
        let schema = self.batch.schema();
        for (field, column) in schema.fields().iter().zip(self.batch.columns()) {
            match json_at(column, self.next) {
                Ok(json) => value.insert(field.name().clone(), json),
                Err(error) => return self.fail(format!("column {}: {error}", field.name())),
            };
        }
        self.next += 1;
        self.number += 1;
        Some(Ok(Ok(Row { object: self.object.clone(), number: self.number, value: Value::Object(value) })))
    }
}

/// A cell as JSON. Kinds that JSON has no word for become their text; bytes become an object, so that they are never
/// mistaken for a text to train on.
fn json_at(array: &dyn Array, index: usize) -> Result<Value, String> {
    if array.is_null(index) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Utf8 => array.as_string::<i32>().value(index).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(index).into(),
        DataType::Utf8View => array.as_string_view().value(index).into(),
        DataType::Boolean => array.as_boolean().value(index).into(),
        DataType::Binary => json!({"bytes": array.as_binary::<i32>().value(index).len()}),
        DataType::LargeBinary => json!({"bytes": array.as_binary::<i64>().value(index).len()}),
        DataType::BinaryView => json!({"bytes": array.as_binary_view().value(index).len()}),
        DataType::FixedSizeBinary(len) => json!({"bytes": len}),
        DataType::List(_) => list(&array.as_list::<i32>().value(index))?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(index))?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(index))?,
        DataType::Struct(_) => object(array.as_struct(), index)?,
        DataType::Map(..) => entries(&array.as_map().value(index))?,
        DataType::Dictionary(_, values) => {
            let plain = arrow::compute::cast(&array.slice(index, 1), values).map_err(|error| error.to_string())?;
            json_at(&plain, 0)?
        }
        kind => {
            let text = text(array, index)?;
            match kind.is_numeric() {
                // The text of a number is the number, except for those that JSON lacks.
                true => text.parse::<Number>().map_or(Value::String(text), Value::Number),
                false => Value::String(text),
            }
        }
    })
}

fn text(array: &dyn Array, index: usize) -> Result<String, String> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &options).map_err(|error| error.to_string())?;
    formatter.value(index).try_to_string().map_err(|error| error.to_string())
}

fn list(items: &dyn Array) -> Result<Value, String> {
    (0..items.len()).map(|index| json_at(items, index)).collect()
}

fn object(fields: &StructArray, index: usize) -> Result<Value, String> {
    let cells = fields.column_names().into_iter().zip(fields.columns());
    let pairs = cells.map(|(name, column)| Ok((name.to_string(), json_at(column, index)?)));
    pairs.collect::<Result<Map<_, _>, String>>().map(Value::Object)
}

fn entries(entries: &StructArray) -> Result<Value, String> {
    let (keys, values) = (entries.column(0), entries.column(1));
    let pairs = (0..entries.len()).map(|index| Ok((text(keys, index)?, json_at(values, index)?)));
    pairs.collect::<Result<Map<_, _>, String>>().map(Value::Object)
}

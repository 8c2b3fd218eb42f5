//! A job's numbers as a Parquet file: a row for each number.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use hone_metrics::scalar::Scalar;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::failure::Failure;

/// The columns, named as those of CSV.
const SCHEMA: &str = "message numbers {
  required int64 step;
  required double time;
  required binary name (utf8);
  required double value;
}";

/// Rows that are written in one go.
const GROUP_ROWS: usize = 1 << 17;

/// Writes numbers so that whoever reads the file finds all of it or nothing.
pub(crate) fn write(path: &Path, numbers: &[Scalar]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::file("write", path, error);
    let partial = path.with_extension("parquet.partial");
    let file = File::create(&partial).map_err(failed)?;
    write_to(file, numbers).map_err(|error| failed(std::io::Error::other(error)))?;
    std::fs::rename(&partial, path).map_err(failed)
}

fn write_to(file: File, numbers: &[Scalar]) -> Result<(), ParquetError> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    for rows in numbers.chunks(GROUP_ROWS) {
        let mut group = writer.next_row_group()?;
        column::<Int64Type>(&mut group, rows.iter().map(|one| one.step as i64))?;
        column::<DoubleType>(&mut group, rows.iter().map(|one| one.wall_time))?;
        column::<ByteArrayType>(&mut group, rows.iter().map(|one| ByteArray::from(one.tag.as_str())))?;
        column::<DoubleType>(&mut group, rows.iter().map(|one| one.value))?;
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: impl Iterator<Item = T::T>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else { return Ok(()) };
    column.typed::<T>().write_batch(&values.collect::<Vec<_>>(), None, None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("job.parquet");
        let number = |step, tag: &str, value| Scalar { tag: tag.into(), step, wall_time: 1.5, value };
        write(&path, &[number(1, "train/loss", 2.25), number(1, "eval/loss", f64::NAN)]).expect("written");
        let reader = SerializedFileReader::new(File::open(&path).expect("a file")).expect("Parquet");
        let rows: Vec<_> = reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect();
        assert_eq!(rows.len(), 2);
        let told = (rows[0].get_long(0), rows[0].get_double(1), rows[0].get_string(2), rows[0].get_double(3));
        let (step, time, name, value) = (told.0.unwrap(), told.1.unwrap(), told.2.unwrap(), told.3.unwrap());
        assert_eq!((step, time, name.as_str(), value), (1, 1.5, "train/loss", 2.25));
        assert!(rows[1].get_double(3).unwrap().is_nan());
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }
}

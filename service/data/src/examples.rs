//! Examples beside each other: a few bytes of each in memory, its tokens in a file once there are many.
//!
//! Training takes a step's examples in whatever order; so they are fetched one by one, and only those of a step exist at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::tokenize::{Document, Example, IGNORE_INDEX};

/// Bytes that wait for the file. Few examples never leave memory.
const BUFFER_BYTES: usize = 32 << 20;
/// [`IGNORE_INDEX`] as it is kept.
const IGNORED: u32 = u32::MAX;
/// Bytes of a number as it is kept.
const WIDTH: usize = 4;

/// Why an example cannot be kept or fetched.
#[derive(Debug, thiserror::Error)]
#[error("examples cannot be kept in {}: {source}; free space there, or let TMPDIR name another folder", folder.display())]
pub struct Error {
    /// Where the file is.
    pub folder: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Examples in the order in which they were added.
#[derive(Debug, Default)]
pub struct Examples {
    entries: Vec<Entry>,
    /// Objects that rows are in.
    objects: Vec<Arc<str>>,
    /// What the file has, which no name leads to: it is gone with the process. None while all is in the buffer.
    file: Option<File>,
    /// Bytes of the file.
    written: u64,
    /// What comes after them.
    buffer: Vec<u8>,
}

/// What is known of an example without fetching it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u64,
    row: u64,
    object: u32,
    num_targets: u32,
    /// Tokens of each document; pairs have two, choices more.
    num_tokens: u32,
    num_documents: u16,
    is_text: bool,
}

impl Examples {
    /// Adds an example.
    pub fn push(&mut self, example: &Example) -> Result<(), Error> {
        let entry = Entry {
            start: self.written + self.buffer.len() as u64,
            row: example.row,
            object: self.object(&example.object),
            num_targets: saturated(example.num_targets()),
            num_tokens: saturated(example.num_tokens()),
            num_documents: u16::try_from(example.documents.len()).unwrap_or(u16::MAX),
            is_text: example.is_text,
        };
        for document in example.documents.iter().take(entry.num_documents.into()) {
            self.buffer.extend(saturated(document.len() as u64).to_le_bytes());
            self.buffer.extend(document.input_ids.iter().flat_map(|id| id.to_le_bytes()));
            let label = |label: &i64| u32::try_from(*label).unwrap_or(IGNORED);
            self.buffer.extend(document.labels.iter().flat_map(|one| label(one).to_le_bytes()));
        }
        self.entries.push(entry);
        if self.buffer.len() < BUFFER_BYTES { Ok(()) } else { self.write().map_err(failed) }
    }

    fn write(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The place of an object's name. Rows of one object come one after the other.
    fn object(&mut self, name: &Arc<str>) -> u32 {
        let known = self.objects.iter().rposition(|object| object == name);
        let place = known.unwrap_or_else(|| {
            self.objects.push(name.clone());
            self.objects.len() - 1
        });
        saturated(place as u64)
    }

    /// Examples.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Fetches an example.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn get(&self, index: usize) -> Result<Example, Error> {
        let entry = self.entries[index];
        let len = WIDTH * (usize::from(entry.num_documents) + 2 * entry.num_tokens as usize);
        let mut read = vec![0; len];
        self.read(entry.start, &mut read).map_err(failed)?;
        let mut numbers =
            read.chunks_exact(WIDTH).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let documents = (0..entry.num_documents)
            .map(|_| {
                let len = numbers.next().unwrap_or_default() as usize;
                let input_ids = numbers.by_ref().take(len).collect();
                let label = |label| if label == IGNORED { IGNORE_INDEX } else { i64::from(label) };
                Document { input_ids, labels: numbers.by_ref().take(len).map(label).collect() }
            })
            .collect();
        let object = self.objects[entry.object as usize].clone();
        Ok(Example { documents, object, row: entry.row, is_text: entry.is_text })
    }

    /// Fetches several, in this order.
    pub fn of(&self, indices: &[usize]) -> Result<Vec<Example>, Error> {
        indices.iter().map(|&index| self.get(index)).collect()
    }

    /// Fetches all of them.
    pub fn all(&self) -> Result<Vec<Example>, Error> {
        (0..self.len()).map(|index| self.get(index)).collect()
    }

    /// An example is in the file or in the buffer, whole.
    fn read(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        match (start.checked_sub(self.written), &self.file) {
            (None, Some(file)) => file.read_exact_at(bytes, start),
            (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
            (Some(start), _) => {
                let start = start as usize;
                bytes.copy_from_slice(&self.buffer[start..start + bytes.len()]);
                Ok(())
            }
        }
    }

    /// Object and row of an example.
    pub fn place(&self, index: usize) -> (&Arc<str>, u64) {
        let entry = self.entries[index];
        (&self.objects[entry.object as usize], entry.row)
    }

    /// Tokens of all of them.
    pub fn num_tokens(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.num_tokens)).sum()
    }

    /// Tokens that are trained on.
    pub fn num_targets(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.num_targets)).sum()
    }

    /// Keeps those that are marked.
    pub fn keep(&mut self, kept: &[bool]) {
        let mut marks = kept.iter();
        self.entries.retain(|_| marks.next().is_some_and(|kept| *kept));
    }
}

/// No row has so many tokens: the text of one would take gigabytes.
fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn failed(source: io::Error) -> Error {
    Error { folder: std::env::temp_dir(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(row: u64, documents: usize, len: usize) -> Example {
        let document = |seed: usize| {
            let input_ids: Vec<u32> = (0..len).map(|n| (n * 7 + seed) as u32).collect();
            let label = |n: usize| if n.is_multiple_of(3) { IGNORE_INDEX } else { i64::from(input_ids[n]) };
            Document { labels: (0..len).map(label).collect(), input_ids }
        };
        let object = if row < 5 { "a" } else { "b" };
        Example {
            documents: (0..documents).map(document).collect(),
            object: object.into(),
            row,
            is_text: row.is_multiple_of(2),
        }
    }

    #[test]
    fn what_is_added_is_fetched_from_memory_and_from_the_file() {
        let wanted: Vec<Example> = (0..9).map(|row| example(row, 1 + row as usize % 3, 100 * row as usize)).collect();
        let mut examples = Examples::default();
        for (number, example) in wanted.iter().enumerate() {
            examples.push(example).unwrap();
            if number == 2 || number == 5 {
                examples.write().unwrap();
            }
        }
        assert!(examples.file.is_some() && !examples.buffer.is_empty());
        assert_eq!(examples.all().unwrap(), wanted);
        assert_eq!(examples.of(&[7, 0, 7]).unwrap(), [&wanted[7], &wanted[0], &wanted[7]].map(Clone::clone));
        assert_eq!(examples.num_tokens(), wanted.iter().map(Example::num_tokens).sum::<u64>());
        assert_eq!(examples.num_targets(), wanted.iter().map(Example::num_targets).sum::<u64>());
        assert_eq!(examples.place(6), (&"b".into(), 6));
        assert_eq!(examples.objects.len(), 2);
    }

    #[test]
    fn the_buffer_goes_to_the_file_before_it_is_large() {
        let mut examples = Examples::default();
        let long = example(1, 1, 1 << 20);
        for _ in 0..9 {
            examples.push(&long).unwrap();
            assert!(examples.buffer.len() < BUFFER_BYTES);
        }
        assert!(examples.written >= 64 << 20, "{}", examples.written);
        assert_eq!(examples.get(3).unwrap(), long);
    }

    #[test]
    fn those_that_are_not_kept_are_gone() {
        let mut examples = Examples::default();
        (0..4).for_each(|row| examples.push(&example(row, 1, 9)).unwrap());
        examples.keep(&[true, false, true, false]);
        assert_eq!(examples.all().unwrap(), [example(0, 1, 9), example(2, 1, 9)]);
    }
}

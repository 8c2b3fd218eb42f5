//! A file as bytes in memory, read by the system as they are touched.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A read-only file in memory.
///
/// Weight files are written once and then left alone. A file that is cut short while it is mapped ends the process with
/// SIGBUS, which the supervisor reports; that is the price of not holding a second copy of every weight.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole file.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only; see the type for what happens to a file that changes meanwhile.
        unsafe { memmap2::Mmap::map(&file) }.map(MappedFile)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

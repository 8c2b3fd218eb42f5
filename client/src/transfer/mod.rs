//! Files to and from the server: in chunks, hashed on the way, trusted only when the digests agree.

mod download;
mod kind;
mod local;
mod partial;
mod stored;
mod tries;
mod upload;

use sha2::{Digest, Sha256};

pub(crate) use download::download;

/// Bytes of a chunk; the server takes no larger ones.
const CHUNK_BYTES: usize = 1 << 20;

/// How far an upload or a download is.
///
/// ```no_run
/// # async fn example(client: hone_client::Client) -> hone_client::Result<()> {
/// let mut tell = |now: hone_client::Progress<'_>| {
///     println!("{}: {:.0}%", now.file, 100.0 * now.done_bytes as f64 / now.total_bytes as f64);
/// };
/// client.upload_model_with("model.gguf", "", &mut tell).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The file on its way.
    pub file: &'a str,
    /// Bytes of all files so far.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// Told of every chunk.
pub(crate) type OnProgress<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// Size and digest of what has passed so far.
#[derive(Default)]
struct Tally {
    size_bytes: u64,
    hash: Sha256,
}

impl Tally {
    fn add(&mut self, bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn finish(self) -> (u64, String) {
        (self.size_bytes, hex::encode(self.hash.finalize()))
    }
}

/// Whether `name` is a file name that stays inside its folder, on every system.
fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests;

//! Requests that break off at a message larger than their token may send. Its length comes before it (gRPC over HTTP/2,
//! "Length-Prefixed-Message": a byte that tells of compression, four of the length), so nothing of it is kept.

use futures::StreamExt;
use http_body_util::{BodyStream, StreamBody};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Code, Status};

use crate::api::status::Problem;

/// Bytes before each message.
const PREFIX_BYTES: usize = 5;

/// What a caller sends, up to a message of more than `max_bytes`.
pub(super) fn bounded(request: http::Request<Body>, max_bytes: u64) -> http::Request<Body> {
    let mut lengths = Lengths::default();
    request.map(|body| {
        let frames = BodyStream::new(body).map(move |frame| {
            let frame = frame?;
            match frame.data_ref().map_or(0, |data| lengths.longest(data)) {
                length if length > max_bytes => Err(Status::from(too_large(length, max_bytes))),
                _ => Ok(frame),
            }
        });
        Body::new(StreamBody::new(frames))
    })
}

fn too_large(length: u64, max_bytes: u64) -> Problem {
    let message = format!("a message has {length} bytes; the token may send {max_bytes} at once");
    Problem::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
        .about("max_message_bytes", max_bytes.to_string())
}

/// Finds the lengths of messages in a stream that is cut anywhere.
#[derive(Debug, Default)]
struct Lengths {
    prefix: Vec<u8>,
    /// Bytes of the present message that are still to come.
    left: u64,
}

impl Lengths {
    /// The longest message that begins in this piece.
    fn longest(&mut self, mut piece: &[u8]) -> u64 {
        let mut longest = 0;
        while !piece.is_empty() {
            let skipped = piece.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= skipped as u64;
            let missing = PREFIX_BYTES - self.prefix.len();
            let (prefix, rest) = piece[skipped..].split_at(missing.min(piece.len() - skipped));
            self.prefix.extend(prefix);
            piece = rest;
            if let [_, a, b, c, d] = self.prefix[..] {
                self.left = u32::from_be_bytes([a, b, c, d]).into();
                longest = longest.max(self.left);
                self.prefix.clear();
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_found_however_the_stream_is_cut() {
        let lengths = [3u32, 0, 700, 12];
        let stream: Vec<u8> = lengths
            .iter()
            .flat_map(|&length| [vec![0], length.to_be_bytes().to_vec(), vec![0xff; length as usize]].concat())
            .collect();
        for size in [1, 2, 3, 5, 7, 64, stream.len()] {
            let mut found = Lengths::default();
            let seen: Vec<u64> = stream.chunks(size).map(|piece| found.longest(piece)).collect();
            assert_eq!(seen.iter().max(), Some(&700), "in pieces of {size}");
            assert_eq!((found.left, found.prefix.len()), (0, 0), "in pieces of {size}");
            let before = seen.iter().position(|&length| length == 700).unwrap() * size;
            assert!(before <= 3 + 3 * PREFIX_BYTES, "known before any of it has come, in pieces of {size}");
        }
    }
}

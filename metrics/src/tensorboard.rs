//! TensorBoard's event files: records of a length, its checksum, a message and its checksum; the messages are those of
//! TensorFlow's `event.proto`, of which only numbers are needed here.

use std::io::{self, Write};

use prost::Message;

use crate::scalar::Scalar;

/// What the first record of a file says.
const VERSION: &str = "brain.Event:2";

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `tensorflow.SessionLog.START`.
const START: i32 = 1;

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Within a oneof there, so that 0 is written, too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Writes a file.
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// Begins it.
    pub fn new(file: W) -> io::Result<Self> {
        let mut writer = Self(file);
        writer.record(&Event { file_version: Some(VERSION.into()), ..Default::default() })?;
        Ok(writer)
    }

    /// Adds a number.
    pub fn write(&mut self, scalar: &Scalar) -> io::Result<()> {
        let value = Value { tag: scalar.tag.clone(), simple_value: Some(scalar.value as f32) };
        let summary = Some(Summary { value: vec![value] });
        self.record(&Event { wall_time: scalar.wall_time, step: scalar.step as i64, summary, ..Default::default() })
    }

    /// Says that what was written of this step and of later ones is void: it is taken again.
    pub fn restart_at(&mut self, step: u64, wall_time: f64) -> io::Result<()> {
        let session_log = Some(SessionLog { status: START });
        self.record(&Event { wall_time, step: step as i64, session_log, ..Default::default() })
    }

    /// What is written to.
    pub fn into_inner(self) -> W {
        self.0
    }

    /// Hands on what is written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    fn record(&mut self, event: &Event) -> io::Result<()> {
        let message = event.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        self.0.write_all(&length)?;
        self.0.write_all(&masked(&length).to_le_bytes())?;
        self.0.write_all(&message)?;
        self.0.write_all(&masked(&message).to_le_bytes())
    }
}

/// The checksum of a record: CRC-32C, turned and moved, so that a checksum of bytes which hold one is no checksum of theirs.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_with_its_checksums() {
        // The first record of every file that TensorFlow writes, but for its time of 0.
        let mut bytes = Vec::new();
        Writer::new(&mut bytes).unwrap();
        let message = [b"\x1a\x0d".as_slice(), VERSION.as_bytes()].concat();
        assert_eq!(bytes[..8], 15u64.to_le_bytes());
        assert_eq!(bytes[12..27], message);
        assert_eq!(bytes.len(), 8 + 4 + 15 + 4);
        // "123456789" is the check value of CRC-32C.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}

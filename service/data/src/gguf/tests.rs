//! The container against files written here by hand, whole, cut and lying.

use std::io::Write;

use super::*;

/// Writes a container the way llama.cpp does.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn u32(mut self, value: u32) -> Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }
    fn string(self, text: &str) -> Self {
        let mut with_len = self.u64(text.len() as u64);
        with_len.bytes.extend(text.as_bytes());
        with_len
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }
    fn pad(mut self, to: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
        self
    }
    fn header(version: u32, num_tensors: u64, num_pairs: u64) -> Self {
        Self::default().raw(b"GGUF").u32(version).u64(num_tensors).u64(num_pairs)
    }
    fn open(self) -> Result<Gguf, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&self.bytes).unwrap();
        Gguf::open(file.path())
    }
}

fn small(version: u32) -> Writer {
    Writer::header(version, 2, 6)
        .string("general.architecture")
        .u32(8)
        .string("llama")
        .string("general.alignment")
        .u32(4)
        .u32(64)
        .string("llama.rope.freq_base")
        .u32(6)
        .u32(10000f32.to_bits())
        .string("flag")
        .u32(7)
        .raw(&[1])
        .string("small")
        .u32(1)
        .raw(&[0xff])
        .string("tokens")
        .u32(9)
        .u32(8)
        .u64(2)
        .string("a")
        .string("é")
        .string("one")
        .u32(2)
        .u64(32)
        .u64(2)
        .u32(3)
        .u64(0)
        .string("two")
        .u32(1)
        .u64(3)
        .u32(0)
        .u64(64)
        .pad(64)
        .raw(&[7; 40])
        .pad(64)
        .raw(&[9; 12])
}

#[test]
fn reads_both_versions_with_widened_values_and_absolute_offsets() {
    for version in [2, 3] {
        let gguf = small(version).open().unwrap();
        assert_eq!(gguf.str("general.architecture"), Some("llama"));
        assert_eq!(gguf.u64("general.alignment"), Some(64));
        assert_eq!(gguf.f64("llama.rope.freq_base"), Some(10000.0));
        assert_eq!(gguf.bool("flag"), Some(true));
        assert_eq!(gguf.metadata["small"], Value::I64(-1));
        assert_eq!(gguf.array("tokens").unwrap(), [Value::String("a".into()), Value::String("é".into())]);
        let one = gguf.tensor("one").unwrap();
        assert_eq!((one.num_bytes, one.offset % 64), (40, 0));
        let two = gguf.tensor("two").unwrap();
        assert_eq!((two.num_bytes, two.offset), (12, one.offset + 64));
    }
}

#[test]
fn every_cut_is_an_error_and_a_cut_tensor_is_named() {
    let whole = small(3).bytes;
    for len in 0..whole.len() {
        let error = Writer { bytes: whole[..len].to_vec() }.open().unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "cut at {len}: {error}");
    }
    let error = Writer { bytes: whole[..whole.len() - 1].to_vec() }.open().unwrap_err().to_string();
    assert!(error.contains("tensor two"), "{error}");
}

#[test]
fn lies_are_refused_before_anything_is_allocated() {
    let check = |writer: Writer, expected: &str| {
        let error = writer.open().unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    };
    check(Writer::default().raw(b"PK\x03\x04 and more"), "does not start with `GGUF`");
    check(Writer::header(1, 0, 0), "version 1");
    check(Writer::header(0x0300_0000, 0, 0), "little endian");
    check(Writer::header(3, u64::MAX, 0), "the tensor count");
    check(Writer::header(3, 0, 1 << 60), "the metadata count");
    check(Writer::header(3, 0, 1).string("k").u32(9).u32(4).u64(1 << 40), "k needs");
    check(Writer::header(3, 0, 1).string("k").u32(77).pad(64), "unknown value type 77");
    check(Writer::header(3, 0, 1).string("general.alignment").u32(4).u32(33), "general.alignment");
    check(Writer::header(3, 1, 0).string("w").u32(2).u64(1 << 40).u64(1 << 40).u32(0).u64(0), "impossible sizes");
    check(Writer::header(3, 1, 0).string("w").u32(1).u64(33).u32(2).u64(0), "rows of 33 values");
    check(Writer::header(3, 1, 0).string("w").u32(9).pad(64), "9 dimensions");
    check(Writer::header(3, 1, 0).string("w").u32(1).u64(256).u32(10).u64(0), "tensor w is stored as Q2_K");
    check(Writer::header(3, 1, 0).string("w").u32(1).u64(256).u32(0).u64(u64::MAX - 31), "impossible offset");
}

#[test]
fn deep_arrays_do_not_exhaust_the_stack() {
    let mut writer = Writer::header(3, 0, 1).string("k").u32(9);
    for _ in 0..10_000 {
        writer = writer.u32(9).u64(1);
    }
    assert!(writer.open().unwrap_err().to_string().contains("too deeply"));
}

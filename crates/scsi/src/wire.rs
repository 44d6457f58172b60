//! Reading CDBs and parameter lists, and building answers, without a way to panic.
//!
//! SCSI is big-endian throughout. Bytes beyond the end of what arrived read as zero: a CDB is padded
//! by its transport, and parameter lists are length-checked by their parsers before they are read.

use crate::limits;

/// A command descriptor block, copied so that a task owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cdb([u8; limits::CDB]);

impl Cdb {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut cdb = [0; limits::CDB];
        for (to, from) in cdb.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(cdb)
    }

    pub(crate) fn u8(&self, at: usize) -> u8 {
        byte(&self.0, at)
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        be16(&self.0, at)
    }

    pub(crate) fn u24(&self, at: usize) -> u32 {
        be24(&self.0, at)
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        be32(&self.0, at)
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        be64(&self.0, at)
    }

    /// Whether `mask` has a bit set in byte `at`.
    pub(crate) fn bit(&self, at: usize, mask: u8) -> bool {
        self.u8(at) & mask != 0
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.u8(0)
    }
}

pub(crate) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(rest) = bytes.get(at..) {
        for (to, from) in out.iter_mut().zip(rest) {
            *to = *from;
        }
    }
    out
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

pub(crate) fn be24(bytes: &[u8], at: usize) -> u32 {
    let [a, b, c] = array(bytes, at);
    u32::from_be_bytes([0, a, b, c])
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// A length as an 8-bit field; saturates, which only an answer far beyond its bounds would see.
pub(crate) fn len8(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

/// A length as a 16-bit field; saturates.
pub(crate) fn len16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// A length as a 32-bit field; saturates.
pub(crate) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A number as an index; saturates where `usize` is narrower.
pub(crate) fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Builds an answer field by field.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u24(&mut self, value: u32) -> &mut Self {
        let [_, a, b, c] = value.to_be_bytes();
        self.bytes(&[a, b, c])
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Zeros up to a total length; nothing when it is longer already.
    pub(crate) fn pad_to(&mut self, len: usize) -> &mut Self {
        if len > self.0.len() {
            self.0.resize(len, 0);
        }
        self
    }

    /// Text in a field of `width` bytes, left-aligned, filled with spaces; anything outside printable
    /// ASCII becomes a space, as INQUIRY asks.
    pub(crate) fn ascii(&mut self, text: &str, width: usize) -> &mut Self {
        let printable = |b: u8| if (0x20..=0x7e).contains(&b) { b } else { b' ' };
        let filled = text.bytes().map(printable).chain(std::iter::repeat(b' '));
        self.0.extend(filled.take(width));
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn set_u8(&mut self, at: usize, value: u8) {
        if let Some(slot) = self.0.get_mut(at) {
            *slot = value;
        }
    }

    pub(crate) fn set_u16(&mut self, at: usize, value: u16) {
        let [a, b] = value.to_be_bytes();
        self.set_u8(at, a);
        self.set_u8(at.saturating_add(1), b);
    }

    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        for (i, b) in value.to_be_bytes().into_iter().enumerate() {
            self.set_u8(at.saturating_add(i), b);
        }
    }

    /// Bytes after `header`, as a length field counts them.
    pub(crate) fn after(&self, header: usize) -> usize {
        self.0.len().saturating_sub(header)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

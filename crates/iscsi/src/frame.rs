//! Cutting PDUs from a byte stream, and putting them together.
//!
//! [`Receiver`] takes bytes as they come. The header is gathered (it is short and may arrive in
//! pieces); the data segment is passed through piece by piece while its CRC runs along. [`send`]
//! writes a PDU with whatever digests were agreed on.

use std::ops::Range;

use crc_fast::{CrcAlgorithm, Digest as Crc};
use thiserror::Error;

use crate::Output;
use crate::limits::{AHS_BYTES_MAX, HEADER_BYTES_MAX, LOGIN_SEGMENT_BYTES_MAX};
use crate::pdu::{BHS_LEN, Header};

/// Length of a digest on the wire.
const DIGEST_LEN: usize = 4;

/// CRC32C over several slices, in the byte order of the wire.
#[must_use]
pub fn crc32c(slices: &[&[u8]]) -> [u8; DIGEST_LEN] {
    let mut crc = Crc::new(CrcAlgorithm::Crc32Iscsi);
    for slice in slices {
        crc.update(slice);
    }
    finish(&crc)
}

/// iSCSI sends the CRC's least significant byte first.
fn finish(crc: &Crc) -> [u8; DIGEST_LEN] {
    let [a, b, c, d, ..] = crc.finalize().to_le_bytes();
    [a, b, c, d]
}

/// A stream that can no longer be cut into PDUs. The connection ends.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The header digest does not match: where the next PDU starts is not known.
    #[error("header digest mismatch")]
    HeaderDigest,
    /// A data segment above what we declared to take.
    #[error("data segment of {len} bytes, opcode {opcode:#04x}; we take {max}")]
    LongSegment {
        /// Opcode bits of the header.
        opcode: u8,
        /// Its data segment length.
        len: u32,
        /// What we take.
        max: u32,
    },
    /// Additional header segments above what any PDU needs.
    #[error(
        "additional header segments of {len} bytes, opcode {opcode:#04x}; we take {AHS_BYTES_MAX}"
    )]
    LongAhs {
        /// Opcode bits of the header.
        opcode: u8,
        /// Their length.
        len: usize,
    },
}

/// What came out of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'b> {
    /// A whole header, digest checked; [`Receiver::header`] and [`Receiver::ahs`] have it.
    Header,
    /// A piece of the data segment, not empty.
    Data {
        /// Its place in the data segment.
        offset: u32,
        /// The bytes, borrowed from the input.
        bytes: &'b [u8],
    },
    /// The end of the PDU.
    End {
        /// Whether the data digest (if any) matches.
        intact: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Gathering the header; `len` bytes of it are needed now.
    Header,
    /// Data segment bytes still to come.
    Data { left: u32 },
    /// Padding, then digest: bytes gathered in `tail`.
    Tail { padding: usize, digest: bool },
    /// Everything came; the end is to be told.
    End,
}

/// The receiving half of a connection's framing.
#[derive(Debug)]
pub struct Receiver {
    bytes: Vec<u8>,
    needed: usize,
    /// `bytes` still has the header of the PDU before.
    between: bool,
    stage: Stage,
    tail: [u8; DIGEST_LEN + 3],
    tail_len: usize,
    crc: Crc,
    header_digest: bool,
    data_digest: bool,
    max_segment: u32,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// As every connection starts: no digests, data segments of up to 8192 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(HEADER_BYTES_MAX),
            needed: BHS_LEN,
            between: true,
            stage: Stage::Header,
            tail: [0; DIGEST_LEN + 3],
            tail_len: 0,
            crc: Crc::new(CrcAlgorithm::Crc32Iscsi),
            header_digest: false,
            data_digest: false,
            max_segment: LOGIN_SEGMENT_BYTES_MAX,
        }
    }

    /// What was agreed at login holds from the next header on.
    pub const fn configure(&mut self, header_digest: bool, data_digest: bool, max_segment: u32) {
        self.header_digest = header_digest;
        self.data_digest = data_digest;
        self.max_segment = max_segment;
    }

    /// The header of the current PDU, until the next one begins; all zero before the first.
    #[must_use]
    pub fn header(&self) -> Header {
        Header(self.bytes.first_chunk().copied().unwrap_or([0; BHS_LEN]))
    }

    /// The additional header segments of the current PDU.
    #[must_use]
    pub fn ahs(&self) -> &[u8] {
        let end = BHS_LEN.saturating_add(self.header().ahs_len());
        self.bytes.get(BHS_LEN..end).unwrap_or_default()
    }

    /// Whether a PDU has begun and not ended.
    #[must_use]
    pub fn inside(&self) -> bool {
        self.stage != Stage::Header || !self.between
    }

    /// Takes bytes from `input` until there is something to tell; `None` when it ran out.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is of no more use then.
    pub fn next<'b>(&mut self, input: &mut &'b [u8]) -> Result<Option<Received<'b>>, FrameError> {
        loop {
            match self.stage {
                Stage::Header => {
                    if !self.gather_header(input)? {
                        return Ok(None);
                    }
                    self.begin_data();
                    return Ok(Some(Received::Header));
                }
                Stage::Data { left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    return Ok(Some(self.piece(input, left)));
                }
                Stage::Tail { padding, digest } => {
                    if !self.gather_tail(input, padding, digest) {
                        return Ok(None);
                    }
                    self.stage = Stage::End;
                }
                Stage::End => {
                    let intact = self.intact();
                    self.stage = Stage::Header;
                    self.between = true;
                    return Ok(Some(Received::End { intact }));
                }
            }
        }
    }

    /// True once the header is whole and checked.
    fn gather_header(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        if self.between {
            if input.is_empty() {
                return Ok(false);
            }
            self.between = false;
            self.bytes.clear();
            self.needed = BHS_LEN;
        }
        loop {
            let missing = self.needed.saturating_sub(self.bytes.len());
            let (taken, rest) = input.split_at(missing.min(input.len()));
            self.bytes.extend_from_slice(taken);
            *input = rest;
            if self.bytes.len() < self.needed {
                return Ok(false);
            }
            let whole = self.measure()?;
            if whole == self.needed {
                self.check_header(whole)?;
                return Ok(true);
            }
            self.needed = whole;
        }
    }

    /// The length of the whole header, from its first 48 bytes; refuses what is too long.
    fn measure(&self) -> Result<usize, FrameError> {
        let header = self.header();
        let opcode = header.raw_opcode();
        if header.ahs_len() > AHS_BYTES_MAX {
            return Err(FrameError::LongAhs {
                opcode,
                len: header.ahs_len(),
            });
        }
        let digest = if self.header_digest { DIGEST_LEN } else { 0 };
        // A damaged length is told as a damaged header, so the length is looked at last.
        Ok(BHS_LEN
            .saturating_add(header.ahs_len())
            .saturating_add(digest))
    }

    fn check_header(&self, whole: usize) -> Result<(), FrameError> {
        if self.header_digest {
            let (header, digest) = self
                .bytes
                .split_at_checked(whole.saturating_sub(DIGEST_LEN))
                .unwrap_or_default();
            if digest != crc32c(&[header]) {
                return Err(FrameError::HeaderDigest);
            }
        }
        let header = self.header();
        let len = header.data_len();
        if len > self.max_segment {
            let opcode = header.raw_opcode();
            return Err(FrameError::LongSegment {
                opcode,
                len,
                max: self.max_segment,
            });
        }
        Ok(())
    }

    fn begin_data(&mut self) {
        let len = self.header().data_len();
        self.tail_len = 0;
        self.crc.reset();
        self.stage = if len == 0 {
            Stage::End
        } else {
            Stage::Data { left: len }
        };
    }

    /// Passes on what is there of the data segment.
    fn piece<'b>(&mut self, input: &mut &'b [u8], left: u32) -> Received<'b> {
        let len = self.header().data_len();
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (bytes, rest) = input.split_at(take);
        *input = rest;
        if self.data_digest {
            self.crc.update(bytes);
        }
        let left = left.saturating_sub(u32::try_from(take).unwrap_or(u32::MAX));
        let offset = len
            .saturating_sub(left)
            .saturating_sub(u32::try_from(take).unwrap_or(0));
        self.stage = if left > 0 {
            Stage::Data { left }
        } else {
            let padding = padding(len);
            match (padding, self.data_digest) {
                (0, false) => Stage::End,
                (padding, digest) => Stage::Tail { padding, digest },
            }
        };
        Received::Data { offset, bytes }
    }

    /// True once padding and digest are there.
    fn gather_tail(&mut self, input: &mut &[u8], padding: usize, digest: bool) -> bool {
        let whole = padding.saturating_add(if digest { DIGEST_LEN } else { 0 });
        let take = whole.saturating_sub(self.tail_len).min(input.len());
        let (bytes, rest) = input.split_at(take);
        *input = rest;
        let end = self.tail_len.saturating_add(take);
        if let Some(place) = self.tail.get_mut(self.tail_len..end) {
            place.copy_from_slice(bytes);
        }
        self.tail_len = end;
        if self.tail_len < whole {
            return false;
        }
        if digest {
            self.crc
                .update(self.tail.get(..padding).unwrap_or_default());
        }
        true
    }

    /// Whether the data digest of the PDU that just ended matches.
    fn intact(&self) -> bool {
        let padding = padding(self.header().data_len());
        let end = padding.saturating_add(DIGEST_LEN);
        if !self.data_digest || self.tail_len < end {
            return true;
        }
        self.tail.get(padding..end) == Some(finish(&self.crc).as_slice())
    }
}

/// Bytes that fill a data segment up to a multiple of four.
fn padding(len: u32) -> usize {
    match len & 3 {
        1 => 3,
        2 => 2,
        3 => 1,
        _ => 0,
    }
}

/// The digests of the sending half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// After each header.
    pub header: bool,
    /// After each data segment.
    pub data: bool,
}

/// Writes header and additional header segments with their digest; `data_len` bytes of data are
/// to follow.
fn send_header<O: Output>(
    mut header: Header,
    ahs: &[u8],
    data_len: usize,
    digests: Digests,
    out: &mut O,
) {
    header.set_data_len(u32::try_from(data_len).unwrap_or(0));
    header.set_ahs_words(u8::try_from(ahs.len() / 4).unwrap_or(0));
    if ahs.is_empty() {
        let mut bytes = [0; BHS_LEN + DIGEST_LEN];
        let (place, digest) = bytes.split_at_mut(BHS_LEN);
        place.copy_from_slice(&header.0);
        if digests.header {
            digest.copy_from_slice(&crc32c(&[&header.0]));
            out.bytes(&bytes);
        } else {
            out.bytes(&header.0);
        }
        return;
    }
    out.bytes(&header.0);
    out.bytes(ahs);
    if digests.header {
        out.bytes(&crc32c(&[&header.0, ahs]));
    }
}

/// Padding and data digest behind a data segment.
struct Tail {
    bytes: [u8; 3 + DIGEST_LEN],
    len: usize,
}

impl Tail {
    fn new(data: &[u8], digest: bool) -> Self {
        let padding = padding(u32::try_from(data.len()).unwrap_or(0));
        let mut tail = Self {
            bytes: [0; 3 + DIGEST_LEN],
            len: padding,
        };
        if digest && !data.is_empty() {
            let fill = [0; 3];
            let crc = crc32c(&[data, fill.get(..padding).unwrap_or_default()]);
            tail.len = padding.saturating_add(DIGEST_LEN);
            if let Some(place) = tail.bytes.get_mut(padding..tail.len) {
                place.copy_from_slice(&crc);
            }
        }
        tail
    }

    fn write<O: Output>(&self, out: &mut O) {
        if let Some(bytes) = self.bytes.get(..self.len).filter(|bytes| !bytes.is_empty()) {
            out.bytes(bytes);
        }
    }
}

/// Sends a PDU whose data segment is copied (text, sense data; short things).
pub fn send<O: Output>(header: Header, data: &[u8], digests: Digests, out: &mut O) {
    send_header(header, &[], data.len(), digests, out);
    if !data.is_empty() {
        out.bytes(data);
        Tail::new(data, digests.data).write(out);
    }
}

/// Sends a PDU without a data segment but with additional header segments (a multiple of four
/// bytes long, or none).
pub fn send_ahs<O: Output>(header: Header, ahs: &[u8], digests: Digests, out: &mut O) {
    send_header(header, ahs, 0, digests, out);
}

/// Sends a PDU whose data segment is `payload[range]`, by reference; `ahs` are its additional
/// header segments (a multiple of four bytes long), mostly none.
///
/// A range that is not inside the payload counts as empty; the engines check before.
pub fn send_payload<O: Output>(
    header: Header,
    ahs: &[u8],
    payload: O::Payload,
    range: Range<usize>,
    digests: Digests,
    out: &mut O,
) {
    let data = payload.as_ref().get(range.clone()).unwrap_or_default();
    send_header(header, ahs, data.len(), digests, out);
    if !data.is_empty() {
        let tail = Tail::new(data, digests.data);
        out.payload(payload, range);
        tail.write(out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pdu::{DataOut, NopOut};

    /// Everything in one vector.
    struct Wire(Vec<u8>);

    impl Output for Wire {
        type Payload = Vec<u8>;
        fn bytes(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
        fn payload(&mut self, payload: Vec<u8>, range: Range<usize>) {
            self.0.extend_from_slice(&payload[range]);
        }
    }

    #[test]
    fn crc_agrees_with_another_implementation() {
        // The standard's example of 32 zero bytes.
        assert_eq!(crc32c(&[&[0; 32]]), [0xaa, 0x36, 0x91, 0x8a]);
        for len in [0, 1, 47, 48, 512, 4097] {
            let data: Vec<u8> = (0..len)
                .map(|i| u8::try_from(i * 7 % 251).unwrap())
                .collect();
            let (a, b) = data.split_at(len / 3);
            assert_eq!(crc32c(&[a, b]), crc32c::crc32c(&data).to_le_bytes());
        }
    }

    #[test]
    fn a_damaged_header_ends_the_stream() {
        let mut wire = Wire(Vec::new());
        let digests = Digests {
            header: true,
            data: false,
        };
        send(NopOut::default().encode(), b"ping", digests, &mut wire);
        for bit in 0..52 * 8 {
            let mut damaged = wire.0.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut receiver = Receiver::new();
            receiver.configure(true, false, 8192);
            // A damaged AHS length may make it wait for more header first.
            damaged.extend([0; 2048]);
            let result = receiver.next(&mut damaged.as_slice());
            assert!(result.is_err(), "bit {bit}: {result:?}");
        }
    }

    #[test]
    fn lengths_above_the_limit_are_refused_at_the_header() {
        let mut header = DataOut::default().encode();
        header.set_data_len(8193);
        let mut receiver = Receiver::new();
        assert_eq!(
            receiver.next(&mut header.0.as_slice()),
            Err(FrameError::LongSegment {
                opcode: 5,
                len: 8193,
                max: 8192
            })
        );
        let mut header = DataOut::default().encode();
        header.set_ahs_words(255);
        assert_eq!(
            Receiver::new().next(&mut header.0.as_slice()),
            Err(FrameError::LongAhs {
                opcode: 5,
                len: 1020
            })
        );
    }

    /// What a receiver saw: header, additional segments, data, digest right.
    type Seen = (Header, Vec<u8>, Vec<u8>, bool);

    fn receive(receiver: &mut Receiver, chunks: &[&[u8]]) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut data = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(received) = receiver.next(&mut input).unwrap() {
                match received {
                    Received::Header => data.clear(),
                    Received::Data { offset, bytes } => {
                        assert_eq!(offset as usize, data.len());
                        assert!(!bytes.is_empty());
                        data.extend_from_slice(bytes);
                    }
                    Received::End { intact } => {
                        let ahs = receiver.ahs().to_vec();
                        seen.push((receiver.header(), ahs, data.clone(), intact));
                    }
                }
            }
            assert!(input.is_empty());
        }
        seen
    }

    proptest! {
        /// However the stream is cut, the same PDUs come out; and a flipped bit in a data segment
        /// shows in that PDU only.
        #[test]
        fn chunking_does_not_matter(
            pdus in prop::collection::vec((0_usize..5, prop::collection::vec(any::<u8>(), 0..70)), 1..5),
            cuts in prop::collection::vec(1_usize..60, 0..40),
            digests in (any::<bool>(), any::<bool>()),
        ) {
            let digests = Digests { header: digests.0, data: digests.1 };
            let mut wire = Wire(Vec::new());
            let mut expected = Vec::new();
            for (tag, (words, data)) in pdus.iter().enumerate() {
                let ahs = vec![0x5a; words * 4];
                let itt = u32::try_from(tag).unwrap();
                let mut header = NopOut { itt, ..NopOut::default() }.encode();
                let end = data.len();
                send_payload(header, &ahs, data.clone(), 0..end, digests, &mut wire);
                header.set_data_len(u32::try_from(data.len()).unwrap());
                header.set_ahs_words(u8::try_from(*words).unwrap());
                expected.push((header, ahs, data.clone(), true));
            }
            let mut rest = wire.0.as_slice();
            let mut chunks = Vec::new();
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            chunks.push(rest);
            let mut receiver = Receiver::new();
            receiver.configure(digests.header, digests.data, 8192);
            prop_assert_eq!(receive(&mut receiver, &chunks), expected);
            prop_assert!(!receiver.inside());
        }

        #[test]
        fn a_damaged_data_segment_shows(
            data in prop::collection::vec(any::<u8>(), 1..70),
            bit in any::<prop::sample::Index>(),
        ) {
            let digests = Digests { header: false, data: true };
            let mut wire = Wire(Vec::new());
            send(NopOut::default().encode(), &data, digests, &mut wire);
            let bit = bit.index((wire.0.len() - BHS_LEN) * 8);
            wire.0[BHS_LEN + bit / 8] ^= 1 << (bit % 8);
            send(NopOut::default().encode(), &data, digests, &mut wire);
            let mut receiver = Receiver::new();
            receiver.configure(false, true, 8192);
            let intact: Vec<bool> =
                receive(&mut receiver, &[&wire.0]).into_iter().map(|seen| seen.3).collect();
            prop_assert_eq!(intact, vec![false, true]);
        }
    }
}

//! What a block holds: who wrote it where, in which order, and a checksum over all of it.
//!
//! ```text
//! 0  magic   8  owner   12 sequence (8)   20 lba (8)   28 filler …   last 4: CRC32C of the rest
//! ```
//!
//! A block that was never written, or was unmapped, is all zeros and counts as sequence 0.

/// Bytes of a block of the disk under test.
pub const BYTES: usize = 512;
const MAGIC: u64 = 0x5361_6e63_7475_6d21;
const CHECKED: usize = BYTES - 4;

/// Why a block cannot be what anybody wrote there.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BlockError {
    /// Neither zeros nor a block of ours.
    #[error("no block of ours (begins {0:02x?})")]
    Foreign([u8; 8]),
    /// Its checksum does not match: torn, or mixed from two writes.
    #[error("torn: the checksum does not match (owner {owner}, sequence {sequence})")]
    Torn {
        /// Owner as it says.
        owner: u32,
        /// Sequence as it says.
        sequence: u64,
    },
    /// A good block, but of another place or owner.
    #[error("misdirected: it belongs to owner {owner}, block {lba}")]
    Misdirected {
        /// Owner as it says.
        owner: u32,
        /// Place as it says.
        lba: u64,
    },
}

/// Fills a block. Sequence 0 is zeros.
pub fn fill(block: &mut [u8], owner: u32, lba: u64, sequence: u64) {
    block.fill(0);
    if sequence == 0 {
        return;
    }
    let seed = sequence ^ lba.rotate_left(17) ^ u64::from(owner).rotate_left(41);
    let mut filler = fastrand::Rng::with_seed(seed);
    filler.fill(&mut block[28..CHECKED]);
    block[..8].copy_from_slice(&MAGIC.to_be_bytes());
    block[8..12].copy_from_slice(&owner.to_be_bytes());
    block[12..20].copy_from_slice(&sequence.to_be_bytes());
    block[20..28].copy_from_slice(&lba.to_be_bytes());
    let sum = checksum(&block[..CHECKED]);
    block[CHECKED..].copy_from_slice(&sum.to_be_bytes());
}

/// Which write of `owner` at `lba` this block is; 0 for zeros.
///
/// # Errors
/// [`BlockError`].
pub fn sequence_of(block: &[u8], owner: u32, lba: u64) -> Result<u64, BlockError> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let (found_owner, sequence) = (number32(&block[8..12]), number(&block[12..20]));
    if number(&block[..8]) != MAGIC {
        let mut begin = [0; 8];
        begin.copy_from_slice(&block[..8]);
        return Err(BlockError::Foreign(begin));
    }
    if number32(&block[CHECKED..]) != checksum(&block[..CHECKED]) {
        return Err(BlockError::Torn {
            owner: found_owner,
            sequence,
        });
    }
    let found_lba = number(&block[20..28]);
    if (found_owner, found_lba) != (owner, lba) {
        return Err(BlockError::Misdirected {
            owner: found_owner,
            lba: found_lba,
        });
    }
    Ok(sequence)
}

fn checksum(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum & 0xffff_ffff).unwrap_or_default()
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn number32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_recognized_and_nothing_else() {
        let mut block = [0; BYTES];
        assert_eq!(sequence_of(&block, 3, 9), Ok(0));
        fill(&mut block, 3, 9, 77);
        assert_eq!(sequence_of(&block, 3, 9), Ok(77));
        assert!(matches!(
            sequence_of(&block, 3, 8),
            Err(BlockError::Misdirected { lba: 9, .. })
        ));
        assert!(matches!(
            sequence_of(&block, 2, 9),
            Err(BlockError::Misdirected { owner: 3, .. })
        ));
        let mut torn = block;
        let mut other = [0; BYTES];
        fill(&mut other, 3, 9, 78);
        torn[256..].copy_from_slice(&other[256..]);
        assert!(matches!(
            sequence_of(&torn, 3, 9),
            Err(BlockError::Torn { .. })
        ));
        block[..8].fill(1);
        assert!(matches!(
            sequence_of(&block, 3, 9),
            Err(BlockError::Foreign(_))
        ));
        fill(&mut block, 3, 9, 0);
        assert_eq!(sequence_of(&block, 3, 9), Ok(0));
    }
}

//! The commands that the load is made of.

use iscsi::initiator::Cdb;

fn cdb(bytes: &[u8]) -> Cdb {
    let mut all = [0; 16];
    all[..bytes.len()].copy_from_slice(bytes);
    Cdb::new(all)
}

fn with_lba(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Cdb {
    let mut all = [0; 16];
    (all[0], all[1]) = (opcode, flags);
    all[2..10].copy_from_slice(&lba.to_be_bytes());
    all[10..14].copy_from_slice(&blocks.to_be_bytes());
    Cdb::new(all)
}

/// READ(16)
pub fn read(lba: u64, blocks: u32) -> Cdb {
    with_lba(0x88, 0, lba, blocks)
}

/// WRITE(16), stable before its status where `fua`.
pub fn write(lba: u64, blocks: u32, fua: bool) -> Cdb {
    with_lba(0x8a, u8::from(fua) << 3, lba, blocks)
}

/// COMPARE AND WRITE of one block.
pub fn compare_and_write(lba: u64) -> Cdb {
    let mut all = [0; 16];
    all[0] = 0x89;
    all[2..10].copy_from_slice(&lba.to_be_bytes());
    all[13] = 1;
    Cdb::new(all)
}

/// UNMAP and its parameter list, for one run.
pub fn unmap(lba: u64, blocks: u32) -> (Cdb, [u8; 24]) {
    let mut list = [0; 24];
    (list[1], list[3]) = (22, 16);
    list[8..16].copy_from_slice(&lba.to_be_bytes());
    list[16..20].copy_from_slice(&blocks.to_be_bytes());
    (cdb(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24]), list)
}

/// SYNCHRONIZE CACHE(10) of everything
pub fn flush() -> Cdb {
    cdb(&[0x35])
}

/// TEST UNIT READY
pub fn test_unit_ready() -> Cdb {
    cdb(&[0])
}

/// Bytes of the answer to READ CAPACITY(16).
pub const CAPACITY_BYTES: u32 = 32;

/// READ CAPACITY(16)
pub fn read_capacity() -> Cdb {
    let mut all = [0; 16];
    (all[0], all[1]) = (0x9e, 0x10);
    all[10..14].copy_from_slice(&CAPACITY_BYTES.to_be_bytes());
    Cdb::new(all)
}

/// Blocks, and bytes of a block, in the answer to READ CAPACITY(16).
pub fn capacity(answer: &[u8]) -> Option<(u64, u32)> {
    let (last, rest) = answer.split_first_chunk()?;
    let length = rest.first_chunk()?;
    let blocks = u64::from_be_bytes(*last).checked_add(1)?;
    Some((blocks, u32::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capacity_is_one_more_than_the_last_block() {
        let mut answer = [0; CAPACITY_BYTES as usize];
        (answer[6], answer[7], answer[10]) = (1, 0xff, 2);
        assert_eq!(capacity(&answer), Some((512, 512)));
        assert_eq!(capacity(&answer[..11]), None);
    }

    #[test]
    fn commands_have_their_fields_in_place() {
        let hex = |cdb: Cdb| format!("{cdb:?}");
        assert_eq!(
            hex(write(0x0102, 3, true)),
            "Cdb(8a080000000000000102000000030000)"
        );
        assert_eq!(
            hex(read(0x0102, 3)),
            "Cdb(88000000000000000102000000030000)"
        );
        assert_eq!(
            hex(compare_and_write(5)),
            "Cdb(89000000000000000005000000010000)"
        );
        let (cdb, list) = unmap(7, 9);
        assert_eq!(hex(cdb), "Cdb(42000000000000001800000000000000)");
        assert_eq!(list[..8], [0, 22, 0, 16, 0, 0, 0, 0]);
        assert_eq!((list[15], list[19]), (7, 9));
    }
}

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

/// READ CAPACITY(16), 32 bytes
pub fn read_capacity() -> Cdb {
    let mut all = [0; 16];
    (all[0], all[1], all[13]) = (0x9e, 0x10, 32);
    Cdb::new(all)
}

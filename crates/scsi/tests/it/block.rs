//! Commands that move, compare, repeat and give back blocks.

use scsi::sense::{Code, Key};
use scsi::{DiskOp, Fault, Kind, Status};

use crate::harness::{Host, a, b, block, sixteen, ten, twelve};

fn write(host: &mut Host, lba: u32, value: u8, blocks: u16) {
    let data = vec![value; 512 * usize::from(blocks)];
    host.out(&a(), &ten(0x2a, 0, lba, blocks), &data).good();
}

#[test]
fn what_is_written_is_read_by_every_length_of_cdb() {
    let mut host = Host::disk(1000);
    host.out(&a(), &[0x0a, 0, 0, 5, 2, 0], &[7; 1024]).good();
    host.out(&a(), &ten(0x2a, 0, 7, 1), &block(8)).good();
    host.out(&a(), &twelve(0xaa, 0, 8, 1), &block(9)).good();
    host.out(&a(), &sixteen(0x8a, 0, 9, 1), &block(10)).good();
    let want = [[7; 1024].to_vec(), block(8), block(9), block(10)].concat();
    assert_eq!(host.send(&a(), &[0x08, 0, 0, 5, 5, 0]).good(), want);
    assert_eq!(host.send(&a(), &ten(0x28, 0, 5, 5)).good(), want);
    assert_eq!(host.send(&a(), &twelve(0xa8, 0, 5, 5)).good(), want);
    assert_eq!(host.send(&a(), &sixteen(0x88, 0, 5, 5)).good(), want);
}

#[test]
fn six_byte_commands_take_zero_for_256() {
    let mut host = Host::disk(1000);
    assert_eq!(
        host.send(&a(), &[0x08, 0, 0, 0, 0, 0]).good().len(),
        256 * 512
    );
    host.send(&a(), &[0x08, 0, 2, 0xe9, 0, 0])
        .illegal(Code::LBA_RANGE);
}

#[test]
fn addresses_beyond_the_end_are_refused_whatever_the_sum() {
    let mut host = Host::disk(1000);
    for (code, lba, blocks) in [
        (0x88, 1000, 1),
        (0x88, 999, 2),
        (0x88, 1001, 0),
        (0x88, u64::MAX, 1),
        (0x88, u64::MAX, 0),
        (0x88, 1 << 63, u32::MAX),
        (0x8a, 999, 2),
        (0x8b, u64::MAX, 2),
        (0x8e, u64::MAX, 2),
        (0x8f, u64::MAX, 2),
        (0x90, 999, 2),
        (0x91, 999, 2),
        (0x93, 999, 2),
        (0x93, 1001, 0),
    ] {
        host.out(&a(), &sixteen(code, 0, lba, blocks), &block(0))
            .illegal(Code::LBA_RANGE);
    }
    host.send(&a(), &ten(0x28, 0, u32::MAX, u16::MAX))
        .illegal(Code::LBA_RANGE);
    host.send(&a(), &twelve(0xa8, 0, u32::MAX, u32::MAX))
        .illegal(Code::LBA_RANGE);
    assert!(host.log.is_empty());
}

#[test]
fn nothing_asked_for_is_nothing_done() {
    let mut host = Host::disk(1000);
    for lba in [0, 999, 1000] {
        for code in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x90] {
            let outcome = host.send(&a(), &sixteen(code, 0, lba, 0));
            assert_eq!(
                (outcome.status(), outcome.response.transfer),
                (Status::Good, 0)
            );
        }
    }
    assert!(host.log.is_empty());
}

#[test]
fn more_than_the_limit_is_an_invalid_field() {
    let mut host = Host::disk(10_000);
    let most = host.unit.limits.max_transfer_blocks;
    assert_eq!(most, 8192);
    host.send(&a(), &sixteen(0x88, 0, 0, most)).good();
    let sense = host
        .send(&a(), &sixteen(0x88, 0, 0, most + 1))
        .illegal(Code::INVALID_FIELD);
    assert_eq!(sense.to_bytes()[15..18], [0xcf, 0, 10]);
}

#[test]
fn protection_is_refused_and_fua_accepted() {
    let mut host = Host::disk(100);
    for protect in 1..8 {
        for code in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x93] {
            host.out(&a(), &sixteen(code, protect << 5, 0, 1), &block(0))
                .illegal(Code::INVALID_FIELD);
        }
        host.out(&a(), &sixteen(0x89, protect << 5, 0, 0), &[])
            .illegal(Code::INVALID_FIELD);
    }
    for flags in [0x10, 0x08, 0x18, 0x1a, 0x02] {
        host.send(&a(), &ten(0x28, flags, 0, 1)).good();
        host.out(&a(), &ten(0x2a, flags, 0, 1), &block(0)).good();
        let fua = flags & 8 != 0;
        assert!(matches!(host.log.last(), Some(DiskOp::Write { fua: f, .. }) if *f == fua));
    }
}

#[test]
fn a_short_write_writes_whole_blocks_and_tells_the_rest() {
    let mut host = Host::disk(100);
    write(&mut host, 0, b'a', 2);
    let outcome = host.out(&a(), &ten(0x2a, 0, 0, 2), &block(b'b'));
    assert_eq!(
        (outcome.status(), outcome.response.transfer),
        (Status::Good, 1024)
    );
    assert_eq!(
        host.send(&a(), &ten(0x28, 0, 0, 2)).good(),
        [block(b'b'), block(b'a')].concat()
    );
    let outcome = host.out(&a(), &ten(0x2a, 0, 0, 1), &[]);
    assert_eq!(
        (outcome.status(), outcome.response.transfer),
        (Status::Good, 512)
    );
    let before = host.log.len();
    let outcome = host.out(&a(), &ten(0x2a, 0, 0, 1), &[1; 200]);
    assert_eq!(outcome.response.transfer, 512);
    outcome.illegal(Code::DATA_LENGTH);
    assert_eq!(host.log.len(), before);
}

#[test]
fn a_long_write_leaves_the_rest_alone() {
    let mut host = Host::disk(100);
    write(&mut host, 0, b'a', 2);
    let outcome = host.out(&a(), &ten(0x2a, 0, 0, 1), &vec![b'b'; 10_000]);
    assert_eq!(
        (outcome.status(), outcome.response.transfer),
        (Status::Good, 512)
    );
    assert_eq!(
        host.send(&a(), &ten(0x28, 0, 0, 2)).good(),
        [block(b'b'), block(b'a')].concat()
    );
}

#[test]
fn verify_reads_or_compares() {
    let mut host = Host::disk(5000);
    write(&mut host, 10, 5, 3);
    host.out(&a(), &ten(0x2f, 0, 10, 3), &block(1)).good();
    host.out(&a(), &ten(0x2f, 0x02, 10, 3), &[5; 1536]).good();
    let mut wrong = vec![5; 1536];
    wrong[700] = 6;
    let sense = host
        .out(&a(), &ten(0x2f, 0x02, 10, 3), &wrong)
        .check(Key::Miscompare, Code::MISCOMPARE);
    assert_eq!(sense.information, Some(700));
    host.out(&a(), &twelve(0xaf, 0x06, 10, 3), &block(5)).good();
    let sense = host.out(&a(), &sixteen(0x8f, 0x06, 10, 4), &block(5));
    assert_eq!(
        sense.check(Key::Miscompare, Code::MISCOMPARE).information,
        Some(0)
    );
    host.out(&a(), &ten(0x2f, 0x04, 10, 3), &block(5))
        .illegal(Code::INVALID_FIELD);
    host.out(&a(), &ten(0x2f, 0x02, 10, 3), &block(5))
        .illegal(Code::DATA_LENGTH);
}

#[test]
fn a_long_verify_goes_in_chunks() {
    let mut host = Host::disk(5000);
    host.send(&a(), &sixteen(0x8f, 0, 0, 5000)).good();
    let reads = [(0, 2048), (2048, 2048), (4096, 904)];
    let want = reads.map(|(lba, blocks)| DiskOp::Read { lba, blocks });
    assert_eq!(host.log, want);
    let mut data = vec![0; 5000 * 512];
    host.out(&a(), &sixteen(0x8f, 2, 0, 5000), &data).good();
    data[4500 * 512] = 1;
    let sense = host
        .out(&a(), &sixteen(0x8f, 2, 0, 5000), &data)
        .check(Key::Miscompare, Code::MISCOMPARE);
    assert_eq!(sense.information, Some(4500 * 512));
}

#[test]
fn write_and_verify_writes_through_and_reads_back() {
    let mut host = Host::disk(100);
    for (code, flags) in [(0x2e, 0), (0x2e, 2)] {
        host.log.clear();
        host.out(&a(), &ten(code, flags, 4, 2), &[9; 1024]).good();
        assert!(matches!(host.log[0], DiskOp::Write { fua: true, .. }));
        assert!(matches!(host.log[1], DiskOp::Read { lba: 4, blocks: 2 }));
    }
    host.out(&a(), &twelve(0xae, 2, 4, 1), &block(1)).good();
    host.out(&a(), &sixteen(0x8e, 2, 4, 1), &block(2)).good();
    host.out(&a(), &ten(0x2e, 4, 4, 1), &block(1))
        .illegal(Code::INVALID_FIELD);
    let outcome = host.out(&a(), &ten(0x2e, 2, 4, 2), &block(7));
    assert_eq!(
        (outcome.status(), outcome.response.transfer),
        (Status::Good, 1024)
    );
    assert_eq!(host.bytes[4 * 512..5 * 512], block(7));
}

#[test]
fn compare_and_write_swaps_or_tells_where_it_differs() {
    let mut host = Host::disk(1000);
    write(&mut host, 20, b'A', 3);
    let cdb = |blocks: u8| {
        let mut cdb = sixteen(0x89, 0, 20, 0);
        cdb[13] = blocks;
        cdb
    };
    let data = [vec![b'A'; 1536], vec![b'B'; 1536]].concat();
    host.out(&a(), &cdb(3), &data).good();
    assert_eq!(host.bytes[20 * 512..23 * 512], vec![b'B'; 1536]);
    let writes = host.log.len();
    let mut other = [vec![b'B'; 1536], vec![b'C'; 1536]].concat();
    other[1536 - 27] = b'x';
    let sense = host
        .out(&a(), &cdb(3), &other)
        .check(Key::Miscompare, Code::MISCOMPARE);
    assert_eq!(sense.information, Some(1536 - 27));
    assert_eq!(sense.to_bytes()[0], 0xf0);
    assert_eq!(host.log.len(), writes + 1, "only the read");
    // Lengths that are not twice the blocks.
    for blocks in [1, 2, 4, 0] {
        host.out(&a(), &cdb(blocks), &data)
            .illegal(Code::INVALID_FIELD);
    }
    host.out(&a(), &cdb(0), &[]).good();
    host.unit.limits.max_compare_and_write = 2;
    host.out(&a(), &cdb(3), &data).illegal(Code::INVALID_FIELD);
}

#[test]
fn orwrite_ors() {
    let mut host = Host::disk(1000);
    write(&mut host, 20, 0xa5, 3);
    host.out(&a(), &sixteen(0x8b, 0x08, 20, 3), &[0x5a; 1536])
        .good();
    assert_eq!(host.bytes[20 * 512..23 * 512], vec![0xff; 1536]);
    host.out(&a(), &sixteen(0x8b, 0, 20, 3), &block(0))
        .illegal(Code::DATA_LENGTH);
}

#[test]
fn write_same_repeats_one_block() {
    let mut host = Host::disk(5000);
    let pattern: Vec<u8> = (0..512u32).map(|i| i as u8).collect();
    host.out(&a(), &ten(0x41, 0, 10, 4000), &pattern).good();
    assert_eq!(host.bytes[10 * 512..4010 * 512], pattern.repeat(4000));
    assert_eq!(host.log.len(), 2, "two chunks");
    assert_eq!(host.bytes[4010 * 512..], vec![0; 990 * 512]);
    for wrong in [0, 256, 1024] {
        host.out(&a(), &ten(0x41, 0, 10, 1), &vec![1; wrong])
            .illegal(Code::DATA_LENGTH);
    }
    for flags in [0x02, 0x04, 0x10, 0x18] {
        host.out(&a(), &ten(0x41, flags, 10, 1), &pattern)
            .illegal(Code::INVALID_FIELD);
        host.out(&a(), &sixteen(0x93, flags, 10, 1), &pattern)
            .illegal(Code::INVALID_FIELD);
    }
}

#[test]
fn write_same_keeps_to_its_limits() {
    let mut host = Host::disk(1000);
    host.out(&a(), &ten(0x41, 0, 990, 0), &block(3))
        .illegal(Code::INVALID_FIELD);
    host.out(&a(), &sixteen(0x93, 0x01, 1000, 0), &[])
        .illegal(Code::INVALID_FIELD);
    host.unit.limits.max_write_same = 9;
    host.out(&a(), &sixteen(0x93, 0, 0, 9), &block(3)).good();
    host.out(&a(), &sixteen(0x93, 0, 0, 10), &block(3))
        .illegal(Code::INVALID_FIELD);
}

#[test]
fn write_same_of_zeros_unmaps_only_when_asked() {
    let mut host = Host::disk(1000);
    write(&mut host, 0, 1, 16);
    host.out(&a(), &ten(0x41, 0x08, 0, 8), &block(0)).good();
    assert_eq!(
        host.log.last(),
        Some(&DiskOp::Zero {
            lba: 0,
            blocks: 8,
            unmap: true,
            fua: false
        })
    );
    host.out(&a(), &sixteen(0x93, 0, 8, 8), &block(0)).good();
    assert_eq!(
        host.log.last(),
        Some(&DiskOp::Zero {
            lba: 8,
            blocks: 8,
            unmap: false,
            fua: false
        })
    );
    // NDOB: no data, zeros.
    host.out(&a(), &sixteen(0x93, 0x09, 8, 4), &[]).good();
    host.out(&a(), &sixteen(0x93, 0x01, 8, 4), &block(0))
        .illegal(Code::DATA_LENGTH);
    // With UNMAP, contents that unmapped blocks would not have are written.
    host.out(&a(), &ten(0x41, 0x08, 0, 8), &block(6)).good();
    assert_eq!(host.bytes[..8 * 512], vec![6; 8 * 512]);
    host.unit.thin = false;
    host.out(&a(), &ten(0x41, 0x08, 0, 8), &block(0))
        .illegal(Code::INVALID_FIELD);
}

fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let mut list = vec![0; 8];
    list[..2].copy_from_slice(&((ranges.len() * 16 + 6) as u16).to_be_bytes());
    list[2..4].copy_from_slice(&((ranges.len() * 16) as u16).to_be_bytes());
    for (lba, blocks) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn unmap_cdb(len: usize) -> [u8; 10] {
    ten(0x42, 0, 0, len as u16)
}

#[test]
fn unmap_gives_back_all_or_nothing() {
    let mut host = Host::disk(1000);
    write(&mut host, 0, 1, 100);
    let list = unmap_list(&[(0, 10), (50, 0), (20, 5), (1000, 0)]);
    host.out(&a(), &unmap_cdb(list.len()), &list).good();
    assert_eq!(
        host.log.last(),
        Some(&DiskOp::Unmap(vec![(0, 10), (20, 5)]))
    );
    assert_eq!(host.send(&a(), &ten(0x28, 0, 0, 10)).good(), vec![0; 5120]);
    let before = host.log.len();
    let list = unmap_list(&[(30, 1), (999, 2)]);
    host.out(&a(), &unmap_cdb(list.len()), &list)
        .illegal(Code::LBA_RANGE);
    let list = unmap_list(&[(30, 1), (u64::MAX, u32::MAX)]);
    host.out(&a(), &unmap_cdb(list.len()), &list)
        .illegal(Code::LBA_RANGE);
    assert_eq!(host.log.len(), before);
    host.out(&a(), &unmap_cdb(8), &unmap_list(&[])).good();
    host.out(&a(), &unmap_cdb(0), &[]).good();
    host.out(&a(), &ten(0x42, 1, 0, 0), &[])
        .illegal(Code::INVALID_FIELD);
}

#[test]
fn unmap_lists_whose_lengths_disagree_are_refused() {
    let mut host = Host::disk(1000);
    let list = unmap_list(&[(0, 1), (2, 1)]);
    for len in 1..8 {
        host.out(&a(), &unmap_cdb(len), &list)
            .illegal(Code::LIST_LENGTH);
    }
    for len in 8..40 {
        host.out(&a(), &unmap_cdb(len), &list)
            .illegal(Code::LIST_LENGTH);
    }
    host.out(&a(), &unmap_cdb(40), &list[..30])
        .illegal(Code::LIST_LENGTH);
    let mut huge = list.clone();
    huge[2..4].copy_from_slice(&[0xff, 0xff]);
    host.out(&a(), &unmap_cdb(40), &huge)
        .illegal(Code::LIST_LENGTH);
    let mut inner = list.clone();
    inner[0..2].copy_from_slice(&[0, 22]);
    host.out(&a(), &unmap_cdb(40), &inner)
        .illegal(Code::INVALID_PARAMETER);
    // A descriptor cut off at the end counts for nothing.
    let mut part = list;
    part[2..4].copy_from_slice(&[0, 31]);
    host.out(&a(), &unmap_cdb(40), &part).good();
    assert_eq!(host.log, [DiskOp::Unmap(vec![(0, 1)])]);
}

#[test]
fn unmap_keeps_to_its_limits() {
    let mut host = Host::disk(1000);
    host.unit.limits.max_unmap_descriptors = 2;
    host.unit.limits.max_unmap_lbas = 10;
    let list = unmap_list(&[(0, 1); 3]);
    host.out(&a(), &unmap_cdb(list.len()), &list)
        .illegal(Code::INVALID_PARAMETER);
    let list = unmap_list(&[(0, 5), (10, 6)]);
    let sense = host
        .out(&a(), &unmap_cdb(list.len()), &list)
        .illegal(Code::INVALID_PARAMETER);
    assert_eq!(sense.field.unwrap().byte, 32);
    host.unit.thin = false;
    host.out(&a(), &unmap_cdb(0), &[])
        .illegal(Code::INVALID_OPCODE);
}

#[test]
fn lba_status_tells_runs_from_the_block_asked_for() {
    let mut host = Host::disk(1000);
    write(&mut host, 10, 1, 10);
    let mut cdb = sixteen(0x9e, 0x12, 15, 8 + 3 * 16);
    let data = host.send(&a(), &cdb).good();
    assert_eq!(data.len(), 8 + 2 * 16);
    assert_eq!(data[..4], [0, 0, 0, 36]);
    assert_eq!(
        data[8..24],
        [0, 0, 0, 0, 0, 0, 0, 15, 0, 0, 0, 5, 0, 0, 0, 0]
    );
    assert_eq!(
        data[24..40],
        [0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 3, 0xd4, 1, 0, 0, 0]
    );
    cdb[10..14].copy_from_slice(&24u32.to_be_bytes());
    assert_eq!(host.send(&a(), &cdb).good().len(), 24);
    host.send(&a(), &sixteen(0x9e, 0x12, 1000, 24))
        .illegal(Code::LBA_RANGE);
    host.send(&a(), &sixteen(0x9e, 0x12, u64::MAX, 24))
        .illegal(Code::LBA_RANGE);
    host.unit.thin = false;
    let data = host.send(&a(), &sixteen(0x9e, 0x12, 15, 100)).good();
    assert_eq!(
        data[8..24],
        [0, 0, 0, 0, 0, 0, 0, 15, 0, 0, 3, 0xd9, 0, 0, 0, 0]
    );
}

#[test]
fn lba_status_asks_a_bounded_number_of_times() {
    let mut host = Host::disk(1000);
    for lba in (0..1000).step_by(2) {
        host.mapped[lba] = true;
    }
    let data = host.send(&a(), &sixteen(0x9e, 0x12, 0, u32::MAX)).good();
    assert_eq!(data.len(), 8 + 64 * 16);
    assert_eq!(host.log.len(), 64);
}

#[test]
fn capacity_is_the_last_block() {
    let mut host = Host::disk(1000);
    host.unit.physical_block_size = 4096;
    assert_eq!(
        host.send(&a(), &ten(0x25, 0, 0, 0)).good(),
        [0, 0, 3, 0xe7, 0, 0, 2, 0]
    );
    let data = host.send(&a(), &sixteen(0x9e, 0x10, 0, 32)).good();
    assert_eq!(
        data[..16],
        [0, 0, 0, 0, 0, 0, 3, 0xe7, 0, 0, 2, 0, 0, 3, 0xc0, 0]
    );
    assert_eq!(data.len(), 32);
    for allocation in 0..40 {
        let cut = host.send(&a(), &sixteen(0x9e, 0x10, 0, allocation)).good();
        assert_eq!(cut[..], data[..(allocation as usize).min(32)]);
    }
    host.unit.blocks = (1 << 32) + 1;
    assert_eq!(host.send(&a(), &ten(0x25, 0, 0, 0)).good()[..4], [0xff; 4]);
}

#[test]
fn synchronize_cache_flushes() {
    let mut host = Host::disk(1000);
    for flags in [0, 2, 4, 6] {
        host.send(&a(), &ten(0x35, flags, 0, 0)).good();
        host.send(&a(), &sixteen(0x91, flags, 999, 1)).good();
    }
    assert_eq!(host.log, vec![DiskOp::Flush; 8]);
    host.send(&a(), &ten(0x35, 0, 1001, 0))
        .illegal(Code::LBA_RANGE);
}

#[test]
fn write_protection_is_told_by_its_reason() {
    let writes: [(&[u8], usize); 8] = [
        (&ten(0x2a, 0, 0, 1), 512),
        (&[0x0a, 0, 0, 0, 1, 0], 512),
        (&ten(0x41, 0, 0, 1), 512),
        (&ten(0x41, 8, 0, 1), 0),
        (&ten(0x2e, 2, 0, 1), 512),
        (&ten(0x42, 0, 0, 24), 24),
        (&sixteen(0x8b, 0, 0, 1), 512),
        (&sixteen(0x89, 0, 0, 1), 0),
    ];
    for (cdb, len) in writes {
        let data = vec![0; len];
        let mut host = Host::disk(100);
        host.unit.read_only = true;
        host.out(&a(), cdb, &data)
            .check(Key::DataProtect, Code::WRITE_PROTECTED);
        host.unit.read_only = false;
        host.read_only = true;
        host.out(&a(), cdb, &data)
            .check(Key::DataProtect, Code::WRITE_PROTECTED);
        host.read_only = false;
        host.unit.mode.write_protect = true;
        host.out(&a(), cdb, &data)
            .check(Key::DataProtect, Code::SOFTWARE_WRITE_PROTECTED);
        host.send(&a(), &ten(0x28, 0, 0, 1)).good();
    }
}

#[test]
fn faults_become_sense_by_one_table() {
    let rows = [
        (
            Fault::OutOfRange,
            Key::IllegalRequest,
            Code::LBA_RANGE,
            Code::LBA_RANGE,
        ),
        (
            Fault::ReadOnly,
            Key::DataProtect,
            Code::WRITE_PROTECTED,
            Code::WRITE_PROTECTED,
        ),
        (
            Fault::NoSpace,
            Key::DataProtect,
            Code::NO_SPACE,
            Code::NO_SPACE,
        ),
        (
            Fault::Medium { lba: 7 },
            Key::MediumError,
            Code::READ_ERROR,
            Code::WRITE_ERROR,
        ),
        (
            Fault::NotReady,
            Key::NotReady,
            Code::NOT_READY,
            Code::NOT_READY,
        ),
        (
            Fault::Unsupported,
            Key::IllegalRequest,
            Code::INVALID_OPCODE,
            Code::INVALID_OPCODE,
        ),
        (
            Fault::Hardware,
            Key::HardwareError,
            Code::INTERNAL_FAILURE,
            Code::INTERNAL_FAILURE,
        ),
    ];
    let mut host = Host::disk(100);
    for (fault, key, reading, writing) in rows {
        host.fail = Some(fault);
        let sense = host.send(&a(), &ten(0x28, 0, 0, 1)).check(key, reading);
        assert_eq!(
            sense.information,
            matches!(fault, Fault::Medium { .. }).then_some(7)
        );
        host.fail = Some(fault);
        host.out(&a(), &ten(0x2a, 0, 0, 1), &block(0))
            .check(key, writing);
    }
    host.fail = Some(Fault::Busy);
    assert_eq!(host.send(&a(), &ten(0x28, 0, 0, 1)).status(), Status::Busy);
}

#[test]
fn a_write_that_lost_its_right_while_data_came_is_not_started() {
    use scsi::{Command, NexusState, Response, Resume, Step, Task};
    let host = Host::disk(100);
    let cdb = ten(0x2a, 0, 0, 1);
    let command = Command {
        cdb: &cdb,
        nexus: &a(),
        read_only: false,
        data_out_len: 512,
        data_in_len: 0,
        luns: &[0],
    };
    let (mut task, step) = Task::begin(&command, &host.unit, &mut NexusState::default());
    assert!(matches!(step, Step::Receive { len: 512 }));
    let mut newer = host.unit.clone();
    newer.legacy = Some(b());
    assert_eq!(task.recheck(&newer, &a()), Err(Response::conflict()));
    let step = task.resume(Resume::DataOut(&block(1)), &newer, &a());
    assert!(
        matches!(step, Step::Done(r) if r.status == Status::ReservationConflict && r.transfer == 512)
    );
    // A unit that shrank meanwhile.
    let (mut task, _) = Task::begin(&command, &host.unit, &mut NexusState::default());
    let mut newer = host.unit;
    newer.blocks = 0;
    let step = task.resume(Resume::DataOut(&block(1)), &newer, &a());
    assert!(matches!(step, Step::Done(r) if r.sense.as_ref().unwrap().code == Code::LBA_RANGE));
}

#[test]
fn large_blocks_and_small() {
    for size in [512u32, 4096] {
        let mut host = Host::with(Kind::Disk, size, 3000, true);
        let data = vec![3; size as usize * 300];
        host.out(&a(), &sixteen(0x8a, 0, 2700, 300), &data).good();
        assert_eq!(host.send(&a(), &sixteen(0x88, 0, 2700, 300)).good(), data);
        host.out(&a(), &sixteen(0x8f, 2, 2700, 300), &data).good();
    }
}

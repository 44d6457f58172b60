//! Harness of the SCSI device server: commands with parameter lists against a small disk in memory.
//!
//! Input: records of one byte of choices (bits 0-1: which of four nexuses; bit 2: data-in is
//! wanted; bit 3: a fault at the first disk step), sixteen of CDB, two of data-out length (big
//! endian), the data-out. The first byte of all chooses the device (bit 0: optical; bit 1: thin;
//! bit 2: 4096-byte blocks; bit 3: removable).

use std::sync::Arc;

use scsi::{
    Command, DiskOp, DiskResult, Fault, Identity, Kind, Nexus, NexusState, Resume, Step, Task,
    Unit, change, no_such_lun,
};

/// Blocks of the device.
const BLOCKS: u64 = 64;
/// Steps that one command may take: a device of 64 blocks gives none more than that.
const STEPS_MAX: usize = 10_000;

/// Commands with parameter lists.
pub fn cdb(data: &[u8]) {
    let Some((&shape, mut rest)) = data.split_first() else {
        return;
    };
    let mut device = Device::new(shape);
    while let Some((record, after)) = rest.split_at_checked(19) {
        let length = usize::from(u16::from_be_bytes([record[17], record[18]])).min(after.len());
        let (out, next) = after.split_at(length);
        device.run(record[0], &record[1..17], out);
        rest = next;
    }
}

struct Device {
    unit: Unit,
    bytes: Vec<u8>,
    nexuses: Vec<(Nexus, NexusState)>,
}

impl Device {
    fn new(shape: u8) -> Self {
        let kind = if shape & 1 != 0 {
            Kind::Optical
        } else {
            Kind::Disk
        };
        let block_size = match kind {
            Kind::Optical => 2048,
            Kind::Disk if shape & 4 != 0 => 4096,
            Kind::Disk => 512,
        };
        let identity = Identity::new(kind, "FUZZ0001", [0x60; 16], "iqn.2026-11.test:fuzz");
        let mut unit = Unit::new(kind, Arc::new(identity), block_size, BLOCKS);
        unit.thin = shape & 2 != 0;
        unit.unmap_granularity = if unit.thin { 4096 } else { 0 };
        unit.removable |= shape & 8 != 0;
        let nexuses = (0..4)
            .map(|n| {
                (
                    Nexus::new(format!("iqn.2026-11.test:{n}"), [0x80, 0, 0, 0, 0, n], 1),
                    NexusState::new(),
                )
            })
            .collect();
        let bytes = vec![0; (BLOCKS * u64::from(block_size)) as usize];
        Self {
            unit,
            bytes,
            nexuses,
        }
    }

    fn run(&mut self, choices: u8, cdb: &[u8], out: &[u8]) {
        let (nexus, state) = &mut self.nexuses[usize::from(choices & 3)];
        let nexus = nexus.clone();
        let data_out_len = u32::try_from(out.len()).unwrap_or(0);
        let command = Command {
            cdb,
            nexus: &nexus,
            read_only: false,
            data_out_len,
            data_in_len: if choices & 4 != 0 { u32::MAX } else { 0 },
            luns: &[0],
        };
        let _ = no_such_lun(&command);
        let (mut task, mut step) = Task::begin(&command, &self.unit, state);
        let mut fail = choices & 8 != 0;
        for _ in 0..STEPS_MAX {
            let _ = task.footprint();
            step = match step {
                Step::Receive { len } => {
                    let take = out.len().min(len as usize);
                    task.resume(Resume::DataOut(&out[..take]), &self.unit, &nexus)
                }
                Step::Disk(_) if std::mem::take(&mut fail) => task.resume(
                    Resume::Disk(DiskResult::Failed(Fault::Medium { lba: 0 })),
                    &self.unit,
                    &nexus,
                ),
                Step::Disk(op) => {
                    let mut buffer = Vec::new();
                    let result = self.disk(&op, out, &mut buffer);
                    task.resume(Resume::Disk(result), &self.unit, &nexus)
                }
                Step::Change(change) => match change::apply(&self.unit, &nexus, &change) {
                    Ok(applied) => {
                        for (selector, attention) in &applied.attentions {
                            for (other, state) in &mut self.nexuses {
                                if selector.matches(other) && *other != nexus {
                                    state.establish(*attention);
                                }
                            }
                        }
                        self.unit = applied.unit;
                        task.resume(Resume::Changed(Ok(())), &self.unit, &nexus)
                    }
                    Err(response) => {
                        task.resume(Resume::Changed(Err(response)), &self.unit, &nexus)
                    }
                },
                Step::Done(response) => {
                    assert_eq!(
                        response.sense.is_some(),
                        response.status == scsi::Status::CheckCondition,
                        "sense with CHECK CONDITION only"
                    );
                    return;
                }
            };
        }
        panic!("a command that does not end: {cdb:02x?}");
    }

    /// The byte range of blocks; a step outside the device is a bug of the device server.
    fn range(&self, lba: u64, blocks: u64) -> std::ops::Range<usize> {
        assert!(
            lba.checked_add(blocks)
                .is_some_and(|end| end <= self.unit.blocks),
            "a step at {lba}+{blocks} of {}",
            self.unit.blocks
        );
        let size = u64::from(self.unit.block_size);
        (lba * size) as usize..((lba + blocks) * size) as usize
    }

    fn disk<'a>(&mut self, op: &DiskOp, out: &[u8], buffer: &'a mut Vec<u8>) -> DiskResult<'a> {
        match op {
            DiskOp::Read { lba, blocks } => {
                *buffer = self.bytes[self.range(*lba, u64::from(*blocks))].to_vec();
                DiskResult::Read(buffer)
            }
            DiskOp::Write {
                lba,
                blocks,
                data_offset,
                ..
            } => {
                let range = self.range(*lba, u64::from(*blocks));
                let from = *data_offset as usize;
                // The data-out must be there: `solicit` gave all that the initiator sends.
                let data = &out[from..from + range.len()];
                self.bytes[range].copy_from_slice(data);
                DiskResult::Done
            }
            DiskOp::WritePattern {
                lba,
                blocks,
                pattern,
                ..
            } => {
                assert_eq!(
                    pattern.len(),
                    self.unit.block_size as usize,
                    "a pattern of one block"
                );
                let range = self.range(*lba, u64::from(*blocks));
                for block in self.bytes[range].chunks_mut(pattern.len()) {
                    block.copy_from_slice(pattern);
                }
                DiskResult::Done
            }
            DiskOp::Zero { lba, blocks, .. } => {
                let range = self.range(*lba, *blocks);
                self.bytes[range].fill(0);
                DiskResult::Done
            }
            DiskOp::Flush => DiskResult::Done,
            DiskOp::Unmap(extents) => {
                for (lba, blocks) in extents {
                    let range = self.range(*lba, u64::from(*blocks));
                    self.bytes[range].fill(0);
                }
                DiskResult::Done
            }
            DiskOp::Status { lba } => {
                let _ = self.range(*lba, 1);
                DiskResult::Status {
                    mapped: true,
                    blocks: self.unit.blocks - lba,
                }
            }
        }
    }
}

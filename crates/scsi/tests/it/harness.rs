//! A host for one unit: a disk in memory, nexuses with their states, and a driver that runs tasks to
//! their end while it checks what every task must keep to.

use std::collections::BTreeMap;
use std::sync::Arc;

use scsi::change::{self, Applied};
use scsi::sense::{Code, Key};
use scsi::{
    Attention, Change, Command, DataIn, DiskOp, DiskResult, Fault, Footprint, Identity, Kind,
    Nexus, NexusState, Response, Resume, Sense, Status, Step, Task, Unit,
};

/// NAA type 6 identifier of every unit here.
pub(crate) const NAA: [u8; 16] = [0x60, 0x01, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Target name of every unit here.
pub(crate) const TARGET: &str = "iqn.2026-01.test.sanctum:disk";

/// Steps after which a task is taken to run for ever.
const STEPS: usize = 20_000;

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) response: Response,
    /// Data-in, the disk's buffer included.
    pub(crate) data: Vec<u8>,
}

impl Outcome {
    pub(crate) fn status(&self) -> Status {
        self.response.status
    }

    pub(crate) fn sense(&self) -> &Sense {
        self.response.sense.as_ref().expect("no sense data")
    }

    #[track_caller]
    pub(crate) fn good(self) -> Vec<u8> {
        assert_eq!(self.response.status, Status::Good, "{:?}", self.response);
        self.data
    }

    #[track_caller]
    pub(crate) fn check(self, key: Key, code: Code) -> Sense {
        let sense = self.sense().clone();
        assert_eq!((sense.key, sense.code), (key, code));
        sense
    }

    #[track_caller]
    pub(crate) fn illegal(self, code: Code) -> Sense {
        self.check(Key::IllegalRequest, code)
    }

    #[track_caller]
    pub(crate) fn conflict(self) {
        assert_eq!(
            self.response.status,
            Status::ReservationConflict,
            "{:?}",
            self.response
        );
    }
}

pub(crate) struct Host {
    pub(crate) unit: Unit,
    pub(crate) states: BTreeMap<Nexus, NexusState>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) mapped: Vec<bool>,
    /// Every disk operation, in order.
    pub(crate) log: Vec<DiskOp>,
    /// What the last change did.
    pub(crate) applied: Option<Applied>,
    /// Fails the next disk operation.
    pub(crate) fail: Option<Fault>,
    pub(crate) luns: Vec<u16>,
    pub(crate) read_only: bool,
}

/// A nexus by initiator letter and target port.
pub(crate) fn nexus(initiator: char, port: u16) -> Nexus {
    let isid = [0, 2, 0x3d, 0, 0, initiator as u8];
    Nexus::new(format!("iqn.2026-01.test.host:{initiator}"), isid, port)
}

pub(crate) fn a() -> Nexus {
    nexus('a', 1)
}

pub(crate) fn b() -> Nexus {
    nexus('b', 1)
}

impl Host {
    /// A thin disk of 512-byte blocks.
    pub(crate) fn disk(blocks: u64) -> Self {
        Self::with(Kind::Disk, 512, blocks, true)
    }

    pub(crate) fn optical(blocks: u64) -> Self {
        Self::with(Kind::Optical, 2048, blocks, false)
    }

    pub(crate) fn with(kind: Kind, block_size: u32, blocks: u64, thin: bool) -> Self {
        let mut identity = Identity::new(kind, "0123456789AB", NAA, TARGET);
        identity.ports = vec![1, 2];
        let mut unit = Unit::new(kind, Arc::new(identity), block_size, blocks);
        unit.thin = thin;
        unit.unmap_granularity = if thin { 4096 } else { 0 };
        Self {
            unit,
            states: BTreeMap::new(),
            bytes: vec![0; (blocks * u64::from(block_size)) as usize],
            mapped: vec![false; blocks as usize],
            log: Vec::new(),
            applied: None,
            fail: None,
            luns: vec![0],
            read_only: false,
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.unit.block_size as usize
    }

    /// A command without data-out, ready to take as much as there is.
    pub(crate) fn send(&mut self, who: &Nexus, cdb: &[u8]) -> Outcome {
        self.run(who, cdb, &[], u32::MAX)
    }

    /// A command with data-out.
    pub(crate) fn out(&mut self, who: &Nexus, cdb: &[u8], data: &[u8]) -> Outcome {
        self.run(who, cdb, data, 0)
    }

    /// Runs a command to its end.
    pub(crate) fn run(
        &mut self,
        who: &Nexus,
        cdb: &[u8],
        data_out: &[u8],
        data_in_len: u32,
    ) -> Outcome {
        let luns = self.luns.clone();
        let command = Command {
            cdb,
            nexus: who,
            read_only: self.read_only,
            data_out_len: data_out.len() as u32,
            data_in_len,
            luns: &luns,
        };
        let state = self.states.entry(who.clone()).or_default();
        let (mut task, mut step) = Task::begin(&command, &self.unit, state);
        let mut buffer = Vec::new();
        for _ in 0..STEPS {
            step = match step {
                Step::Receive { len } => {
                    assert!(
                        len > 0 && len as usize <= data_out.len(),
                        "asks for more than was announced"
                    );
                    let data = &data_out[..len as usize];
                    task.resume(Resume::DataOut(data), &self.unit, who)
                }
                Step::Disk(op) => {
                    self.check_operation(&op, &task);
                    let failed = self.fail.take();
                    let result = match failed {
                        Some(fault) => DiskResult::Failed(fault),
                        None => self.disk_operation(&op, data_out, &mut buffer),
                    };
                    self.log.push(op);
                    task.resume(Resume::Disk(result), &self.unit, who)
                }
                Step::Change(change) => {
                    let result = self.change(who, &change);
                    task.resume(Resume::Changed(result), &self.unit, who)
                }
                Step::Done(response) => return self.finish(response, &buffer),
            };
        }
        panic!("the task does not end: {cdb:02x?}");
    }

    pub(crate) fn change(&mut self, who: &Nexus, change: &Change) -> Result<(), Response> {
        let applied = change::apply(&self.unit, who, change)?;
        self.publish(applied);
        Ok(())
    }

    /// Publishes what a change made, and tells the nexuses that have a state.
    pub(crate) fn publish(&mut self, applied: Applied) {
        self.unit = applied.unit.clone();
        for (selector, attention) in &applied.attentions {
            for (nexus, state) in &mut self.states {
                if selector.matches(nexus) {
                    state.establish(*attention);
                }
            }
        }
        self.applied = Some(applied);
    }

    pub(crate) fn pending(&self, who: &Nexus) -> Vec<Attention> {
        self.states
            .get(who)
            .map(|s| s.pending().collect())
            .unwrap_or_default()
    }

    /// A nexus that the unit knows, with nothing pending.
    pub(crate) fn greet(&mut self, who: &Nexus) {
        self.states.insert(who.clone(), NexusState::default());
    }

    /// Everything inside the unit, and covered by the footprint where it changes blocks.
    fn check_operation(&self, op: &DiskOp, task: &Task) {
        let mut touched: Vec<(u64, u64)> = Vec::new();
        match op {
            DiskOp::Read { lba, blocks } => {
                assert!(*blocks > 0 && lba + u64::from(*blocks) <= self.unit.blocks);
                return;
            }
            DiskOp::Status { lba } => {
                assert!(*lba < self.unit.blocks);
                return;
            }
            DiskOp::Flush => return,
            DiskOp::Write { lba, blocks, .. } => touched.push((*lba, u64::from(*blocks))),
            DiskOp::WritePattern {
                lba,
                blocks,
                pattern,
                ..
            } => {
                let whole = *blocks as usize * self.size();
                assert!(!pattern.is_empty() && whole.is_multiple_of(pattern.len()));
                assert!(pattern.len().is_multiple_of(self.size()));
                touched.push((*lba, u64::from(*blocks)));
            }
            DiskOp::Zero {
                lba, blocks, unmap, ..
            } => {
                assert!(!unmap || self.unit.thin);
                touched.push((*lba, *blocks));
            }
            DiskOp::Unmap(ranges) => {
                assert!(!ranges.is_empty());
                touched.extend(
                    ranges
                        .iter()
                        .map(|(lba, blocks)| (*lba, u64::from(*blocks))),
                );
            }
        }
        assert!(!self.unit.read_only && !self.read_only && !self.unit.mode.write_protect);
        let held = match task.footprint() {
            Footprint::None => panic!("changes blocks without a footprint: {op:?}"),
            Footprint::Shared(ranges) => ranges,
            Footprint::Exclusive(lba, blocks) => vec![(lba, blocks)],
        };
        for (lba, blocks) in touched {
            assert!(
                blocks > 0 && lba + blocks <= self.unit.blocks,
                "outside: {op:?}"
            );
            let covered = |(l, n): &(u64, u64)| *l <= lba && lba + blocks <= l + n;
            assert!(held.iter().any(covered), "outside the footprint: {op:?}");
        }
    }

    fn disk_operation<'a>(
        &mut self,
        op: &DiskOp,
        data_out: &[u8],
        buffer: &'a mut Vec<u8>,
    ) -> DiskResult<'a> {
        let size = self.size();
        let range = |lba: u64, blocks: u64| (lba as usize * size)..((lba + blocks) as usize * size);
        match op {
            DiskOp::Read { lba, blocks } => {
                *buffer = self.bytes[range(*lba, u64::from(*blocks))].to_vec();
                return DiskResult::Read(buffer);
            }
            DiskOp::Write {
                lba,
                blocks,
                data_offset,
                ..
            } => {
                let range = range(*lba, u64::from(*blocks));
                let from = *data_offset as usize;
                self.bytes[range.clone()].copy_from_slice(&data_out[from..from + range.len()]);
                self.map(*lba, u64::from(*blocks), true);
            }
            DiskOp::WritePattern {
                lba,
                blocks,
                pattern,
                ..
            } => {
                for chunk in self.bytes[range(*lba, u64::from(*blocks))].chunks_mut(pattern.len()) {
                    chunk.copy_from_slice(pattern);
                }
                self.map(*lba, u64::from(*blocks), true);
            }
            DiskOp::Zero {
                lba, blocks, unmap, ..
            } => {
                self.bytes[range(*lba, *blocks)].fill(0);
                self.map(*lba, *blocks, !unmap);
            }
            DiskOp::Unmap(ranges) => {
                for (lba, blocks) in ranges {
                    self.bytes[range(*lba, u64::from(*blocks))].fill(0);
                    self.map(*lba, u64::from(*blocks), false);
                }
            }
            DiskOp::Flush => {}
            DiskOp::Status { lba } => {
                let rest = &self.mapped[*lba as usize..];
                let blocks = rest.iter().take_while(|m| **m == rest[0]).count() as u64;
                return DiskResult::Status {
                    mapped: rest[0],
                    blocks,
                };
            }
        }
        DiskResult::Done
    }

    fn map(&mut self, lba: u64, blocks: u64, mapped: bool) {
        self.mapped[lba as usize..(lba + blocks) as usize].fill(mapped);
    }

    fn finish(&self, response: Response, buffer: &[u8]) -> Outcome {
        assert_eq!(
            response.sense.is_some(),
            response.status == Status::CheckCondition
        );
        if let Some(sense) = &response.sense {
            assert_eq!(sense.format, self.unit.sense_format());
            assert!(sense.to_bytes().len() <= 252);
        }
        let data = match &response.data {
            DataIn::None => Vec::new(),
            DataIn::Inline(bytes) => bytes.clone(),
            DataIn::Buffer { len } => buffer[..*len as usize].to_vec(),
        };
        assert!(response.is_good() || data.is_empty());
        Outcome { response, data }
    }
}

/// READ(10) or WRITE(10) and their like.
pub(crate) fn ten(code: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let l = lba.to_be_bytes();
    let n = blocks.to_be_bytes();
    [code, flags, l[0], l[1], l[2], l[3], 0, n[0], n[1], 0]
}

/// Twelve-byte commands.
pub(crate) fn twelve(code: u8, flags: u8, lba: u32, blocks: u32) -> [u8; 12] {
    let l = lba.to_be_bytes();
    let n = blocks.to_be_bytes();
    [
        code, flags, l[0], l[1], l[2], l[3], n[0], n[1], n[2], n[3], 0, 0,
    ]
}

/// Sixteen-byte commands.
pub(crate) fn sixteen(code: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// INQUIRY; a VPD page when there is one.
pub(crate) fn inquiry(page: Option<u8>, allocation: u16) -> [u8; 6] {
    let n = allocation.to_be_bytes();
    [
        0x12,
        u8::from(page.is_some()),
        page.unwrap_or(0),
        n[0],
        n[1],
        0,
    ]
}

/// PERSISTENT RESERVE OUT and its 24-byte list.
pub(crate) fn reserve_out(
    action: u8,
    kind: u8,
    key: u64,
    service_key: u64,
    flags: u8,
) -> ([u8; 10], Vec<u8>) {
    let mut list = vec![0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&service_key.to_be_bytes());
    list[20] = flags;
    ([0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], list)
}

/// PERSISTENT RESERVE IN.
pub(crate) fn reserve_in(action: u8, allocation: u16) -> [u8; 10] {
    let n = allocation.to_be_bytes();
    [0x5e, action, 0, 0, 0, 0, 0, n[0], n[1], 0]
}

pub(crate) const TEST_UNIT_READY: [u8; 6] = [0; 6];

/// A block of one value.
pub(crate) fn block(value: u8) -> Vec<u8> {
    vec![value; 512]
}

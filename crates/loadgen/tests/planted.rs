//! The checker against a simulated disk. An honest one, with any mix of acknowledged, refused and
//! unknown writes, must never raise an alarm; each fault planted in it must raise one, at its
//! place.

use std::collections::BTreeMap;
use std::ops::Range;

use loadgen::block::{self, BYTES};
use loadgen::limits::{CHUNK_BLOCKS, COUNTERS};
use loadgen::model::{End, Owned, Span, Wrong};

const OWNER: u32 = 3;
const OWNERS: u32 = 4;
/// A disk of which the last owner has only this much.
const OWNED_BLOCKS: u32 = 64;
const LONGEST: u32 = 8;
const STEPS: usize = 300;
const SEEDS: u64 = 40;

/// What a disk can do wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    /// Acknowledged and not done.
    LostWrite,
    /// Acknowledged and not done.
    LostUnmap,
    /// Half of the last block of a write is still the old one.
    TornWrite,
    /// One byte is another one.
    FlippedByte,
    /// A write went to a neighbour's place, and not to its own.
    MisdirectedWrite,
    /// A block is what another owner wrote elsewhere.
    ForeignBlock,
    /// A block holds what it held before its last acknowledged write.
    StaleBlock,
    /// A write that was proven dead lands after what it should have preceded was read.
    LateAfterRead,
    /// A write that was proven dead lands after a newer one was acknowledged.
    LateAfterWrite,
    /// A write whose effect was seen is undone.
    Undone,
    /// A write that was refused (unit attention) was done all the same.
    RefusedDone,
}

const FAULTS: [Fault; 11] = [
    Fault::LostWrite,
    Fault::LostUnmap,
    Fault::TornWrite,
    Fault::FlippedByte,
    Fault::MisdirectedWrite,
    Fault::ForeignBlock,
    Fault::StaleBlock,
    Fault::LateAfterRead,
    Fault::LateAfterWrite,
    Fault::Undone,
    Fault::RefusedDone,
];

type Block = [u8; BYTES];

/// A disk and the owner who uses it.
struct Bed {
    disk: BTreeMap<u64, Block>,
    owned: Owned,
    rng: fastrand::Rng,
}

impl Bed {
    fn new(seed: u64) -> Self {
        Self {
            disk: BTreeMap::new(),
            owned: Owned::new(
                OWNER,
                OWNERS,
                COUNTERS + 3 * CHUNK_BLOCKS + u64::from(OWNED_BLOCKS),
            ),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    fn content(&self, span: Span) -> Vec<u8> {
        let zeros = [0; BYTES];
        (span.lba..)
            .take(span.blocks as usize)
            .flat_map(|lba| *self.disk.get(&lba).unwrap_or(&zeros))
            .collect()
    }

    fn store(&mut self, lba: u64, data: &[u8]) {
        for (lba, block) in (lba..).zip(data.chunks_exact(BYTES)) {
            self.disk.insert(lba, block.try_into().unwrap());
        }
    }

    /// A free run, a number, and the data of that write there.
    fn write_somewhere(&mut self) -> (Span, u64, Vec<u8>) {
        let blocks = self.rng.u32(1..=LONGEST);
        let offset = self.rng.u64(..self.owned.len() - u64::from(blocks));
        let span = self.owned.take(offset, blocks).unwrap();
        let (sequence, data) = self.next_data(span);
        (span, sequence, data)
    }

    fn next_data(&mut self, span: Span) -> (u64, Vec<u8>) {
        let sequence = self.owned.next_sequence();
        let mut data = vec![0; span.blocks as usize * BYTES];
        self.owned.data(span.lba, sequence, &mut data);
        (sequence, data)
    }

    fn take(&mut self, span: Span) {
        let offset = self.owned.offset_of(span.lba);
        assert_eq!(self.owned.take(offset, span.blocks), Some(span));
    }

    /// An acknowledged write, done.
    fn write(&mut self) -> (Span, Vec<u8>) {
        let (span, sequence, data) = self.write_somewhere();
        self.store(span.lba, &data);
        self.owned.wrote(span, sequence, End::Good);
        (span, data)
    }

    /// An acknowledged write to a run, done.
    fn overwrite(&mut self, span: Span) {
        self.take(span);
        let (sequence, data) = self.next_data(span);
        self.store(span.lba, &data);
        self.owned.wrote(span, sequence, End::Good);
    }

    fn read(&mut self, span: Span) -> Result<(), Wrong> {
        self.take(span);
        let data = self.content(span);
        self.owned.read(span, &data)
    }

    fn read_all(&mut self) -> Result<(), Wrong> {
        let (lba, blocks) = (self.owned.lba_of(0), OWNED_BLOCKS);
        self.read(Span { lba, blocks })
    }

    /// A write without an answer: of each block the old or the new may be there.
    fn unknown(&mut self) -> (Span, Vec<u8>) {
        let (span, sequence, data) = self.write_somewhere();
        self.owned.wrote(span, sequence, End::Unknown);
        (span, data)
    }

    /// What an honest disk does under kills and resets.
    fn honest_step(&mut self) -> Result<(), Wrong> {
        match self.rng.u8(..10) {
            0..=2 => {
                self.write();
            }
            3 => {
                let (span, _, data) = self.write_somewhere();
                self.store(span.lba, &vec![0; data.len()]);
                self.owned.wrote(span, 0, End::Good);
            }
            4 => {
                let (span, sequence, _) = self.write_somewhere();
                self.owned.wrote(span, sequence, End::Refused);
            }
            5 | 6 => {
                let (span, data) = self.unknown();
                for (lba, block) in (span.lba..).zip(data.chunks_exact(BYTES)) {
                    if self.rng.bool() {
                        self.store(lba, block);
                    }
                }
            }
            _ => {
                let blocks = self.rng.u32(1..=LONGEST);
                let offset = self.rng.u64(..self.owned.len() - u64::from(blocks));
                let lba = self.owned.lba_of(offset);
                self.read(Span { lba, blocks })?;
            }
        }
        Ok(())
    }

    /// Plants a fault and returns where it must be found.
    fn plant(&mut self, fault: Fault) -> Range<u64> {
        match fault {
            Fault::LostWrite => return self.end_badly(End::Good, false),
            Fault::RefusedDone => return self.end_badly(End::Refused, true),
            Fault::LateAfterRead => return self.land_late(|bed, span| bed.read(span).unwrap()),
            Fault::LateAfterWrite => return self.land_late(Self::overwrite),
            _ => {}
        }
        let (span, data) = self.write();
        let (first, last) = (span.lba, span.lba + u64::from(span.blocks) - 1);
        match fault {
            Fault::LostUnmap => {
                self.take(span);
                self.owned.wrote(span, 0, End::Good);
            }
            Fault::TornWrite => {
                self.overwrite(span);
                let torn = self.disk.get_mut(&last).unwrap();
                torn[BYTES / 2..].copy_from_slice(&data[data.len() - BYTES / 2..]);
                return last..last + 1;
            }
            Fault::FlippedByte => {
                let byte = self.rng.usize(..BYTES);
                self.disk.get_mut(&first).unwrap()[byte] ^= 1 << self.rng.u8(..8);
                return first..first + 1;
            }
            Fault::MisdirectedWrite => {
                let old = self.content(span);
                self.overwrite(span);
                let new = self.content(span);
                self.store(first, &old);
                // One block on: it may go over into what somebody else owns.
                self.store(first + 1, &new);
                return first..last + 2;
            }
            Fault::ForeignBlock => {
                let mut foreign = [0; BYTES];
                block::fill(&mut foreign, OWNER + 1, first, 1);
                self.store(first, &foreign);
                return first..first + 1;
            }
            Fault::StaleBlock => {
                self.overwrite(span);
                self.store(first, &data[..BYTES]);
                return first..first + 1;
            }
            Fault::Undone => {
                self.take(span);
                let (sequence, new) = self.next_data(span);
                self.owned.wrote(span, sequence, End::Unknown);
                self.store(first, &new);
                self.read(span).unwrap();
                self.store(first, &data);
            }
            Fault::LostWrite
            | Fault::RefusedDone
            | Fault::LateAfterRead
            | Fault::LateAfterWrite => unreachable!("planted above"),
        }
        first..last + 1
    }

    /// A write that is not what its end says.
    fn end_badly(&mut self, end: End, done: bool) -> Range<u64> {
        let (span, sequence, data) = self.write_somewhere();
        if done {
            self.store(span.lba, &data);
        }
        self.owned.wrote(span, sequence, end);
        span.lba..span.lba + u64::from(span.blocks)
    }

    /// An unknown write of which nothing has landed does so only after `then`.
    fn land_late(&mut self, then: impl FnOnce(&mut Self, Span)) -> Range<u64> {
        let (span, data) = self.unknown();
        then(self, span);
        self.store(span.lba, &data);
        span.lba..span.lba + u64::from(span.blocks)
    }
}

#[test]
fn an_honest_disk_raises_no_alarm() {
    for seed in 0..SEEDS {
        let mut bed = Bed::new(seed);
        for step in 0..STEPS {
            if let Err(wrong) = bed.honest_step() {
                panic!("seed {seed}, step {step}: {wrong}");
            }
        }
        bed.read_all().unwrap();
        bed.read_all().unwrap();
    }
}

#[test]
fn every_planted_fault_is_found_at_its_place() {
    for fault in FAULTS {
        for seed in 0..SEEDS {
            let mut bed = Bed::new(seed);
            for _ in 0..bed.rng.usize(1..STEPS) {
                bed.honest_step().unwrap();
            }
            let place = bed.plant(fault);
            let Err(wrong) = bed.read_all() else {
                panic!("{fault:?}, seed {seed}: not found")
            };
            assert!(
                place.contains(&wrong.lba),
                "{fault:?}, seed {seed}: {wrong} is not in {place:?}"
            );
            assert_eq!(wrong.owner, OWNER);
        }
    }
}

//! The checker against a simulated disk. An honest one, with any mix of acknowledged, refused and
//! unknown writes, must never raise an alarm; each fault planted in it must raise one, at its place.

use std::collections::BTreeMap;
use std::ops::Range;

use loadgen::block::{self, BYTES};
use loadgen::model::{End, Owned, Wrong};

const OWNER: u32 = 3;
const OWNED: Range<u64> = 100..164;
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
            owned: Owned::new(OWNER, OWNED),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    fn content(&self, lba: u64, blocks: u32) -> Vec<u8> {
        let zeros = [0; BYTES];
        (lba..)
            .take(blocks as usize)
            .flat_map(|lba| *self.disk.get(&lba).unwrap_or(&zeros))
            .collect()
    }

    fn store(&mut self, lba: u64, data: &[u8]) {
        for (lba, block) in (lba..).zip(data.chunks_exact(BYTES)) {
            self.disk.insert(lba, block.try_into().unwrap());
        }
    }

    /// A free run, its length, and data for a write there with its number.
    fn write_somewhere(&mut self) -> (u64, u32, u64, Vec<u8>) {
        let blocks = self.rng.u32(1..=LONGEST);
        let offset = self.rng.u64(..self.owned.len() - u64::from(blocks));
        let lba = self.owned.take(offset, blocks).unwrap();
        let sequence = self.owned.next_sequence();
        let mut data = vec![0; blocks as usize * BYTES];
        self.owned.data(lba, sequence, &mut data);
        (lba, blocks, sequence, data)
    }

    /// An acknowledged write, done.
    fn write(&mut self) -> (u64, u32, Vec<u8>) {
        let (lba, blocks, sequence, data) = self.write_somewhere();
        self.store(lba, &data);
        self.owned.wrote(lba, blocks, sequence, End::Good);
        (lba, blocks, data)
    }

    /// An acknowledged write to a run, done.
    fn overwrite(&mut self, lba: u64, blocks: u32) {
        assert_eq!(self.owned.take(lba - OWNED.start, blocks), Some(lba));
        let sequence = self.owned.next_sequence();
        let mut data = vec![0; blocks as usize * BYTES];
        self.owned.data(lba, sequence, &mut data);
        self.store(lba, &data);
        self.owned.wrote(lba, blocks, sequence, End::Good);
    }

    fn read(&mut self, lba: u64, blocks: u32) -> Result<(), Wrong> {
        assert_eq!(self.owned.take(lba - OWNED.start, blocks), Some(lba));
        let data = self.content(lba, blocks);
        self.owned.read(lba, &data)
    }

    fn read_all(&mut self) -> Result<(), Wrong> {
        self.read(OWNED.start, u32::try_from(self.owned.len()).unwrap())
    }

    /// A write without an answer: of each block the old or the new may be there.
    fn unknown(&mut self) -> (u64, u32, Vec<u8>) {
        let (lba, blocks, sequence, data) = self.write_somewhere();
        self.owned.wrote(lba, blocks, sequence, End::Unknown);
        (lba, blocks, data)
    }

    /// What an honest disk does under kills and resets.
    fn honest_step(&mut self) -> Result<(), Wrong> {
        match self.rng.u8(..10) {
            0..=2 => {
                self.write();
            }
            3 => {
                let (lba, blocks, _, _) = self.write_somewhere();
                self.store(lba, &vec![0; blocks as usize * BYTES]);
                self.owned.wrote(lba, blocks, 0, End::Good);
            }
            4 => {
                let (lba, blocks, sequence, _) = self.write_somewhere();
                self.owned.wrote(lba, blocks, sequence, End::Refused);
            }
            5 | 6 => {
                let (lba, _, data) = self.unknown();
                for (lba, block) in (lba..).zip(data.chunks_exact(BYTES)) {
                    if self.rng.bool() {
                        self.store(lba, block);
                    }
                }
            }
            _ => {
                let blocks = self.rng.u32(1..=LONGEST);
                let offset = self.rng.u64(..self.owned.len() - u64::from(blocks));
                self.read(OWNED.start + offset, blocks)?;
            }
        }
        Ok(())
    }

    /// Plants a fault and returns where it must be found.
    fn plant(&mut self, fault: Fault) -> Range<u64> {
        let (lba, blocks, data) = match fault {
            Fault::LateAfterRead | Fault::LateAfterWrite | Fault::RefusedDone => (0, 0, Vec::new()),
            _ => self.write(),
        };
        let place = lba..lba + u64::from(blocks);
        match fault {
            Fault::LostWrite => return self.end_badly(End::Good, false),
            Fault::RefusedDone => return self.end_badly(End::Refused, true),
            Fault::LostUnmap => {
                assert_eq!(self.owned.take(lba - OWNED.start, blocks), Some(lba));
                self.owned.wrote(lba, blocks, 0, End::Good);
            }
            Fault::TornWrite => {
                let last = place.end - 1;
                let half = *self.disk.get(&last).unwrap();
                self.overwrite(lba, blocks);
                let torn = self.disk.get_mut(&last).unwrap();
                torn[BYTES / 2..].copy_from_slice(&half[BYTES / 2..]);
                return last..place.end;
            }
            Fault::FlippedByte => {
                let byte = self.rng.usize(..BYTES);
                self.disk.get_mut(&lba).unwrap()[byte] ^= 1 << self.rng.u8(..8);
                return lba..lba + 1;
            }
            Fault::MisdirectedWrite => {
                let old = self.content(lba, blocks);
                self.overwrite(lba, blocks);
                let new = self.content(lba, blocks);
                self.store(lba, &old);
                // One block on: it may go over into what somebody else owns.
                self.store(lba + 1, &new);
                return lba..place.end + 1;
            }
            Fault::ForeignBlock => {
                let mut foreign = [0; BYTES];
                block::fill(&mut foreign, OWNER + 1, lba, 1);
                self.store(lba, &foreign);
                return lba..lba + 1;
            }
            Fault::StaleBlock => {
                self.overwrite(lba, blocks);
                self.store(lba, &data[..BYTES]);
                return lba..lba + 1;
            }
            Fault::LateAfterRead => {
                return self.land_late(|bed, lba, blocks| bed.read(lba, blocks).unwrap());
            }
            Fault::LateAfterWrite => return self.land_late(Self::overwrite),
            Fault::Undone => {
                let before = self.content(lba, blocks);
                assert_eq!(self.owned.take(lba - OWNED.start, blocks), Some(lba));
                let sequence = self.owned.next_sequence();
                let mut new = vec![0; data.len()];
                self.owned.data(lba, sequence, &mut new);
                self.owned.wrote(lba, blocks, sequence, End::Unknown);
                self.store(lba, &new);
                self.read(lba, blocks).unwrap();
                self.store(lba, &before);
            }
        }
        place
    }

    /// A write that is not what its end says.
    fn end_badly(&mut self, end: End, done: bool) -> Range<u64> {
        let (lba, blocks, sequence, data) = self.write_somewhere();
        if done {
            self.store(lba, &data);
        }
        self.owned.wrote(lba, blocks, sequence, end);
        lba..lba + u64::from(blocks)
    }

    /// An unknown write of which nothing has landed does so only after `then`.
    fn land_late(&mut self, then: impl FnOnce(&mut Self, u64, u32)) -> Range<u64> {
        let (lba, blocks, data) = self.unknown();
        then(self, lba, blocks);
        self.store(lba, &data);
        lba..lba + u64::from(blocks)
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
            let wrong = match bed.read_all() {
                Ok(()) => panic!("{fault:?}, seed {seed}: not found"),
                Err(wrong) => wrong,
            };
            assert!(
                place.contains(&wrong.lba),
                "{fault:?}, seed {seed}: {wrong} is not in {place:?}"
            );
            assert_eq!(wrong.owner, OWNER);
        }
    }
}

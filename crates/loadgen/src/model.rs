//! What an initiator knows of the blocks it owns, and what it may therefore read.
//!
//! A write whose answer never came (connection killed, task aborted) is *unknown*: the block holds
//! the old or the new. Operations of one owner never overlap, and the next one starts only after the
//! unknown one is proven dead (reinstatement, or an answered task management function). So whatever
//! is read once is what the block holds from then on: once the new was seen the old may not come
//! back, and once the old was seen the unknown write may not land any more.

use std::ops::Range;

use crate::block::{self, BYTES, BlockError};

/// A block holds what it cannot hold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("block {lba} of owner {owner}: {what}")]
pub struct Wrong {
    /// Who owns it.
    pub owner: u32,
    /// Where.
    pub lba: u64,
    /// Expected and found.
    pub what: String,
}

/// How an operation ended, as far as the initiator can know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Done.
    Good,
    /// Surely not done.
    Refused,
    /// Done or not; surely over.
    Unknown,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The last write known to be there.
    settled: u64,
    /// Writes that may be there instead.
    maybe: Vec<u64>,
    busy: bool,
}

/// The blocks of one owner.
#[derive(Debug)]
pub struct Owned {
    owner: u32,
    first: u64,
    blocks: Vec<State>,
    sequence: u64,
}

impl Owned {
    /// Blocks that hold zeros, or anything an earlier run left (see [`Owned::adopt`]).
    pub fn new(owner: u32, range: Range<u64>) -> Self {
        let count = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        Self {
            owner,
            first: range.start,
            blocks: vec![State::default(); count],
            sequence: 0,
        }
    }

    /// First block.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// Blocks owned.
    pub const fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Whether it owns none.
    pub const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn states(&mut self, lba: u64, blocks: u32) -> &mut [State] {
        let start = usize::try_from(lba - self.first).unwrap_or(usize::MAX);
        &mut self.blocks[start..start + blocks as usize]
    }

    /// Takes a run for an operation; `None` when another one is at work there.
    pub fn take(&mut self, offset: u64, blocks: u32) -> Option<u64> {
        let lba = self.first + offset;
        let states = self.states(lba, blocks);
        if states.iter().any(|state| state.busy) {
            return None;
        }
        states.iter_mut().for_each(|state| state.busy = true);
        Some(lba)
    }

    /// A run is free again without having been touched.
    pub fn give_back(&mut self, lba: u64, blocks: u32) {
        self.states(lba, blocks)
            .iter_mut()
            .for_each(|state| state.busy = false);
    }

    /// The next write's number.
    pub const fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The bytes of a write.
    pub fn data(&self, lba: u64, sequence: u64, into: &mut [u8]) {
        for (place, block) in (lba..).zip(into.chunks_exact_mut(BYTES)) {
            block::fill(block, self.owner, place, sequence);
        }
    }

    /// A write (`sequence` 0: zeros) has ended.
    pub fn wrote(&mut self, lba: u64, blocks: u32, sequence: u64, end: End) {
        for state in self.states(lba, blocks) {
            state.busy = false;
            match end {
                End::Good => {
                    state.settled = sequence;
                    state.maybe.clear();
                }
                End::Refused => {}
                End::Unknown if state.maybe.contains(&sequence) => {}
                End::Unknown => state.maybe.push(sequence),
            }
        }
    }

    /// A read has ended well.
    ///
    /// # Errors
    /// [`Wrong`] for the first block that holds what it cannot hold.
    pub fn read(&mut self, lba: u64, data: &[u8]) -> Result<(), Wrong> {
        let owner = self.owner;
        let blocks = u32::try_from(data.len() / BYTES).unwrap_or(u32::MAX);
        let states = self.states(lba, blocks);
        for ((place, state), block) in (lba..).zip(states).zip(data.chunks_exact(BYTES)) {
            state.busy = false;
            let wrong = |what| Wrong {
                owner,
                lba: place,
                what,
            };
            let found = block::sequence_of(block, owner, place)
                .map_err(|error: BlockError| wrong(error.to_string()))?;
            if found != state.settled && !state.maybe.contains(&found) {
                let State { settled, maybe, .. } = state;
                return Err(wrong(format!(
                    "write {found} was read; write {settled} was acknowledged, {maybe:?} may be there instead"
                )));
            }
            state.settled = found;
            state.maybe.clear();
        }
        Ok(())
    }

    /// Accepts what an earlier run left behind, if it is this owner's.
    ///
    /// # Errors
    /// [`Wrong`] for what nobody of ours wrote there.
    pub fn adopt(&mut self, lba: u64, data: &[u8]) -> Result<(), Wrong> {
        let owner = self.owner;
        for (place, block) in (lba..).zip(data.chunks_exact(BYTES)) {
            let found = block::sequence_of(block, owner, place).map_err(|error| Wrong {
                owner,
                lba: place,
                what: error.to_string(),
            })?;
            self.sequence = self.sequence.max(found);
            let state = &mut self.states(place, 1)[0];
            *state = State {
                settled: found,
                ..State::default()
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(owned: &Owned, lba: u64, blocks: usize, sequence: u64) -> Vec<u8> {
        let mut data = vec![0; blocks * BYTES];
        owned.data(lba, sequence, &mut data);
        data
    }

    #[test]
    fn a_lost_write_is_noticed() {
        let mut owned = Owned::new(1, 100..200);
        let lba = owned.take(0, 4).unwrap();
        assert_eq!(owned.take(3, 2), None, "operations do not overlap");
        owned.wrote(lba, 4, 1, End::Good);
        let zeros = vec![0; 4 * BYTES];
        let wrong = owned.read(lba, &zeros).unwrap_err();
        assert!(wrong.what.contains("write 1 was acknowledged"), "{wrong}");
    }

    #[test]
    fn an_unknown_write_is_old_or_new_but_settles_when_seen() {
        let mut owned = Owned::new(1, 0..8);
        owned.wrote(0, 8, 1, End::Good);
        owned.wrote(0, 8, 2, End::Unknown);
        let (old, new) = (image(&owned, 0, 8, 1), image(&owned, 0, 8, 2));
        let mut mixed = old.clone();
        mixed[BYTES..2 * BYTES].copy_from_slice(&new[BYTES..2 * BYTES]);
        owned.read(0, &mixed).unwrap();
        owned.read(0, &mixed).unwrap();
        assert!(owned.read(0, &old).is_err(), "new seen, then old again");
        assert!(
            owned.read(0, &new).is_err(),
            "old seen, then the dead write landed"
        );
    }

    #[test]
    fn a_refused_write_must_not_be_there() {
        let mut owned = Owned::new(1, 0..1);
        owned.wrote(0, 1, 1, End::Good);
        owned.wrote(0, 1, 2, End::Refused);
        let new = image(&owned, 0, 1, 2);
        assert!(owned.read(0, &new).is_err());
        let old = image(&owned, 0, 1, 1);
        owned.read(0, &old).unwrap();
    }

    #[test]
    fn misdirected_and_torn_blocks_are_noticed() {
        let mut owned = Owned::new(1, 0..8);
        owned.wrote(0, 8, 1, End::Good);
        let mut data = image(&owned, 0, 8, 1);
        data.swap(600, 700);
        assert!(owned.read(0, &data).unwrap_err().what.contains("torn"));
        let elsewhere = image(&owned, 1, 1, 1);
        assert!(
            owned
                .read(0, &elsewhere)
                .unwrap_err()
                .what
                .contains("misdirected")
        );
    }
}

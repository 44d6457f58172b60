//! What an initiator knows of the blocks it owns, and what it may therefore read.
//!
//! A write whose answer never came (connection killed, task aborted) is *unknown*: the block holds
//! the old or the new. Operations of one owner never overlap, and the next one starts only after
//! the unknown one is proven dead (reinstatement, or an answered task management function). So
//! whatever is read once is what the block holds from then on: once the new was seen the old may
//! not come back, and once the old was seen the unknown write may not land any more.
//!
//! Owners take turns: behind the counters, each chunk of [`CHUNK_BLOCKS`] belongs to the next one.
//! So who owns a block does not depend on the size of the disk, and a disk that grows gives new
//! blocks to everybody.

use crate::block::{self, BYTES, BlockError};
use crate::limits::{CHUNK_BLOCKS, COUNTERS, MAYBE_MAX, OWNED_BLOCKS_MAX};

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

/// Blocks in a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// The first.
    pub lba: u64,
    /// How many.
    pub blocks: u32,
}

/// The blocks of one owner.
#[derive(Debug)]
pub struct Owned {
    owner: u32,
    owners: u32,
    blocks: Vec<State>,
    sequence: u64,
}

impl Owned {
    /// The blocks of `owner`, one of `owners`, on a disk of `capacity` blocks. They hold zeros, or
    /// anything an earlier run left (see [`Owned::adopt`]).
    pub fn new(owner: u32, owners: u32, capacity: u64) -> Self {
        let mut owned = Self {
            owner,
            owners: owners.max(1),
            blocks: Vec::new(),
            sequence: 0,
        };
        owned.grow(capacity);
        owned
    }

    /// The disk has `capacity` blocks now; new ones hold zeros. It does not shrink.
    pub fn grow(&mut self, capacity: u64) {
        let (owner, owners) = (u64::from(self.owner), u64::from(self.owners));
        let behind = capacity.saturating_sub(COUNTERS);
        let (whole, rest) = (behind / CHUNK_BLOCKS, behind % CHUNK_BLOCKS);
        let chunks = whole / owners + u64::from(whole % owners > owner);
        let part = if whole % owners == owner { rest } else { 0 };
        let count = (chunks * CHUNK_BLOCKS + part).min(OWNED_BLOCKS_MAX);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > self.blocks.len() {
            self.blocks.resize(count, State::default());
        }
    }

    /// Blocks owned.
    pub const fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Whether it owns none.
    pub const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Where the owner's block number `offset` lies.
    pub fn lba_of(&self, offset: u64) -> u64 {
        let chunk = (offset / CHUNK_BLOCKS) * u64::from(self.owners) + u64::from(self.owner);
        COUNTERS + chunk * CHUNK_BLOCKS + offset % CHUNK_BLOCKS
    }

    /// Which of the owner's blocks lies at `lba`, which has to be one of them.
    pub fn offset_of(&self, lba: u64) -> u64 {
        let behind = lba - COUNTERS;
        behind / CHUNK_BLOCKS / u64::from(self.owners) * CHUNK_BLOCKS + behind % CHUNK_BLOCKS
    }

    fn states(&mut self, span: Span) -> &mut [State] {
        let start = usize::try_from(self.offset_of(span.lba)).unwrap_or(usize::MAX);
        &mut self.blocks[start..start + span.blocks as usize]
    }

    /// Takes a run of at most `blocks` for an operation, shorter at the end of a chunk; `None` when
    /// another one is at work there, or there is nothing at `offset`.
    pub fn take(&mut self, offset: u64, blocks: u32) -> Option<Span> {
        let left = (CHUNK_BLOCKS - offset % CHUNK_BLOCKS).min(self.len().checked_sub(offset)?);
        let blocks = blocks.min(u32::try_from(left).unwrap_or(u32::MAX));
        let lba = self.lba_of(offset);
        let span = Span { lba, blocks };
        let states = self.states(span);
        if states.is_empty() || states.iter().any(|state| state.busy) {
            return None;
        }
        states.iter_mut().for_each(|state| state.busy = true);
        Some(span)
    }

    /// Whether so many writes there have an unknown end that it is to be read now.
    pub fn is_vague(&mut self, span: Span) -> bool {
        self.states(span)
            .iter()
            .any(|state| state.maybe.len() >= MAYBE_MAX)
    }

    /// A run is free again without having been touched.
    pub fn give_back(&mut self, span: Span) {
        self.states(span)
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
    pub fn wrote(&mut self, span: Span, sequence: u64, end: End) {
        for state in self.states(span) {
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
    /// [`Wrong`] for the first block that holds what it cannot hold, or when not all have come.
    pub fn read(&mut self, span: Span, data: &[u8]) -> Result<(), Wrong> {
        let (owner, lba) = (self.owner, span.lba);
        if data.len() != span.blocks as usize * BYTES {
            let what = format!("{} bytes came for {} blocks", data.len(), span.blocks);
            return Err(Wrong { owner, lba, what });
        }
        let states = self.states(span);
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

    /// A read has ended well, and what it brought is accepted if an earlier run of this owner left
    /// it.
    ///
    /// # Errors
    /// [`Wrong`] for what this owner never wrote there.
    pub fn adopt(&mut self, span: Span, data: &[u8]) -> Result<(), Wrong> {
        let owner = self.owner;
        self.give_back(span);
        for (place, block) in (span.lba..).zip(data.chunks_exact(BYTES)) {
            let found = block::sequence_of(block, owner, place).map_err(|error| Wrong {
                owner,
                lba: place,
                what: error.to_string(),
            })?;
            self.sequence = self.sequence.max(found);
            for state in self.states(Span {
                lba: place,
                blocks: 1,
            }) {
                state.settled = found;
                state.maybe.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owner 1 of 2 on a disk where it owns eight blocks.
    fn owned() -> Owned {
        Owned::new(1, 2, COUNTERS + CHUNK_BLOCKS + 8)
    }

    fn image(owned: &Owned, span: Span, sequence: u64) -> Vec<u8> {
        let mut data = vec![0; span.blocks as usize * BYTES];
        owned.data(span.lba, sequence, &mut data);
        data
    }

    #[test]
    fn owners_share_a_disk_without_gaps_and_overlaps() {
        for capacity in [0, COUNTERS, 100, 9_000, 12_288 + COUNTERS, 40_001] {
            let mut seen = vec![0u8; usize::try_from(capacity).unwrap()];
            for owner in 0..3 {
                let owned = Owned::new(owner, 3, capacity);
                for offset in 0..owned.len() {
                    let lba = owned.lba_of(offset);
                    assert_eq!(owned.offset_of(lba), offset);
                    seen[usize::try_from(lba).unwrap()] += 1;
                }
            }
            let first = usize::try_from(COUNTERS).unwrap().min(seen.len());
            assert!(seen[..first].iter().all(|count| *count == 0));
            assert!(seen[first..].iter().all(|count| *count == 1), "{capacity}");
        }
    }

    #[test]
    fn growing_moves_nothing() {
        let mut owned = owned();
        let before: Vec<u64> = (0..owned.len())
            .map(|offset| owned.lba_of(offset))
            .collect();
        owned.grow(COUNTERS + 7 * CHUNK_BLOCKS);
        assert_eq!(owned.len(), 3 * CHUNK_BLOCKS);
        let after: Vec<u64> = (0..8).map(|offset| owned.lba_of(offset)).collect();
        assert_eq!(before, after);
        owned.grow(0);
        assert_eq!(owned.len(), 3 * CHUNK_BLOCKS);
    }

    #[test]
    fn operations_do_not_overlap_and_stay_in_their_chunk() {
        let mut owned = Owned::new(0, 2, COUNTERS + 4 * CHUNK_BLOCKS);
        let span = owned.take(CHUNK_BLOCKS - 3, 10).unwrap();
        assert_eq!(span.blocks, 3);
        assert_eq!(owned.take(CHUNK_BLOCKS - 1, 1), None);
        owned.give_back(span);
        assert!(owned.take(CHUNK_BLOCKS - 1, 1).is_some());
        assert_eq!(owned.take(owned.len(), 1), None);
        assert_eq!(owned.take(owned.len() + 1, 1), None);
    }

    #[test]
    fn a_lost_write_is_noticed() {
        let mut owned = owned();
        let span = owned.take(0, 4).unwrap();
        owned.wrote(span, 1, End::Good);
        let wrong = owned.read(span, &[0; 4 * BYTES]).unwrap_err();
        assert!(wrong.what.contains("write 1 was acknowledged"), "{wrong}");
        let wrong = owned.read(span, &[0; BYTES]).unwrap_err();
        assert!(wrong.what.contains("512 bytes came"), "{wrong}");
    }

    #[test]
    fn an_unknown_write_is_old_or_new_but_settles_when_seen() {
        let mut owned = owned();
        let span = owned.take(0, 8).unwrap();
        owned.wrote(span, 1, End::Good);
        owned.wrote(span, 2, End::Unknown);
        let (old, new) = (image(&owned, span, 1), image(&owned, span, 2));
        let mut mixed = old.clone();
        mixed[BYTES..2 * BYTES].copy_from_slice(&new[BYTES..2 * BYTES]);
        owned.read(span, &mixed).unwrap();
        owned.read(span, &mixed).unwrap();
        assert!(owned.read(span, &old).is_err(), "new seen, then old again");
        assert!(
            owned.read(span, &new).is_err(),
            "old seen, then the dead write landed"
        );
    }

    #[test]
    fn what_is_too_vague_is_read_first() {
        let mut owned = owned();
        let span = owned.take(0, 8).unwrap();
        for sequence in 1..=8 {
            assert!(!owned.is_vague(span));
            owned.wrote(span, sequence, End::Unknown);
        }
        assert!(owned.is_vague(span));
        let seen = image(&owned, span, 5);
        owned.read(span, &seen).unwrap();
        assert!(!owned.is_vague(span));
    }

    #[test]
    fn a_refused_write_must_not_be_there() {
        let mut owned = owned();
        let span = owned.take(0, 1).unwrap();
        owned.wrote(span, 1, End::Good);
        owned.wrote(span, 2, End::Refused);
        let new = image(&owned, span, 2);
        assert!(owned.read(span, &new).is_err());
        let old = image(&owned, span, 1);
        owned.read(span, &old).unwrap();
    }

    #[test]
    fn what_an_earlier_run_left_is_adopted_unless_it_is_not_ours() {
        let mut owned = owned();
        let span = owned.take(0, 8).unwrap();
        let mut left = image(&owned, span, 41);
        left[..BYTES].fill(0);
        owned.adopt(span, &left).unwrap();
        owned.read(span, &left).unwrap();
        assert_eq!(owned.next_sequence(), 42);
        left.swap(600, 700);
        assert!(owned.adopt(span, &left).unwrap_err().what.contains("torn"));
    }

    #[test]
    fn misdirected_and_torn_blocks_are_noticed() {
        let mut owned = owned();
        let span = owned.take(0, 8).unwrap();
        owned.wrote(span, 1, End::Good);
        let mut data = image(&owned, span, 1);
        data.swap(600, 700);
        assert!(owned.read(span, &data).unwrap_err().what.contains("torn"));
        let next = Span {
            lba: span.lba + 1,
            ..span
        };
        let elsewhere = image(&owned, next, 1);
        let wrong = owned.read(span, &elsewhere).unwrap_err();
        assert!(wrong.what.contains("misdirected"));
    }
}

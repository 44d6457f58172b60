//! What a command does after it was understood: a little state machine for each family.
//!
//! Jobs know nothing of reservations, media or protection: the task checks these before every disk
//! step. They keep no data longer than they must; only what is compared is copied.

use crate::block::{Compare, Flush, OrWrite, Read, Same, Scan, Unmap, Verify, Write};
use crate::change::Change;
use crate::command::{DiskOp, DiskResult, Footprint, Response, Resume};
use crate::mode::SelectJob;
use crate::persistent::ReserveOut;
use crate::sense::{Code, Key};
use crate::unit::Unit;

/// What a job wants next.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Data-out of this many bytes.
    Receive(u32),
    /// A disk operation.
    Disk(DiskOp),
    /// A change of shared state.
    Change(Change),
    /// It has ended.
    Done(Response),
}

impl Turn {
    pub(crate) const GOOD: Self = Self::Done(Response::good());

    /// The caller resumed with something else than was asked for.
    pub(crate) const fn confused() -> Self {
        Self::Done(Response::error(Key::HardwareError, Code::INTERNAL_FAILURE))
    }
}

/// What a job goes on with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input<'a> {
    /// Data-out, as much as came.
    Data(&'a [u8]),
    /// The disk operation did not fail.
    Disk(DiskResult<'a>),
}

/// The families.
#[derive(Debug)]
pub(crate) enum Job {
    /// Nothing left to do, or never started.
    Spent,
    /// The answer is known.
    Answer(Response),
    /// One change of shared state.
    Change(Change),
    Read(Read),
    Write(Write),
    Verify(Verify),
    Same(Same),
    Unmap(Unmap),
    Compare(Compare),
    Or(OrWrite),
    Flush(Flush),
    Scan(Scan),
    ModeSelect(SelectJob),
    ReserveOut(ReserveOut),
}

impl Job {
    /// GOOD with data cut to the allocation length.
    pub(crate) fn data(bytes: Vec<u8>, allocation: u32) -> Self {
        Self::Answer(Response::data(bytes, allocation))
    }

    pub(crate) const fn good() -> Self {
        Self::Answer(Response::good())
    }

    /// The first turn.
    pub(crate) fn start(&mut self) -> Turn {
        match self {
            Self::Spent => Turn::confused(),
            Self::Answer(response) => Turn::Done(response.clone()),
            Self::Change(change) => Turn::Change(change.clone()),
            Self::Read(job) => job.start(),
            Self::Write(job) => job.start(),
            Self::Verify(job) => job.start(),
            Self::Same(job) => job.start(),
            Self::Unmap(job) => job.start(),
            Self::Compare(job) => job.start(),
            Self::Or(job) => job.start(),
            Self::Flush(job) => job.start(),
            Self::Scan(job) => job.start(),
            Self::ModeSelect(job) => job.start(),
            Self::ReserveOut(job) => job.start(),
        }
    }

    /// The turn after `with`.
    pub(crate) fn resume(&mut self, with: Resume<'_>, unit: &Unit) -> Turn {
        let with = match with {
            Resume::Changed(Ok(())) => return Turn::GOOD,
            Resume::Changed(Err(response)) => return Turn::Done(response),
            Resume::DataOut(data) => Input::Data(data),
            Resume::Disk(result) => Input::Disk(result),
        };
        match self {
            Self::Spent | Self::Answer(_) | Self::Change(_) => Turn::confused(),
            Self::Read(job) => job.resume(with),
            Self::Write(job) => job.resume(with),
            Self::Verify(job) => job.resume(with),
            Self::Same(job) => job.resume(with),
            Self::Unmap(job) => job.resume(with, unit),
            Self::Compare(job) => job.resume(with),
            Self::Or(job) => job.resume(with),
            Self::Flush(job) => job.resume(with),
            Self::Scan(job) => job.resume(with),
            Self::ModeSelect(job) => job.resume(with, unit),
            Self::ReserveOut(job) => job.resume(with, unit),
        }
    }

    /// Blocks it will change, or must not see half-changed: a read through the page cache beside a
    /// COMPARE AND WRITE could find a block torn.
    pub(crate) fn footprint(&self) -> Footprint {
        let shared = |(lba, blocks)| match blocks {
            0 => Footprint::None,
            _ => Footprint::Shared(vec![(lba, blocks)]),
        };
        let exclusive = |(lba, blocks)| match blocks {
            0 => Footprint::None,
            _ => Footprint::Exclusive(lba, blocks),
        };
        match self {
            Self::Read(job) => shared(job.range()),
            Self::Verify(job) => shared(job.range()),
            Self::Write(job) => shared(job.range()),
            Self::Same(job) => shared(job.range()),
            Self::Unmap(job) => job.footprint(),
            Self::Compare(job) => exclusive(job.range()),
            Self::Or(job) => exclusive(job.range()),
            _ => Footprint::None,
        }
    }

    /// One past the last block it touches.
    pub(crate) fn end_block(&self) -> u64 {
        let end = |(lba, blocks): (u64, u64)| match blocks {
            0 => 0,
            _ => lba.saturating_add(blocks),
        };
        match self {
            Self::Read(job) => end(job.range()),
            Self::Verify(job) => end(job.range()),
            Self::Write(job) => end(job.range()),
            Self::Same(job) => end(job.range()),
            Self::Compare(job) => end(job.range()),
            Self::Or(job) => end(job.range()),
            Self::Unmap(job) => job
                .ranges()
                .iter()
                .map(|r| end((r.0, u64::from(r.1))))
                .max()
                .unwrap_or(0),
            Self::Scan(job) => job.end_block(),
            _ => 0,
        }
    }

    /// Bytes of data-out that the CDB calls for.
    pub(crate) fn transfer(&self) -> u32 {
        match self {
            Self::Write(job) => job.transfer(),
            Self::Verify(job) => job.transfer(),
            Self::Same(job) => job.transfer(),
            Self::Unmap(job) => job.transfer(),
            Self::Compare(job) => job.transfer(),
            Self::Or(job) => job.transfer(),
            Self::ModeSelect(job) => job.transfer(),
            Self::ReserveOut(job) => job.transfer(),
            Self::Spent | Self::Answer(_) | Self::Change(_) => 0,
            Self::Read(_) | Self::Flush(_) | Self::Scan(_) => 0,
        }
    }
}

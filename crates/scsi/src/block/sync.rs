//! SYNCHRONIZE CACHE and PRE-FETCH.

use super::{Extent, in_range};
use crate::attention::NexusState;
use crate::change::Change;
use crate::command::{DiskOp, DiskResult, Response};
use crate::job::{Input, Job, Turn};
use crate::opcodes::{Begun, Start};

/// A flush, and a change of shared state that waits for it.
#[derive(Debug)]
pub(crate) struct Flush {
    then: Option<Change>,
}

/// SYNCHRONIZE CACHE(10), SYNCHRONIZE CACHE(16). The whole cache is flushed whatever the range, and
/// IMMED does not shorten the wait: the status always means that the data is stable.
pub(crate) fn synchronize_cache(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let extent = Extent::of(&start.cdb);
    in_range(start.unit, extent.lba, u64::from(extent.blocks))?;
    Ok(Job::Flush(Flush::new(None)))
}

/// PRE-FETCH(10), PRE-FETCH(16): checked, and left to the cache's own judgement. GOOD rather than
/// CONDITION MET says that the blocks need not be in it.
pub(crate) fn prefetch(start: &Start<'_>, _: &mut NexusState) -> Begun {
    let extent = Extent::of(&start.cdb);
    in_range(start.unit, extent.lba, u64::from(extent.blocks))?;
    Ok(Job::Answer(Response::good()))
}

impl Flush {
    pub(crate) const fn new(then: Option<Change>) -> Self {
        Self { then }
    }

    pub(crate) fn start(&self) -> Turn {
        Turn::Disk(DiskOp::Flush)
    }

    pub(crate) fn resume(&mut self, with: Input<'_>) -> Turn {
        match (with, self.then.take()) {
            (Input::Disk(DiskResult::Done), Some(change)) => Turn::Change(change),
            (Input::Disk(DiskResult::Done), None) => Turn::GOOD,
            _ => Turn::confused(),
        }
    }
}

//! Disk operations of commands: the pass at the unit's gate, the request, what came back.
//!
//! Every check that leads to the disk happens in the turn that starts the operation.

use std::sync::Arc;

use disk::{DiskError, Extent, Reply as DiskReply, Request};
use ring::Buffer;
use scsi::{DiskOp, DiskResult, Fault, Footprint, Nexus, Response, Resume, Status, Step};

use super::command::{Phase, Running, key_of, parts_of};
use super::session::Recorded;
use super::{Finished, Shard};
use crate::gate::{Claim, Entry, Grant, Waiter};
use crate::message::ControlRequest;
use crate::notice::Notice;
use crate::unit::{LogicalUnit, count};

/// What is on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnDisk {
    /// Bytes asked for.
    len: usize,
    /// The write has the task's own buffer.
    lent: bool,
}

impl Shard {
    /// Gets a pass first, then runs.
    pub(super) fn admit(&mut self, index: usize, op: DiskOp) {
        let running = &mut self.running[index];
        if running.pass.is_none() {
            let claim = match running.task.footprint() {
                Footprint::None => Claim::None,
                Footprint::Shared(ranges) => Claim::Shared(ranges),
                Footprint::Exclusive(lba, blocks) => Claim::Exclusive(lba, blocks),
            };
            let key = key_of(index, running.generation);
            match running.unit.gate.enter(
                claim,
                Waiter {
                    shard: self.index,
                    key,
                },
                &running.shared.nexus.initiator,
            ) {
                Entry::Granted(pass) => running.pass = Some(pass),
                Entry::Queued => {
                    running.phase = Phase::Queued(op);
                    return;
                }
                Entry::Full => return self.finish(index, &Response::status(Status::TaskSetFull)),
            }
        }
        self.start_disk(index, op);
    }

    pub(super) fn take_grants(&mut self) {
        // Those that come meanwhile are for the next turn.
        for _ in 0..self.board.grants() {
            let Some(Grant { waiter, pass }) = self.board.take_grant() else {
                return;
            };
            let (index, generation) = parts_of(waiter.key);
            let current = self
                .running
                .get_mut(index)
                .filter(|r| r.generation == generation);
            let Some(running) = current else {
                tracing::error!("a pass came for a command that is gone");
                continue;
            };
            running.pass = Some(pass);
            if running.aborted {
                self.end_aborted(index);
                continue;
            }
            let Phase::Queued(op) = std::mem::replace(&mut running.phase, Phase::Stepping) else {
                tracing::error!("a pass came for a command that did not wait");
                continue;
            };
            self.recheck(index, op);
        }
    }

    /// After a wait: does what was allowed then still hold?
    pub(super) fn recheck(&mut self, index: usize, op: DiskOp) {
        let running = &self.running[index];
        let checked = running
            .task
            .recheck(&running.unit.published(), &running.shared.nexus);
        match checked {
            Ok(()) => self.start_disk(index, op),
            Err(response) => self.finish(index, &response),
        }
    }

    fn start_disk(&mut self, index: usize, op: DiskOp) {
        let running = &mut self.running[index];
        let unit = running.unit.published();
        if op.writes() && unit.volatile_cache && !running.recorded {
            drop(unit);
            return self.record(index, op);
        }
        let Some(disk) = running.unit.disk() else {
            return self.finish(index, &Response::fault(Fault::NotReady, op.writes()));
        };
        let block = unit.block_size;
        drop(unit);
        let buffer = match running.buffer_bytes(&op, block) {
            0 => None,
            len => match self.take_buffer(index, len) {
                None => return self.finish(index, &Response::status(Status::TaskSetFull)),
                buffer => buffer,
            },
        };
        let running = &mut self.running[index];
        let Some((request, len, lent)) = running.request(op, block, buffer) else {
            return self.finish(index, &Response::status(Status::TaskSetFull));
        };
        running.phase = Phase::Disk(OnDisk { len, lent });
        let key = key_of(index, running.generation);
        let execution = disk.execute(&self.io, request);
        self.reactor.spawn(key, execution);
    }

    /// From a cache that a power cut empties, no write may be acknowledged before its nexus is
    /// recorded beside the device. One request does for all writes of the nexus that come meanwhile.
    fn record(&mut self, index: usize, op: DiskOp) {
        let running = &mut self.running[index];
        let session = self.sessions.get_mut(running.session);
        let recorded = session.and_then(|session| session.recorded_on(&running.unit));
        let waits = match recorded {
            Some(Recorded::Yes) => {
                running.recorded = true;
                return self.start_disk(index, op);
            }
            Some(Recorded::Asked) => true,
            Some(recorded) => {
                let request = running.unit.place().map(|place| ControlRequest::Record {
                    place,
                    unit: Arc::clone(&running.unit),
                    nexus: running.shared.nexus.clone(),
                    shard: self.index,
                });
                let asked = request.is_some_and(|it| self.links.control.try_send(it).is_ok());
                if asked {
                    *recorded = Recorded::Asked;
                }
                asked
            }
            // The LUN left its map.
            None => false,
        };
        if waits {
            running.phase = Phase::Recording(op);
        } else {
            self.finish(index, &Response::status(Status::Busy));
        }
    }

    /// The writes of a nexus that waited for the note go on, or fail with it.
    pub(super) fn recorded(
        &mut self,
        unit: &Arc<LogicalUnit>,
        nexus: &Nexus,
        result: &Result<(), Response>,
    ) {
        for (_, session) in &mut self.sessions {
            if session.shared.nexus == *nexus
                && let Some(recorded) = session.recorded_on(unit)
            {
                *recorded = result.as_ref().map_or(Recorded::No, |()| Recorded::Yes);
            }
        }
        let waits = |running: &Running| {
            matches!(running.phase, Phase::Recording(_))
                && Arc::ptr_eq(&running.unit, unit)
                && running.shared.nexus == *nexus
        };
        for index in self.tasks_where(waits) {
            // Gone where its end was part of what an earlier one led to.
            let Some(running) = self.running.get_mut(index).filter(|it| waits(it)) else {
                continue;
            };
            let Phase::Recording(op) = std::mem::replace(&mut running.phase, Phase::Stepping)
            else {
                continue;
            };
            match result {
                Ok(()) => {
                    running.recorded = true;
                    self.recheck(index, op);
                }
                Err(response) => self.finish(index, response),
            }
        }
    }

    pub(super) fn disk_done(&mut self, key: u64, result: Finished) {
        let (index, generation) = parts_of(key);
        let current = self
            .running
            .get_mut(index)
            .filter(|r| r.generation == generation);
        let Some(running) = current else {
            tracing::error!("a disk operation ended for a command that is gone");
            return;
        };
        let Phase::Disk(on_disk) = std::mem::replace(&mut running.phase, Phase::Stepping) else {
            tracing::error!("a disk operation ended that was not started");
            return;
        };
        if running.aborted {
            return self.end_aborted(index);
        }
        let block = u64::from(running.unit.published().block_size).max(1);
        let counters = &running.unit.counters;
        let unit = Arc::clone(&running.unit);
        let step = match result {
            Ok(DiskReply::Read(buffer)) => {
                count(&counters.reads, 1);
                count(&counters.bytes_read, on_disk.len as u64);
                let buffer = buffer.share();
                let bytes = buffer.get(..on_disk.len).unwrap_or_default();
                let step = running.advance(DiskResult::Read(bytes), &unit);
                running.last_read = Some(buffer);
                step
            }
            Ok(DiskReply::Written(buffer)) => {
                count(&counters.writes, 1);
                count(&counters.bytes_written, on_disk.len as u64);
                if on_disk.lent {
                    running.data_out = Some(buffer);
                }
                running.advance(DiskResult::Done, &unit)
            }
            Ok(DiskReply::Done) => running.advance(DiskResult::Done, &unit),
            Ok(DiskReply::Status { mapped, len }) => running.advance(
                DiskResult::Status {
                    mapped,
                    blocks: len / block,
                },
                &unit,
            ),
            Err(error) => {
                count(&counters.errors, 1);
                let fault = fault_of(error, block);
                let step = running.advance(DiskResult::Failed(fault), &unit);
                self.tell_of(&unit, error);
                step
            }
        };
        self.step(index, step);
    }

    fn tell_of(&self, unit: &LogicalUnit, error: DiskError) {
        let device = unit.name.clone();
        let notice = match error {
            DiskError::NoSpace => Notice::NoSpace { device },
            DiskError::OutOfRange
            | DiskError::ReadOnly
            | DiskError::Busy
            | DiskError::Unsupported => return,
            DiskError::Medium { .. } | DiskError::Gone | DiskError::Io { .. } => {
                Notice::DiskError {
                    device,
                    error: error.to_string(),
                }
            }
        };
        self.links.shared.tell(notice);
    }
}

impl Running {
    fn advance(&mut self, result: DiskResult<'_>, unit: &LogicalUnit) -> Step {
        self.task
            .resume(Resume::Disk(result), &unit.published(), &self.shared.nexus)
    }

    /// Bytes of a fresh buffer that an operation needs: reads, patterns, and writes that do not
    /// begin at the start of the task's own data.
    fn buffer_bytes(&self, op: &DiskOp, block: u32) -> usize {
        match op {
            DiskOp::Read { blocks, .. } | DiskOp::WritePattern { blocks, .. } => {
                bytes_of(*blocks, block)
            }
            DiskOp::Write {
                blocks,
                data_offset,
                ..
            } if *data_offset > 0 => bytes_of(*blocks, block),
            DiskOp::Write { .. }
            | DiskOp::Zero { .. }
            | DiskOp::Flush
            | DiskOp::Unmap(_)
            | DiskOp::Status { .. } => 0,
        }
    }

    /// The disk request for an operation, the bytes it moves, and whether it carries the task's own
    /// data-out buffer. `buffer` has [`Running::buffer_bytes`] bytes. `None`: the task asks for
    /// more than it has, which it does not.
    fn request(
        &mut self,
        op: DiskOp,
        block: u32,
        buffer: Option<Buffer>,
    ) -> Option<(Request, usize, bool)> {
        let wide = u64::from(block);
        Some(match op {
            DiskOp::Read { lba, blocks } => {
                let len = bytes_of(blocks, block);
                let request = Request::Read {
                    offset: lba * wide,
                    len,
                    buffer: buffer?,
                };
                (request, len, false)
            }
            DiskOp::Write {
                lba,
                blocks,
                data_offset,
                fua,
            } => {
                let len = bytes_of(blocks, block);
                let lent = buffer.is_none();
                let request = Request::Write {
                    offset: lba * wide,
                    len,
                    buffer: self.data_to_write(buffer, data_offset as usize, len)?,
                    fua,
                };
                (request, len, lent)
            }
            DiskOp::WritePattern {
                lba,
                blocks,
                pattern,
                fua,
            } => {
                let len = bytes_of(blocks, block);
                let request = Request::Write {
                    offset: lba * wide,
                    len,
                    buffer: repeated(&pattern, buffer?, len)?,
                    fua,
                };
                (request, len, false)
            }
            DiskOp::Zero {
                lba,
                blocks,
                unmap,
                fua,
            } => {
                let request = Request::Zero {
                    offset: lba * wide,
                    len: blocks * wide,
                    unmap,
                    fua,
                };
                (request, 0, false)
            }
            DiskOp::Flush => (Request::Flush, 0, false),
            DiskOp::Unmap(ranges) => (unmap(&ranges, wide), 0, false),
            DiskOp::Status { lba } => (Request::Status { offset: lba * wide }, 0, false),
        })
    }

    /// What a write has on the disk: the task's own buffer, or a part of it copied to a fresh one.
    fn data_to_write(
        &mut self,
        buffer: Option<Buffer>,
        start: usize,
        len: usize,
    ) -> Option<Buffer> {
        let Some(mut buffer) = buffer else {
            return self.data_out.take();
        };
        let data = self.data_out.as_ref()?.get(start..start + len)?;
        buffer.get_mut(..len)?.copy_from_slice(data);
        Some(buffer)
    }
}

/// A buffer whose first bytes are a pattern over and over.
fn repeated(pattern: &[u8], mut buffer: Buffer, len: usize) -> Option<Buffer> {
    for piece in buffer.get_mut(..len)?.chunks_mut(pattern.len().max(1)) {
        piece.copy_from_slice(pattern.get(..piece.len())?);
    }
    Some(buffer)
}

fn unmap(ranges: &[(u64, u32)], block: u64) -> Request {
    let extents = ranges.iter().map(|(lba, blocks)| Extent {
        offset: lba * block,
        len: u64::from(*blocks) * block,
    });
    Request::Unmap {
        extents: extents.collect(),
    }
}

const fn bytes_of(blocks: u32, block: u32) -> usize {
    blocks as usize * block as usize
}

/// Disk errors in SCSI's words; what SCSI makes of them is `scsi`'s table.
const fn fault_of(error: DiskError, block: u64) -> Fault {
    match error {
        DiskError::OutOfRange => Fault::OutOfRange,
        DiskError::ReadOnly => Fault::ReadOnly,
        DiskError::NoSpace => Fault::NoSpace,
        DiskError::Medium { offset } => Fault::Medium {
            lba: offset / block,
        },
        DiskError::Gone => Fault::NotReady,
        DiskError::Busy => Fault::Busy,
        DiskError::Unsupported => Fault::Unsupported,
        DiskError::Io { .. } => Fault::Hardware,
    }
}

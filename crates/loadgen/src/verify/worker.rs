//! One initiator of the load: what it does next, and what an end means.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use iscsi::initiator::{Completion, TaskId, TmfFunction, TmfResponse};
use ring::Buffer;

use super::{Counters, Report, VerifyError};
use crate::block::BYTES;
use crate::limits::{COUNTERS, HANG, SILENCE, TRANSFER_BYTES_MAX};
use crate::model::{End, Owned};
use crate::session::{News, Session};
use crate::{cdb, limits};

/// Blocks of one read of the last pass.
const PASS_BLOCKS: u32 = 256;

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Sequence 0 is an UNMAP.
    Write {
        lba: u64,
        blocks: u32,
        sequence: u64,
    },
    Read {
        lba: u64,
        blocks: u32,
    },
    /// Takes over what an earlier run left.
    Adopt {
        lba: u64,
        blocks: u32,
    },
    Flush,
    Look {
        counter: u64,
        floor: u64,
    },
    Swap {
        counter: u64,
        from: u64,
    },
}

struct Flight {
    operation: Operation,
    since: Instant,
}

/// A function that ends commands, and the commands that it ends.
struct Abort {
    task: TaskId,
    since: Instant,
    covers: Vec<TaskId>,
}

pub(super) struct Worker {
    place: u32,
    pub(super) session: Session,
    pub(super) news: Vec<News>,
    owned: Owned,
    flights: HashMap<TaskId, Flight>,
    abort: Option<Abort>,
    /// A reset by somebody else was seen: older commands of ours may be dead.
    suspicious: bool,
    /// A disturbance is due.
    wants_reset: bool,
    rng: fastrand::Rng,
    away_since: Option<Instant>,
    last_loss: String,
    /// Since when the unit says that it is not ready, and why.
    not_ready: Option<(Instant, u16)>,
    /// Next offset of the pass over everything: adopting at the start, verifying at the end.
    adopting: Option<u64>,
    verifying: Option<u64>,
    /// Counters still to be looked at in the last pass.
    last_looks: u64,
    /// A value to go on from.
    step: Option<(u64, u64)>,
}

impl Worker {
    pub(super) fn new(
        place: u32,
        session: Session,
        range: Range<u64>,
        seed: u64,
        adopt: bool,
        now: Instant,
    ) -> Self {
        Self {
            place,
            session,
            news: Vec::new(),
            owned: Owned::new(place, range),
            flights: HashMap::new(),
            abort: None,
            suspicious: false,
            wants_reset: false,
            rng: fastrand::Rng::with_seed(seed),
            away_since: Some(now),
            last_loss: "never connected".to_owned(),
            not_ready: None,
            adopting: adopt.then_some(0),
            verifying: None,
            last_looks: 0,
            step: None,
        }
    }

    pub(super) fn reset(&mut self, _now: Instant) {
        self.wants_reset = true;
    }

    pub(super) fn ready(&mut self, _now: Instant) {
        self.away_since = None;
    }

    pub(super) fn lost(
        &mut self,
        why: &str,
        now: Instant,
        report: &mut Report,
        counters: &mut Counters,
    ) {
        if why != "killed" {
            report.losses += 1;
        }
        self.away_since.get_or_insert(now);
        why.clone_into(&mut self.last_loss);
        self.abort = None;
        self.suspicious = false;
        let flights: Vec<Flight> = self.flights.drain().map(|(_, flight)| flight).collect();
        for flight in flights {
            self.unknown(flight.operation, report, counters);
        }
    }

    /// Nobody knows whether it was done; it is over in any case.
    fn unknown(&mut self, operation: Operation, report: &mut Report, counters: &mut Counters) {
        report.unknown += 1;
        match operation {
            Operation::Write {
                lba,
                blocks,
                sequence,
            } => {
                self.owned.wrote(lba, blocks, sequence, End::Unknown);
            }
            Operation::Swap { counter, from } => {
                // An unknown step breaks nothing by itself.
                let _ = counters.swapped(counter, from, End::Unknown);
            }
            other => self.undo(other),
        }
    }

    /// It was not done.
    fn undo(&mut self, operation: Operation) {
        match operation {
            Operation::Write {
                lba,
                blocks,
                sequence,
            } => {
                self.owned.wrote(lba, blocks, sequence, End::Refused);
            }
            Operation::Read { lba, blocks } => {
                self.owned.give_back(lba, blocks);
                self.rewind(lba);
            }
            Operation::Adopt { lba, blocks } => {
                self.owned.give_back(lba, blocks);
                self.rewind(lba);
            }
            Operation::Look { counter, .. } => self.last_looks = self.last_looks.min(counter),
            Operation::Flush | Operation::Swap { .. } => {}
        }
    }

    /// A pass goes on from here again.
    fn rewind(&mut self, lba: u64) {
        let offset = lba - self.owned.first();
        for pass in [&mut self.adopting, &mut self.verifying]
            .into_iter()
            .flatten()
        {
            *pass = (*pass).min(offset);
        }
    }

    pub(super) fn done(
        &mut self,
        completion: &Completion,
        data: &[u8],
        now: Instant,
        report: &mut Report,
        counters: &mut Counters,
    ) -> Result<(), VerifyError> {
        let Some(flight) = self.flights.remove(&completion.task) else {
            return Ok(());
        };
        let took = now.saturating_duration_since(flight.since).as_millis();
        report.slowest_ms = report.slowest_ms.max(took);
        if completion.status == 0 && !completion.target_failure {
            self.not_ready = None;
            return self.good(flight.operation, data, report, counters);
        }
        let sense = sense_of(completion);
        match (completion.status, sense) {
            (0x08 | 0x28, _) => {
                report.busy += 1;
                self.undo(flight.operation);
            }
            (0x02, Some((6, code))) => {
                report.attentions += 1;
                report.capacity_changes += u64::from(code == 0x2a09);
                self.suspicious |= code >> 8 == 0x29 || code == 0x2f00;
                self.undo(flight.operation);
            }
            (0x02, Some((0x0e, 0x1d00))) if matches!(flight.operation, Operation::Swap { .. }) => {
                report.miscompares += 1;
                self.undo(flight.operation);
            }
            (0x02, Some((0x0b, _))) => self.unknown(flight.operation, report, counters),
            (0x02, Some((2, code))) => {
                self.not_ready.get_or_insert((now, code));
                self.undo(flight.operation);
            }
            _ => {
                return Err(VerifyError::Unexpected {
                    initiator: self.place,
                    what: format!("{:?} ended with {completion:02x?}", flight.operation),
                });
            }
        }
        Ok(())
    }

    fn good(
        &mut self,
        operation: Operation,
        data: &[u8],
        report: &mut Report,
        counters: &mut Counters,
    ) -> Result<(), VerifyError> {
        match operation {
            Operation::Write {
                lba,
                blocks,
                sequence,
            } => {
                self.owned.wrote(lba, blocks, sequence, End::Good);
                let count = if sequence == 0 {
                    &mut report.unmaps
                } else {
                    &mut report.writes
                };
                *count += 1;
                report.bytes += u64::from(blocks) * BYTES as u64;
            }
            Operation::Read { lba, blocks } => {
                self.owned.give_back(lba, blocks);
                if data.len() != blocks as usize * BYTES {
                    return Err(VerifyError::Unexpected {
                        initiator: self.place,
                        what: format!("{} bytes for {blocks} blocks read", data.len()),
                    });
                }
                self.owned.read(lba, data)?;
                report.reads += 1;
                report.bytes += data.len() as u64;
                report.verified_blocks += u64::from(blocks) * u64::from(self.verifying.is_some());
            }
            Operation::Adopt { lba, blocks } => {
                self.owned.give_back(lba, blocks);
                self.owned.adopt(lba, data)?;
            }
            Operation::Flush => report.flushes += 1,
            Operation::Look { counter, floor } => {
                let found = counters.looked(counter, floor, data)?;
                self.step = Some((counter, found));
            }
            Operation::Swap { counter, from } => {
                counters.swapped(counter, from, End::Good)?;
                report.increments += 1;
            }
        }
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        task: TaskId,
        response: Option<TmfResponse>,
        report: &mut Report,
        counters: &mut Counters,
    ) -> Result<(), VerifyError> {
        let Some(abort) = self.abort.take_if(|abort| abort.task == task) else {
            return Ok(());
        };
        report.functions += 1;
        let over = matches!(
            response,
            Some(TmfResponse::Complete | TmfResponse::Succeeded | TmfResponse::TaskDoesNotExist)
        );
        if !over {
            return Err(VerifyError::Unexpected {
                initiator: self.place,
                what: format!("a task management function was answered {response:?}"),
            });
        }
        for task in abort.covers {
            if let Some(flight) = self.flights.remove(&task) {
                self.session.forget(task);
                self.unknown(flight.operation, report, counters);
            }
        }
        Ok(())
    }

    /// Bounds: no answer, target away.
    pub(super) fn watch(&mut self, now: Instant, away_max: Duration) -> Result<(), VerifyError> {
        let late = |since: Instant| now.saturating_duration_since(since) > HANG;
        if let Some(abort) = self.abort.as_ref().filter(|abort| late(abort.since)) {
            let what = format!("a function over {} commands", abort.covers.len());
            return Err(VerifyError::Hang {
                initiator: self.place,
                what,
            });
        }
        if let Some(flight) = self.flights.values().find(|flight| late(flight.since)) {
            let what = format!("{:?}", flight.operation);
            return Err(VerifyError::Hang {
                initiator: self.place,
                what,
            });
        }
        match self
            .away_since
            .map(|since| now.saturating_duration_since(since))
        {
            Some(away) if away > away_max => Err(VerifyError::Away {
                initiator: self.place,
                seconds: away.as_secs(),
                last: self.last_loss.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Starts what there is to start; whether everything is done (only when `stopping`).
    pub(super) fn fill(
        &mut self,
        now: Instant,
        depth: usize,
        stopping: bool,
        counters: &mut Counters,
    ) -> bool {
        if !self.session.is_ready() || self.abort.is_some() {
            return false;
        }
        self.end_what_is_silent(now);
        if self.abort.is_some() {
            return false;
        }
        if stopping && self.verifying.is_none() && self.adopting.is_none() {
            if !self.flights.is_empty() {
                return false;
            }
            self.verifying = Some(0);
        }
        while self.flights.len() < depth && self.session.room() > 0 {
            let Some(operation) = self.choose(counters) else {
                break;
            };
            if !self.start(operation, now) {
                self.undo(operation);
                break;
            }
        }
        self.verifying == Some(self.owned.len())
            && self.last_looks == COUNTERS
            && self.flights.is_empty()
    }

    /// What somebody else's reset ended has no answer: it is given up, and asked about first.
    fn end_what_is_silent(&mut self, now: Instant) {
        let silent = |flight: &Flight| now.saturating_duration_since(flight.since) > SILENCE;
        let function = if self.suspicious || self.flights.values().any(silent) {
            TmfFunction::AbortTaskSet
        } else if self.wants_reset && self.verifying.is_none() {
            match self.rng.u8(..8) {
                0 => TmfFunction::LogicalUnitReset,
                1 => TmfFunction::ClearTaskSet,
                2 => TmfFunction::AbortTaskSet,
                _ => TmfFunction::AbortTask,
            }
        } else {
            return;
        };
        self.suspicious = false;
        self.wants_reset = false;
        let all: Vec<TaskId> = self.flights.keys().copied().collect();
        let (referenced, covers) = match function {
            TmfFunction::AbortTask if all.is_empty() => return,
            TmfFunction::AbortTask => {
                let one = all[self.rng.usize(..all.len())];
                (Some(one), vec![one])
            }
            _ => (None, all),
        };
        if let Some(task) = self.session.function(function, referenced) {
            self.abort = Some(Abort {
                task,
                since: now,
                covers,
            });
        }
    }

    fn choose(&mut self, counters: &mut Counters) -> Option<Operation> {
        if let Some(offset) = self.adopting {
            let next = self.pass(offset, |lba, blocks| Operation::Adopt { lba, blocks });
            self.adopting = next
                .map(|(_, next)| next)
                .filter(|next| *next < self.owned.len());
            return next.map(|(operation, _)| operation);
        }
        if let Some(offset) = self.verifying {
            if let Some((operation, next)) =
                self.pass(offset, |lba, blocks| Operation::Read { lba, blocks })
            {
                self.verifying = Some(next);
                return Some(operation);
            }
            let counter = self.last_looks;
            if offset < self.owned.len() || counter >= COUNTERS {
                return None;
            }
            self.last_looks += 1;
            return Some(Operation::Look {
                counter,
                floor: counters.floor(counter),
            });
        }
        if let Some((counter, from)) = self.step.take() {
            return Some(Operation::Swap { counter, from });
        }
        let kind = self.rng.u8(..100);
        if kind < 2 {
            return Some(Operation::Flush);
        }
        if kind < 12 {
            let counter = self.rng.u64(..COUNTERS);
            return Some(Operation::Look {
                counter,
                floor: counters.floor(counter),
            });
        }
        let blocks = self.length();
        let offset = self.rng.u64(..self.owned.len() - u64::from(blocks));
        let lba = self.owned.take(offset, blocks)?;
        Some(match kind {
            12..=54 => Operation::Read { lba, blocks },
            55..=57 => Operation::Write {
                lba,
                blocks,
                sequence: 0,
            },
            _ => Operation::Write {
                lba,
                blocks,
                sequence: self.owned.next_sequence(),
            },
        })
    }

    /// The next piece of a pass over everything, and where it goes on.
    fn pass(
        &mut self,
        offset: u64,
        operation: impl Fn(u64, u32) -> Operation,
    ) -> Option<(Operation, u64)> {
        let left = self
            .owned
            .len()
            .checked_sub(offset)
            .filter(|left| *left > 0)?;
        let blocks = u32::try_from(left.min(u64::from(PASS_BLOCKS))).unwrap_or(PASS_BLOCKS);
        let lba = self.owned.take(offset, blocks)?;
        Some((operation(lba, blocks), offset + u64::from(blocks)))
    }

    /// Mostly small, sometimes as long as a transfer may be.
    fn length(&mut self) -> u32 {
        let most = TRANSFER_BYTES_MAX / 512;
        let shift = self.rng.u32(..=most.ilog2());
        self.rng.u32(1..=(1 << shift)).min(most)
    }

    fn start(&mut self, operation: Operation, now: Instant) -> bool {
        let task = match operation {
            Operation::Write {
                lba,
                blocks,
                sequence: 0,
            } => {
                let (cdb, list) = cdb::unmap(lba, blocks);
                self.send_with(cdb, &list)
            }
            Operation::Write {
                lba,
                blocks,
                sequence,
            } => {
                let mut buffer = Buffer::zeroed(blocks as usize * BYTES);
                self.owned.data(lba, sequence, &mut buffer);
                let fua = self.rng.u8(..16) == 0;
                self.session
                    .send(cdb::write(lba, blocks, fua), Some(buffer.share()), 0)
            }
            Operation::Read { lba, blocks } | Operation::Adopt { lba, blocks } => {
                let len = blocks * u32::try_from(BYTES).unwrap_or(512);
                self.session.send(cdb::read(lba, blocks), None, len)
            }
            Operation::Flush => self.session.send(cdb::flush(), None, 0),
            Operation::Look { counter, .. } => self.session.send(cdb::read(counter, 1), None, 512),
            Operation::Swap { counter, from } => {
                let data = Counters::data(counter, from);
                self.send_with(cdb::compare_and_write(counter), &data)
            }
        };
        let Some(task) = task else { return false };
        self.flights.insert(
            task,
            Flight {
                operation,
                since: now,
            },
        );
        true
    }

    fn send_with(&mut self, cdb: iscsi::initiator::Cdb, data: &[u8]) -> Option<TaskId> {
        let mut buffer = Buffer::zeroed(data.len());
        buffer.copy_from_slice(data);
        self.session.send(cdb, Some(buffer.share()), 0)
    }
}

/// Sense key and code of a CHECK CONDITION.
fn sense_of(completion: &Completion) -> Option<(u8, u16)> {
    let sense = &completion.sense;
    let at = |place: usize| sense.get(place).copied().unwrap_or_default();
    match at(0) & 0x7f {
        0x70 | 0x71 => Some((at(2) & 0x0f, u16::from_be_bytes([at(12), at(13)]))),
        0x72 | 0x73 => Some((at(1) & 0x0f, u16::from_be_bytes([at(2), at(3)]))),
        _ => None,
    }
}

const _: () = assert!(limits::TRANSFER_BYTES_MAX as usize >= PASS_BLOCKS as usize * BYTES);

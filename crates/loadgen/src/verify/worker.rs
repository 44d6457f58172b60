//! One initiator of the load: what it does next, and what an end means.

use std::collections::BTreeMap;
use std::time::Instant;

use iscsi::initiator::{Cdb, Completion, Residual, TaskId, TmfFunction, TmfResponse};
use ring::Buffer;

use super::counters::Counters;
use super::mix::Choice;
use super::{Board, Options, VerifyError};
use crate::block::BYTES;
use crate::limits::{self, COUNTERS, CUT_OFF, OVERDUE, SILENCE};
use crate::model::{End, Owned, Span};
use crate::session::{News, Session};
use crate::{cdb, sense};

/// Blocks of one read of a pass over everything.
const PASS_BLOCKS: u32 = 256;

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// READ CAPACITY.
    Capacity,
    /// Sequence 0 is an UNMAP.
    Write {
        span: Span,
        sequence: u64,
    },
    Read(Span),
    /// Takes over what an earlier run left.
    Adopt(Span),
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

#[derive(Debug)]
struct Flight {
    operation: Operation,
    since: Instant,
    /// Since when somebody else's reset may have ended it without a word.
    swept: Option<Instant>,
}

/// A function that ends commands, and the commands that it ends.
#[derive(Debug)]
struct Abort {
    task: TaskId,
    function: TmfFunction,
    since: Instant,
    covers: Vec<TaskId>,
}

impl Abort {
    /// It ends others' commands, too.
    const fn sweeps(&self) -> bool {
        matches!(
            self.function,
            TmfFunction::LogicalUnitReset | TmfFunction::ClearTaskSet
        )
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    place: u32,
    pub(super) session: Session,
    pub(super) news: Vec<News>,
    /// A disturbance is due.
    pub(super) wants_reset: bool,
    owned: Owned,
    flights: BTreeMap<TaskId, Flight>,
    abort: Option<Abort>,
    /// A reset by somebody else was told: older commands of ours may be dead.
    suspicious: bool,
    /// The capacity is to be asked for.
    ask_capacity: bool,
    rng: fastrand::Rng,
    away_since: Option<Instant>,
    last_loss: String,
    /// Since when the unit says that it is not ready, and why.
    not_ready: Option<(Instant, u16)>,
    /// Next offset of the pass over everything: adopting at the start, verifying at the end.
    adopting: Option<u64>,
    verifying: Option<u64>,
    /// Counters looked at in the last pass.
    last_looks: u64,
    /// A value to go on from.
    step: Option<(u64, u64)>,
}

impl Worker {
    pub(super) fn new(
        place: u32,
        session: Session,
        options: &Options,
        seed: u64,
        now: Instant,
    ) -> Self {
        let owners = u32::try_from(options.initiators).unwrap_or(u32::MAX);
        Self {
            place,
            session,
            news: Vec::new(),
            wants_reset: false,
            owned: Owned::new(place, owners, 0),
            flights: BTreeMap::new(),
            abort: None,
            suspicious: false,
            ask_capacity: true,
            rng: fastrand::Rng::with_seed(seed),
            away_since: Some(now),
            last_loss: "never connected".to_owned(),
            not_ready: None,
            adopting: options.adopt.then_some(0),
            verifying: None,
            last_looks: 0,
            step: None,
        }
    }

    pub(super) fn ready(&mut self) {
        self.away_since = None;
    }

    pub(super) fn lost(
        &mut self,
        why: &str,
        killed: bool,
        options: &Options,
        board: &mut Board,
    ) -> Result<(), VerifyError> {
        if !killed {
            board.report.losses += 1;
            if options.away_max.is_zero() {
                return Err(VerifyError::Lost {
                    initiator: self.place,
                    why: why.to_owned(),
                });
            }
        }
        self.away_since.get_or_insert(board.now);
        why.clone_into(&mut self.last_loss);
        if self.abort.take().is_some_and(|abort| abort.sweeps()) {
            board.sweeping_until = Some(board.now + CUT_OFF);
        }
        self.suspicious = false;
        for flight in std::mem::take(&mut self.flights).into_values() {
            self.unknown(flight.operation, board);
        }
        Ok(())
    }

    /// Nobody knows whether it was done; it is over in any case.
    fn unknown(&mut self, operation: Operation, board: &mut Board) {
        board.report.unknown += 1;
        match operation {
            Operation::Write { span, sequence } => {
                self.owned.wrote(span, sequence, End::Unknown);
            }
            Operation::Swap { counter, from } => {
                // A step of unknown end cannot be wrong.
                let _ = board.counters.swapped(counter, from, End::Unknown);
            }
            other => self.undo(other),
        }
    }

    /// It was not done.
    fn undo(&mut self, operation: Operation) {
        match operation {
            Operation::Capacity => self.ask_capacity = true,
            Operation::Write { span, sequence } => {
                self.owned.wrote(span, sequence, End::Refused);
            }
            Operation::Read(span) | Operation::Adopt(span) => {
                self.owned.give_back(span);
                self.rewind(span);
            }
            Operation::Look { counter, .. } => self.last_looks = self.last_looks.min(counter),
            Operation::Flush | Operation::Swap { .. } => {}
        }
    }

    /// A pass goes on from here again.
    fn rewind(&mut self, span: Span) {
        let offset = self.owned.offset_of(span.lba);
        for pass in [&mut self.adopting, &mut self.verifying] {
            *pass = pass.map(|next| next.min(offset));
        }
    }

    fn unexpected(&self, what: String) -> VerifyError {
        VerifyError::Unexpected {
            initiator: self.place,
            what,
        }
    }

    pub(super) fn done(
        &mut self,
        completion: &Completion,
        data: &[u8],
        options: &Options,
        board: &mut Board,
    ) -> Result<(), VerifyError> {
        let Some(flight) = self.flights.remove(&completion.task) else {
            return Ok(());
        };
        let operation = flight.operation;
        let took = board.now.saturating_duration_since(flight.since);
        board.report.slowest_ms = board.report.slowest_ms.max(took.as_millis());
        let wrong = format!("{operation:?} ended with {completion:02x?}");
        if completion.target_failure {
            return Err(self.unexpected(wrong));
        }
        if completion.status == 0 {
            self.not_ready = None;
            if completion.residual != Residual::None {
                return Err(self.unexpected(wrong));
            }
            return self.good(operation, data, options, board);
        }
        let sense = sense::key_and_code(&completion.sense);
        board.report.error(completion.status, sense);
        match (completion.status, sense) {
            (0x08 | 0x28, _) => {
                board.report.busy += 1;
                self.undo(operation);
            }
            (0x02, Some((6, code))) => {
                self.attention(code, board);
                self.undo(operation);
            }
            (0x02, Some((0x0e, 0x1d00))) if matches!(operation, Operation::Swap { .. }) => {
                board.report.miscompares += 1;
                self.undo(operation);
            }
            // TASK ABORTED and ABORTED COMMAND.
            (0x40, _) | (0x02, Some((0x0b, _))) => self.unknown(operation, board),
            (0x02, Some((2, code))) => {
                self.not_ready.get_or_insert((board.now, code));
                self.undo(operation);
            }
            _ => return Err(self.unexpected(wrong)),
        }
        Ok(())
    }

    fn attention(&mut self, code: u16, board: &mut Board) {
        board.report.attentions += 1;
        match code {
            0x2a09 => {
                board.report.capacity_changes += 1;
                self.ask_capacity = true;
            }
            // A reset, or commands cleared by another initiator. (29/00 comes with every login.)
            0x2902 | 0x2903 | 0x2f00 => self.suspicious = true,
            _ => {}
        }
    }

    fn good(
        &mut self,
        operation: Operation,
        data: &[u8],
        options: &Options,
        board: &mut Board,
    ) -> Result<(), VerifyError> {
        let report = &mut board.report;
        match operation {
            Operation::Capacity => self.measured(data, options, board)?,
            Operation::Write { span, sequence } => {
                self.owned.wrote(span, sequence, End::Good);
                if sequence == 0 {
                    report.unmaps += 1;
                } else {
                    report.writes += 1;
                    report.bytes += u64::from(span.blocks) * BYTES as u64;
                }
            }
            Operation::Read(span) => {
                self.owned.read(span, data)?;
                report.reads += 1;
                report.bytes += data.len() as u64;
                if self.verifying.is_some() {
                    report.verified_blocks += u64::from(span.blocks);
                }
            }
            Operation::Adopt(span) => self.owned.adopt(span, data)?,
            Operation::Flush => report.flushes += 1,
            Operation::Look { counter, floor } => {
                let found = board.counters.looked(counter, floor, data)?;
                self.step = Some((counter, found));
            }
            Operation::Swap { counter, from } => {
                board.counters.swapped(counter, from, End::Good)?;
                report.increments += 1;
            }
        }
        Ok(())
    }

    /// READ CAPACITY was answered.
    fn measured(
        &self,
        data: &[u8],
        options: &Options,
        board: &mut Board,
    ) -> Result<(), VerifyError> {
        let (blocks, length) = cdb::capacity(data)
            .ok_or_else(|| self.unexpected(format!("the capacity is {data:02x?}")))?;
        if usize::try_from(length) != Ok(BYTES) {
            return Err(VerifyError::Options(format!(
                "the LUN has blocks of {length} bytes; this load needs {BYTES}"
            )));
        }
        let blocks = options.blocks.map_or(blocks, |most| most.min(blocks));
        let needed = COUNTERS + limits::CHUNK_BLOCKS * options.initiators as u64;
        if blocks < needed {
            return Err(VerifyError::Options(format!(
                "{blocks} blocks; {} initiators need {needed}",
                options.initiators
            )));
        }
        if blocks < board.capacity {
            let before = board.capacity;
            return Err(self.unexpected(format!("the LUN shrank from {before} to {blocks} blocks")));
        }
        board.capacity = blocks;
        Ok(())
    }

    /// A task management function was answered.
    pub(super) fn answered(
        &mut self,
        task: TaskId,
        response: Option<TmfResponse>,
        board: &mut Board,
    ) -> Result<(), VerifyError> {
        let Some(abort) = self.abort.take_if(|abort| abort.task == task) else {
            return Ok(());
        };
        board.report.functions += 1;
        let function = abort.function;
        match response {
            Some(TmfResponse::Complete) => {}
            // It was answered before, or a reset has ended it; or the target lost it, which shows
            // because it stays without an answer.
            Some(TmfResponse::TaskDoesNotExist) if function == TmfFunction::AbortTask => {
                return Ok(());
            }
            other => return Err(self.unexpected(format!("{function:?} was answered {other:?}"))),
        }
        board.swept |= abort.sweeps();
        for task in abort.covers {
            if let Some(flight) = self.flights.remove(&task) {
                self.session.forget(task);
                board.report.given_up += u64::from(flight.swept.is_some());
                self.unknown(flight.operation, board);
            }
        }
        Ok(())
    }

    /// Commands sent before now may have been ended by somebody's reset.
    pub(super) fn swept(&mut self, now: Instant) {
        for flight in self.flights.values_mut() {
            if flight.since < now {
                flight.swept.get_or_insert(now);
            }
        }
    }

    /// Whether a command has no answer for too long, and nobody can have ended it.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.flights.values().any(|flight| {
            flight.swept.is_none() && now.saturating_duration_since(flight.since) > OVERDUE
        })
    }

    /// Bounds: no answer, target away, unit not ready.
    pub(super) fn watch(&self, options: &Options, now: Instant) -> Result<(), VerifyError> {
        let initiator = self.place;
        let seconds = options.hang.as_secs();
        let hang = |what| VerifyError::Hang {
            initiator,
            what,
            seconds,
        };
        let late = |since: Instant| now.saturating_duration_since(since) > options.hang;
        if let Some(abort) = self.abort.as_ref().filter(|abort| late(abort.since)) {
            let what = format!("{:?} over {} commands", abort.function, abort.covers.len());
            return Err(hang(what));
        }
        if let Some(flight) = self.flights.values().find(|flight| late(flight.since)) {
            return Err(hang(format!("{:?}", flight.operation)));
        }
        let bound = options.away_max.max(options.hang);
        let beyond = |since: Instant| {
            Some(now.saturating_duration_since(since)).filter(|passed| *passed > bound)
        };
        if let Some((since, code)) = self.not_ready
            && let Some(passed) = beyond(since)
        {
            let seconds = passed.as_secs();
            return Err(VerifyError::NotReady {
                initiator,
                seconds,
                code,
            });
        }
        if let Some(passed) = self.away_since.and_then(beyond) {
            return Err(VerifyError::Away {
                initiator,
                seconds: passed.as_secs(),
                last: self.last_loss.clone(),
            });
        }
        Ok(())
    }

    /// Starts what there is to start; whether everything is done.
    pub(super) fn fill(&mut self, options: &Options, board: &mut Board) -> bool {
        self.owned.grow(board.capacity);
        if !self.session.is_ready() || self.abort.is_some() {
            return false;
        }
        self.interrupt(board);
        if self.abort.is_some() {
            return false;
        }
        let idle = self.flights.is_empty() && self.adopting.is_none() && !self.owned.is_empty();
        if board.stopping && self.verifying.is_none() && idle {
            self.verifying = Some(0);
        }
        let winding_down = board.stopping && self.verifying.is_none() && self.adopting.is_none();
        let depth = (options.depth >> (self.place % 3)).max(1);
        while self.flights.len() < depth && self.session.room() > 0 {
            if winding_down && !self.ask_capacity {
                break;
            }
            let Some(operation) = self.choose(options, board) else {
                break;
            };
            if !self.start(operation, board.now) {
                self.undo(operation);
                break;
            }
        }
        self.verifying == Some(self.owned.len())
            && self.last_looks == COUNTERS
            && self.flights.is_empty()
    }

    /// Ends commands: what a reset may have ended without a word, or because a disturbance is due.
    fn interrupt(&mut self, board: &Board) {
        if self.is_overdue(board.now) {
            return;
        }
        let silent = |flight: &Flight| {
            let since = flight.swept.unwrap_or(board.now);
            board.now.saturating_duration_since(since) > SILENCE
        };
        let suspicious = std::mem::take(&mut self.suspicious) && !self.flights.is_empty();
        let function = if suspicious || self.flights.values().any(silent) {
            TmfFunction::AbortTaskSet
        } else if self.wants_reset && !board.overdue && self.verifying.is_none() {
            self.wants_reset = false;
            match self.rng.u8(..8) {
                0 => TmfFunction::LogicalUnitReset,
                1 => TmfFunction::ClearTaskSet,
                2 => TmfFunction::AbortTaskSet,
                _ => TmfFunction::AbortTask,
            }
        } else {
            return;
        };
        let mut covers: Vec<TaskId> = self.flights.keys().copied().collect();
        let mut referenced = None;
        if function == TmfFunction::AbortTask {
            if covers.is_empty() {
                return;
            }
            let one = covers[self.rng.usize(..covers.len())];
            referenced = Some(one);
            covers = vec![one];
        }
        if let Some(task) = self.session.function(function, referenced) {
            self.abort = Some(Abort {
                task,
                function,
                since: board.now,
                covers,
            });
        }
    }

    fn choose(&mut self, options: &Options, board: &mut Board) -> Option<Operation> {
        if std::mem::take(&mut self.ask_capacity) {
            return Some(Operation::Capacity);
        }
        if self.owned.is_empty() {
            return None;
        }
        if let Some(next) = self.adopting {
            return self.adopt_next(next);
        }
        if let Some(next) = self.verifying {
            return self.verify_next(next, board);
        }
        if let Some((counter, from)) = self.step.take() {
            return Some(Operation::Swap { counter, from });
        }
        let choice = options.mix.choose(&mut self.rng);
        match choice {
            Choice::Flush => return Some(Operation::Flush),
            Choice::Swap => {
                let counter = self.rng.u64(..COUNTERS);
                let floor = board.counters.floor(counter);
                return Some(Operation::Look { counter, floor });
            }
            Choice::Read | Choice::Write | Choice::Unmap => {}
        }
        let offset = self.rng.u64(..self.owned.len());
        let blocks = self.length(options);
        let span = self.owned.take(offset, blocks)?;
        if choice == Choice::Read || self.owned.is_vague(span) {
            return Some(Operation::Read(span));
        }
        let sequence = if choice == Choice::Unmap {
            0
        } else {
            self.owned.next_sequence()
        };
        Some(Operation::Write { span, sequence })
    }

    fn adopt_next(&mut self, next: u64) -> Option<Operation> {
        if let Some(span) = self.owned.take(next, PASS_BLOCKS) {
            self.adopting = Some(next + u64::from(span.blocks));
            return Some(Operation::Adopt(span));
        }
        // Only with the last answer it is certain that nothing has to be read again.
        if next >= self.owned.len() && self.flights.is_empty() {
            self.adopting = None;
        }
        None
    }

    fn verify_next(&mut self, next: u64, board: &mut Board) -> Option<Operation> {
        if let Some(span) = self.owned.take(next, PASS_BLOCKS) {
            self.verifying = Some(next + u64::from(span.blocks));
            return Some(Operation::Read(span));
        }
        let counter = self.last_looks;
        if next < self.owned.len() || counter >= COUNTERS {
            return None;
        }
        self.last_looks += 1;
        let floor = board.counters.floor(counter);
        Some(Operation::Look { counter, floor })
    }

    /// Mostly small, sometimes as long as it may be.
    fn length(&mut self, options: &Options) -> u32 {
        let block = u32::try_from(BYTES).unwrap_or(u32::MAX);
        let (least, most) = (options.bytes.start() / block, options.bytes.end() / block);
        let shift = self.rng.u32(..=(most - least).max(1).ilog2() + 1);
        least + self.rng.u32(..(1 << shift)).min(most - least)
    }

    fn start(&mut self, operation: Operation, now: Instant) -> bool {
        let block = u32::try_from(BYTES).unwrap_or(u32::MAX);
        let task = match operation {
            Operation::Capacity => {
                let len = cdb::CAPACITY_BYTES;
                self.session.send(cdb::read_capacity(), None, len)
            }
            Operation::Write { span, sequence: 0 } => {
                let (cdb, list) = cdb::unmap(span.lba, span.blocks);
                self.send_with(cdb, &list)
            }
            Operation::Write { span, sequence } => {
                let mut buffer = Buffer::zeroed(span.blocks as usize * BYTES);
                self.owned.data(span.lba, sequence, &mut buffer);
                let fua = self.rng.u8(..16) == 0;
                let cdb = cdb::write(span.lba, span.blocks, fua);
                self.session.send(cdb, Some(buffer.share()), 0)
            }
            Operation::Read(span) | Operation::Adopt(span) => {
                let cdb = cdb::read(span.lba, span.blocks);
                self.session.send(cdb, None, span.blocks * block)
            }
            Operation::Flush => self.session.send(cdb::flush(), None, 0),
            Operation::Look { counter, .. } => {
                self.session.send(cdb::read(counter, 1), None, block)
            }
            Operation::Swap { counter, from } => {
                let data = Counters::data(counter, from);
                self.send_with(cdb::compare_and_write(counter), &data)
            }
        };
        let Some(task) = task else { return false };
        let flight = Flight {
            operation,
            since: now,
            swept: None,
        };
        self.flights.insert(task, flight);
        true
    }

    fn send_with(&mut self, cdb: Cdb, data: &[u8]) -> Option<TaskId> {
        let mut buffer = Buffer::zeroed(data.len());
        buffer.copy_from_slice(data);
        self.session.send(cdb, Some(buffer.share()), 0)
    }
}

const _: () = assert!(limits::CHUNK_BLOCKS * BYTES as u64 >= limits::TRANSFER_BYTES_MAX as u64);

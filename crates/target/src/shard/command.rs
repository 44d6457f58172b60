//! Commands: from the CDB to the disk and back.
//!
//! `scsi::Task` says what comes next; here it gets its data-out buffer and its answer, and goes on to
//! the disk (`disk.rs`) or to the control plane. Between any two steps a command can be aborted; every
//! step asks what is published about the unit in that very moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use iscsi::target::{ScsiStatus, TaskId};
use ring::{Buffer, SharedBuffer};
use scsi::{DataIn, DiskOp, Response, Resume, Status, Step, Task, Unit};

use super::Shard;
use super::connection::Payload;
use super::connection::Telling;
use super::disk::OnDisk;
use super::memory::Charge;
use super::session::Recorded;
use crate::gate::{Grant, Pass};
use crate::limits;
use crate::message::{self, ControlRequest, Reply, Ticket};
use crate::registry::SessionShared;
use crate::unit::{LogicalUnit, count};

/// Where a command is.
#[derive(Debug)]
pub(super) enum Phase {
    /// In a call of this module.
    Stepping,
    /// Waits for the initiator's data.
    Receiving,
    /// Waits at the gate, with what it wants to do.
    Queued(DiskOp),
    /// Waits until its nexus is recorded as a writer, with what it wants to do.
    Recording(DiskOp),
    /// Waits for the control plane.
    Changing(Arc<Ticket>),
    /// On the disk.
    Disk(OnDisk),
}

/// A running command.
pub(super) struct Running {
    pub(super) generation: u32,
    pub(super) connection: usize,
    pub(super) session: usize,
    pub(super) shared: Arc<SessionShared>,
    pub(super) unit: Arc<LogicalUnit>,
    pub(super) id: TaskId,
    pub(super) task: Task,
    pub(super) phase: Phase,
    /// Bytes of data-out that the task wants.
    data_out_len: u32,
    pub(super) data_out: Option<Buffer>,
    /// Bytes of it that have come: what has not come must never reach the disk.
    filled: usize,
    pub(super) last_read: Option<SharedBuffer>,
    pub(super) pass: Option<Pass>,
    /// The initiator may only read here.
    read_only: bool,
    /// Its nexus was recorded beside the device as a writer when it began, or is since.
    pub(super) recorded: bool,
    /// Its buffers, in its initiator's share.
    charge: Charge,
    /// It ends without an answer.
    pub(super) aborted: bool,
    /// Counted as one whose end somebody waits for.
    pub(super) owed: bool,
    /// Who waits for its end.
    pub(super) waits: Vec<usize>,
    began: Instant,
    /// It was told of as slow.
    slow: bool,
}

/// A task's key in the ring and at gates: place and generation.
pub(super) fn key_of(index: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | index as u64
}

pub(super) const fn parts_of(key: u64) -> (usize, u32) {
    ((key & 0xffff_ffff) as usize, (key >> 32) as u32)
}

impl Shard {
    /// A SCSI command arrived.
    pub(super) fn command(&mut self, connection: usize, command: &iscsi::target::Command) {
        let Some(session_index) = self.connections[connection].session else {
            return;
        };
        let session = &mut self.sessions[session_index];
        count(&session.shared.commands, 1);
        let scsi_command = scsi::Command {
            cdb: command.cdb.as_bytes(),
            nexus: &session.shared.nexus,
            read_only: false,
            data_out_len: command.write_len,
            data_in_len: command.read_len,
            luns: &session.numbers,
        };
        let place = single_level(command.lun)
            .and_then(|number| session.luns.iter().position(|lun| lun.number == number));
        let Some(place) = place else {
            let response = scsi::no_such_lun(&scsi_command);
            self.answer(connection, command.task, &response, None);
            return;
        };
        let lun = &mut session.luns[place];
        let scsi_command = scsi::Command {
            read_only: lun.read_only,
            ..scsi_command
        };
        let (task, step) = Task::begin(&scsi_command, &lun.unit.published(), &mut lun.state);
        let telling = lun.in_doubt && lun.state.is_quiet();
        lun.in_doubt &= !telling;
        let running = Running {
            generation: 0,
            connection,
            session: session_index,
            shared: Arc::clone(&session.shared),
            unit: Arc::clone(&lun.unit),
            id: command.task,
            task,
            phase: Phase::Stepping,
            data_out_len: 0,
            data_out: None,
            filled: 0,
            last_read: None,
            pass: None,
            read_only: lun.read_only,
            recorded: lun.recorded == Recorded::Yes,
            charge: Charge::default(),
            aborted: false,
            owed: false,
            waits: Vec::new(),
            began: self.now,
            slow: false,
        };
        self.begun(running, step, telling);
    }

    /// A command with its first step: it is answered at once, or among those that run from now on.
    /// `telling`: a deferred error is told with it.
    fn begun(&mut self, mut running: Running, step: Step, telling: bool) {
        let (session, id) = (running.session, running.id);
        let step = match step {
            Step::Done(response) => {
                self.answer(running.connection, id, &response, None);
                None
            }
            step => Some(step),
        };
        if telling {
            // The deferred error is in the last response, or in one before it.
            let connection = &mut self.connections[running.connection];
            connection.tellings.push(Telling {
                stat_sn: connection.engine.last_stat_sn(),
                unit: Arc::clone(&running.unit),
                nexus: running.shared.nexus.clone(),
            });
        }
        let Some(step) = step else { return };
        running.generation = self.next_generation();
        let index = self.running.insert(running);
        self.sessions[session].tasks.insert(id, index);
        self.step(index, step);
    }

    pub(super) fn step(&mut self, index: usize, step: Step) {
        match step {
            Step::Receive { len } => self.start_receiving(index, len),
            Step::Disk(op) => self.admit(index, op),
            Step::Change(_) if self.running[index].read_only => {
                // Who may only read must not keep others from writing, either.
                let code = scsi::sense::Code::WRITE_PROTECTED;
                self.finish(index, &Response::error(scsi::sense::Key::DataProtect, code));
            }
            Step::Change(change) => self.start_change(index, change),
            Step::Done(response) => self.finish(index, &response),
        }
    }

    fn start_receiving(&mut self, index: usize, len: u32) {
        let running = &mut self.running[index];
        running.data_out_len = len;
        if len == 0 {
            return self.resume(index, |task, unit, nexus| {
                task.resume(Resume::DataOut(&[]), unit, nexus)
            });
        }
        if len > limits::DATA_OUT_BYTES_MAX {
            return self.finish(index, &Response::illegal(scsi::sense::Code::INVALID_FIELD));
        }
        let Some(buffer) = self.take_buffer(index, len as usize) else {
            return self.finish(index, &Response::status(Status::TaskSetFull));
        };
        let running = &mut self.running[index];
        running.data_out = Some(buffer);
        running.phase = Phase::Receiving;
        let (connection, id) = (running.connection, running.id);
        let connection = &mut self.connections[connection];
        connection.engine.solicit_len(id, len, &mut connection.out);
    }

    /// A buffer for a command, within its initiator's share of the pool.
    pub(super) fn take_buffer(&mut self, index: usize, len: usize) -> Option<Buffer> {
        let running = self.running.get_mut(index)?;
        let purse = &self.sessions.get(running.session)?.purse;
        // What the pool really gives: the next power of two.
        let size = len.next_power_of_two().max(ring::buffer::ALIGNMENT);
        if purse.get() + size > self.share {
            return None;
        }
        let buffer = self.pool.take(len)?;
        running.charge.add(purse, size);
        Some(buffer)
    }

    /// A piece of data-out; pieces of commands that ended already are nobody's.
    pub(super) fn data(&mut self, connection: usize, id: TaskId, offset: u32, bytes: &[u8]) {
        let Some(index) = self.find(connection, id) else {
            return;
        };
        let running = &mut self.running[index];
        count(&running.shared.bytes_written, bytes.len() as u64);
        if !matches!(running.phase, Phase::Receiving) {
            return;
        }
        let rest = running
            .data_out
            .as_mut()
            .and_then(|buffer| buffer.get_mut(offset as usize..))
            .unwrap_or_default();
        // An initiator may announce and send more than the CDB calls for; the rest is dropped.
        let len = rest.len().min(bytes.len());
        rest[..len].copy_from_slice(&bytes[..len]);
        running.filled += len;
    }

    pub(super) fn data_complete(&mut self, connection: usize, id: TaskId) {
        let Some(index) = self.find(connection, id) else {
            return;
        };
        let running = &mut self.running[index];
        if !matches!(running.phase, Phase::Receiving) {
            return;
        }
        running.phase = Phase::Stepping;
        let data = running.data_out.take();
        let len = running.data_out_len as usize;
        if running.filled != len {
            tracing::error!(
                filled = running.filled,
                len,
                "data is said to be complete and is not"
            );
            let code = scsi::sense::Code::INTERNAL_FAILURE;
            return self.finish(
                index,
                &Response::error(scsi::sense::Key::AbortedCommand, code),
            );
        }
        let bytes = data
            .as_deref()
            .and_then(|bytes| bytes.get(..len))
            .unwrap_or_default();
        let step = running.task.resume(
            Resume::DataOut(bytes),
            &running.unit.published(),
            &running.shared.nexus,
        );
        running.data_out = data;
        self.step(index, step);
    }

    /// The transfer of a command's data went wrong.
    pub(super) fn transfer_failed(&mut self, connection: usize, id: TaskId, response: &Response) {
        match self.find(connection, id) {
            Some(index) if matches!(self.running[index].phase, Phase::Receiving) => {
                self.finish(index, response);
            }
            // It needed no data; its own end comes.
            Some(_) => {}
            None => self.answer(connection, id, response, None),
        }
    }

    fn start_change(&mut self, index: usize, change: scsi::Change) {
        let running = &mut self.running[index];
        let Some(place) = running.unit.place() else {
            return self.finish(index, &Response::status(Status::Busy));
        };
        let ticket = Arc::new(Ticket::new(place));
        running.phase = Phase::Changing(Arc::clone(&ticket));
        let request = ControlRequest::Change {
            unit: Arc::clone(&running.unit),
            nexus: running.shared.nexus.clone(),
            change,
            ticket,
            reply: Reply {
                shard: self.index,
                key: key_of(index, running.generation),
            },
        };
        if self.links.control.try_send(request).is_err() {
            self.finish(index, &Response::status(Status::Busy));
        }
    }

    /// The control plane answers, perhaps for a command that was aborted meanwhile.
    pub(super) fn changed(&mut self, key: u64, result: Result<(), Response>) {
        let (index, generation) = parts_of(key);
        let current = self
            .running
            .get_mut(index)
            .filter(|r| r.generation == generation);
        let Some(running) = current else { return };
        let phase = std::mem::replace(&mut running.phase, Phase::Stepping);
        if running.aborted {
            return self.end_aborted(index);
        }
        match phase {
            Phase::Changing(_) => self.resume(index, |task, unit, nexus| {
                task.resume(Resume::Changed(result), unit, nexus)
            }),
            phase => running.phase = phase,
        }
    }

    fn resume(
        &mut self,
        index: usize,
        resume: impl FnOnce(&mut Task, &Unit, &scsi::Nexus) -> Step,
    ) {
        let running = &mut self.running[index];
        running.phase = Phase::Stepping;
        let step = resume(
            &mut running.task,
            &running.unit.published(),
            &running.shared.nexus,
        );
        self.step(index, step);
    }

    /// Writes down, once for each, commands that take so long that their initiator is about to lose
    /// patience, and where they are.
    pub(super) fn tell_slow(&mut self) {
        for (_, running) in &mut self.running {
            let age = self.now.saturating_duration_since(running.began);
            if running.slow || age < limits::SLOW_COMMAND {
                continue;
            }
            running.slow = true;
            tracing::warn!(
                device = %running.unit.name,
                initiator = %running.shared.nexus.initiator,
                tag = ?running.id,
                phase = ?running.phase,
                data_out = running.data_out_len,
                filled = running.filled,
                admitted = running.pass.is_some(),
                aborted = running.aborted,
                seconds = age.as_secs(),
                "a command does not end"
            );
        }
    }

    pub(super) fn finish(&mut self, index: usize, response: &Response) {
        let mut running = self.take_out(index);
        self.answer(
            running.connection,
            running.id,
            response,
            running.last_read.as_ref(),
        );
        // What was read goes on counting until it is sent.
        if running.last_read.is_some()
            && let Some(connection) = self.connections.get_mut(running.connection)
        {
            connection
                .queued
                .absorb(std::mem::take(&mut running.charge));
        }
        self.settle(running);
    }

    /// An aborted command has come to its end: no answer.
    pub(super) fn end_aborted(&mut self, index: usize) {
        let running = self.take_out(index);
        if let Some(connection) = self.connections.get_mut(running.connection)
            && connection.session == Some(running.session)
        {
            connection.engine.forget(running.id);
            // The engine may have to tell that the window is open again.
            connection.tick_soon = true;
            self.mark(running.connection);
        }
        self.settle(running);
    }

    fn take_out(&mut self, index: usize) -> Running {
        let running = self.running.remove(index);
        if let Some(session) = self.sessions.get_mut(running.session) {
            session.tasks.remove(&running.id);
        }
        running
    }

    /// Gives the pass back, and tells who waits.
    fn settle(&mut self, mut running: Running) {
        if let Some(pass) = running.pass.take() {
            let grants = running.unit.gate.release(pass);
            self.deliver(&running.unit, grants);
        }
        if running.owed && running.unit.zombie_gone() {
            let unit = Arc::clone(&running.unit);
            if let Some(place) = unit.place() {
                let recovered = ControlRequest::Recovered { place, unit };
                // Without room the control plane's next look finds it.
                let _ = self.links.control.try_send(recovered);
            }
        }
        for wait in running.waits {
            self.waited_for_ended(wait);
        }
    }

    pub(super) fn deliver(&self, unit: &LogicalUnit, grants: Vec<Grant>) {
        message::deliver(&self.links.peers, &unit.gate, grants);
    }

    fn answer(
        &mut self,
        connection: usize,
        id: TaskId,
        response: &Response,
        read: Option<&SharedBuffer>,
    ) {
        let Some(connection_state) = self.connections.get_mut(connection) else {
            return;
        };
        let sense = response
            .sense
            .as_ref()
            .map(scsi::Sense::to_bytes)
            .unwrap_or_default();
        let status = ScsiStatus {
            status: response.status as u8,
            sense: &sense,
            transfer: response.transfer,
        };
        let payload = match (&response.data, read) {
            (DataIn::Inline(bytes), _) => {
                Some((Payload::Inline(bytes.as_slice().into()), bytes.len()))
            }
            (DataIn::Buffer { len }, Some(buffer)) => Some((
                Payload::Disk(buffer.clone()),
                (*len as usize).min(buffer.len()),
            )),
            (DataIn::None, _) | (DataIn::Buffer { .. }, None) => None,
        };
        let (engine, out) = (&mut connection_state.engine, &mut connection_state.out);
        match payload {
            Some((payload, len)) => {
                if let Some(session) = connection_state.session.and_then(|s| self.sessions.get(s)) {
                    session
                        .shared
                        .bytes_read
                        .fetch_add(len as u64, Ordering::Relaxed);
                }
                engine.data_in(id, payload, 0..len, Some(&status), out);
            }
            None => engine.respond(id, &status, out),
        }
        self.mark(connection);
    }

    pub(super) fn find(&self, connection: usize, id: TaskId) -> Option<usize> {
        let session = self.connections.get(connection)?.session?;
        self.sessions.get(session)?.tasks.get(&id).copied()
    }
}

/// The number in a single-level LUN (SAM-5, 4.7): peripheral or flat addressing.
pub(super) fn single_level(lun: u64) -> Option<u16> {
    let [first, second, rest @ ..] = lun.to_be_bytes();
    if rest != [0; 6] {
        return None;
    }
    match first >> 6 {
        0b00 if first == 0 => Some(u16::from(second)),
        0b01 => Some(u16::from(first & 0x3f) << 8 | u16::from(second)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luns_of_one_level() {
        assert_eq!(single_level(0x0007_0000_0000_0000), Some(7));
        assert_eq!(single_level(0x4107_0000_0000_0000), Some(0x107));
        assert_eq!(single_level(0x4007_0000_0000_0000), Some(7));
        assert_eq!(single_level(0x0107_0000_0000_0000), None);
        assert_eq!(single_level(0x0007_0001_0000_0000), None);
        assert_eq!(single_level(0xc101_0000_0000_0000), None);
    }
}

//! Write data: immediate, unsolicited and solicited; R2Ts.

use super::connection::{Connection, Incoming};
use super::event::{AbortReason, Event};
use super::session::{Burst, Task};
use crate::Output;
use crate::command::TaskId;
use crate::pdu::{DataOut, FINAL, Header, NO_TAG, ReadyToTransfer, RejectReason};

/// The data segment that is coming in for a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    task: TaskId,
    kind: Kind,
    /// Place of the segment in the command's data.
    offset: u32,
    len: u32,
    last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Came with the command.
    Immediate,
    /// Came without being asked for.
    Unsolicited,
    /// Answers the R2T with this tag.
    Solicited(u32),
}

impl Transfer {
    /// The data that comes with a command.
    pub(super) const fn immediate(task: TaskId, len: u32) -> Self {
        Self {
            task,
            kind: Kind::Immediate,
            offset: 0,
            len,
            last: false,
        }
    }
}

impl Connection {
    /// The header of a Data-Out PDU.
    pub(super) fn data_out<O: Output>(&mut self, header: &Header, out: &mut O) -> Incoming {
        let data = DataOut::decode(header);
        let found = if data.ttt == NO_TAG {
            self.session
                .find(data.itt)
                .map(|task| (task, Kind::Unsolicited))
        } else {
            let task = self.session.by_transfer_tag(data.ttt, data.itt);
            task.map(|task| (task, Kind::Solicited(data.ttt)))
        };
        // Data for a task that has ended: an aborted one, or one answered early.
        let Some((task, kind)) = found else {
            return Incoming::Swallow;
        };
        let len = header.data_len();
        let last = data.flags & FINAL != 0;
        let first_burst = self.negotiated.first_burst_length;
        let verdict = self.session.with(task, |task| match kind {
            Kind::Solicited(ttt) => check_solicited(task, ttt, &data, len),
            _ => check_unsolicited(task, &data, len, first_burst),
        });
        match verdict {
            None | Some(Verdict::Stray) => {
                self.reject(RejectReason::InvalidField, out);
                return Incoming::Swallow;
            }
            Some(Verdict::Take) => {}
            Some(Verdict::Fail(reason)) => {
                if reason == AbortReason::Sequence {
                    self.reject(RejectReason::Protocol, out);
                }
                self.session
                    .with(task, |task| task.failed.get_or_insert(reason).to_owned());
            }
        }
        let offset = data.buffer_offset;
        Incoming::Transfer(Transfer {
            task,
            kind,
            offset,
            len,
            last,
        })
    }

    /// A piece of a task's data, unless nobody wants it any more.
    pub(super) fn transfer_piece<'b>(
        &self,
        transfer: Transfer,
        offset: u32,
        bytes: &'b [u8],
    ) -> Option<Event<'b>> {
        let task = self.session.get(transfer.task)?;
        if task.failed.is_some() {
            return None;
        }
        let offset = transfer.offset.saturating_add(offset);
        Some(Event::Data {
            task: transfer.task,
            offset,
            bytes,
        })
    }

    /// The end of a PDU with a task's data.
    pub(super) fn transfer_end<O: Output>(
        &mut self,
        transfer: Transfer,
        intact: bool,
        out: &mut O,
    ) {
        let first_burst = self.negotiated.first_burst_length;
        let alive = self.session.with(transfer.task, |task| {
            task.expecting = None;
            if !intact {
                task.failed.get_or_insert(AbortReason::DataDigest);
            }
            if let Err(reason) = settle(task, &transfer, first_burst) {
                task.failed.get_or_insert(reason);
            }
        });
        if alive.is_some() {
            self.progress(transfer.task, out);
        }
    }

    /// Asks for all data of a write that does not come unsolicited; [`Event::DataComplete`] follows
    /// (through [`Connection::next`], even without further input when all is there already).
    pub fn solicit<O: Output>(&mut self, task: TaskId, out: &mut O) {
        self.solicit_len(task, u32::MAX, out);
    }

    /// As [`Connection::solicit`], but asks for no more than the first `len` bytes of the data.
    pub fn solicit_len<O: Output>(&mut self, task: TaskId, len: u32, out: &mut O) {
        let alive = self.session.with(task, |task| {
            task.wanted = Some(len.min(task.write_len()));
        });
        if alive.is_some() {
            self.progress(task, out);
        }
    }

    /// Sends R2Ts, or tells the service how a transfer ended.
    fn progress<O: Output>(&mut self, id: TaskId, out: &mut O) {
        let told = self.session.with(id, |task| {
            if task.failure_told || task.complete {
                return None;
            }
            if let Some(reason) = task.failed {
                // What has been asked for has to come in before the failure can be answered.
                task.failure_told = task.quiet();
                return task
                    .failure_told
                    .then_some(Event::TaskAborted { task: id, reason });
            }
            let wanted = task.wanted?;
            task.complete = task.quiet() && task.received >= wanted;
            task.complete.then_some(Event::DataComplete { task: id })
        });
        match told {
            Some(Some(event)) => self.events.push_back(event),
            Some(None) => self.send_r2ts(id, out),
            None => {}
        }
    }

    fn send_r2ts<O: Output>(&mut self, id: TaskId, out: &mut O) {
        while let Some(r2t) = self.next_r2t(id) {
            self.send(r2t.encode(), &[], out);
        }
    }

    /// The next R2T of a task, if one may be sent now.
    fn next_r2t(&mut self, id: TaskId) -> Option<ReadyToTransfer> {
        let most = usize::from(self.negotiated.max_outstanding_r2t);
        let max_burst = self.negotiated.max_burst_length;
        let task = self.session.get(id)?;
        let wanted = task.wanted?;
        let coming = task.immediate_data || task.unsolicited;
        if task.failed.is_some() || task.complete || coming || task.bursts.len() >= most {
            return None;
        }
        let left = wanted
            .checked_sub(task.next_offset)
            .filter(|left| *left > 0)?;
        let ttt = self.session.transfer_tag(id);
        let stat_sn = self.stat_sn();
        let (exp_cmd_sn, max_cmd_sn) = self.session.window();
        self.session.with(id, |task| {
            let len = left.min(max_burst);
            let burst = Burst {
                ttt,
                offset: task.next_offset,
                len,
                received: 0,
                data_sn: 0,
            };
            task.bursts.push(burst);
            task.next_offset = task.next_offset.saturating_add(len);
            let r2t_sn = task.r2t_sn;
            task.r2t_sn = r2t_sn.wrapping_add(1);
            ReadyToTransfer {
                flags: FINAL,
                lun: task.lun,
                itt: task.itt,
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                r2t_sn,
                buffer_offset: burst.offset,
                desired_len: len,
            }
        })
    }
}

/// What is to be done with a Data-Out PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its data is good.
    Take,
    /// Its data is not, and the task fails; sequences are still followed to their end.
    Fail(AbortReason),
    /// Nobody asked for it.
    Stray,
}

fn check_solicited(task: &mut Task, ttt: u32, data: &DataOut, len: u32) -> Verdict {
    let failed = task.failed.is_some();
    let Some(burst) = task.bursts.iter_mut().find(|burst| burst.ttt == ttt) else {
        return Verdict::Stray;
    };
    let expected = burst.offset.saturating_add(burst.received);
    let in_order = data.data_sn == burst.data_sn && data.buffer_offset == expected;
    burst.data_sn = burst.data_sn.wrapping_add(1);
    if failed {
        return Verdict::Take;
    }
    if !in_order {
        return Verdict::Fail(AbortReason::Sequence);
    }
    match burst.received.checked_add(len) {
        Some(received) if received <= burst.len => Verdict::Take,
        _ => Verdict::Fail(AbortReason::IncorrectAmount),
    }
}

fn check_unsolicited(task: &mut Task, data: &DataOut, len: u32, first_burst: u32) -> Verdict {
    if !task.unsolicited {
        // After the announced sequence has ended, or without one.
        return if task.failed.is_some() {
            Verdict::Take
        } else {
            Verdict::Stray
        };
    }
    let in_order = data.data_sn == task.unsolicited_sn && data.buffer_offset == task.received;
    task.unsolicited_sn = task.unsolicited_sn.wrapping_add(1);
    if task.failed.is_some() {
        return Verdict::Take;
    }
    if !in_order {
        return Verdict::Fail(AbortReason::Sequence);
    }
    match task.received.checked_add(len) {
        Some(received) if received <= first_burst.min(task.write_len()) => Verdict::Take,
        _ => Verdict::Fail(AbortReason::UnexpectedData),
    }
}

/// Books what came in with one PDU; an error where a sequence ended with a wrong amount.
fn settle(task: &mut Task, transfer: &Transfer, first_burst: u32) -> Result<(), AbortReason> {
    let good = task.failed.is_none();
    let received = task
        .received
        .saturating_add(if good { transfer.len } else { 0 });
    match transfer.kind {
        // Without immediate data, R2Ts may be on their way already.
        Kind::Immediate if !task.immediate_data => Ok(()),
        Kind::Immediate => {
            task.immediate_data = false;
            task.received = received;
            task.next_offset = received;
            Ok(())
        }
        Kind::Unsolicited => {
            task.received = received;
            task.next_offset = received;
            if !transfer.last {
                return Ok(());
            }
            task.unsolicited = false;
            // Who has more than a first burst to send and sends unsolicited, sends a first burst.
            let short = task.write_len() > first_burst && received != first_burst;
            if good && short {
                Err(AbortReason::IncorrectAmount)
            } else {
                Ok(())
            }
        }
        Kind::Solicited(ttt) => {
            let Some(at) = task.bursts.iter().position(|burst| burst.ttt == ttt) else {
                return Ok(());
            };
            task.received = received;
            let mut short = false;
            if let Some(burst) = task.bursts.get_mut(at) {
                burst.received = burst
                    .received
                    .saturating_add(if good { transfer.len } else { 0 });
                short = burst.received != burst.len;
            }
            // A burst also ends when it is full, whatever its F bit says.
            if transfer.last || !short {
                task.bursts.remove(at);
            }
            if good && transfer.last && short {
                Err(AbortReason::IncorrectAmount)
            } else {
                Ok(())
            }
        }
    }
}

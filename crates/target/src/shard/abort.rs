//! What ends early: task management, barriers, ended sessions.
//!
//! "Complete" is answered only when the affected I/O has ended: an operation given to the kernel
//! cannot be recalled. Whoever has to wait for commands enters a [`Wait`]; each of the commands
//! carries its number and counts it down at its end. Past the bound ([`crate::limits::DRAIN_TIME_MAX`]) a waiting
//! initiator is told of a failure and the unit goes NOT READY until it has drained.

use std::sync::Arc;
use std::time::Instant;

use iscsi::target::{Tmf, TmfFunction, TmfResponse};
use scsi::Attention;
use tokio::sync::oneshot;

use super::Shard;
use super::command::{Phase, key_of, single_level};
use crate::gate::Waiter;
use crate::message::{Abort, ConnectionId, ControlRequest, Reply, ResetKind, UnitWork};
use crate::unit::LogicalUnit;

/// Somebody waits for commands to end.
pub(super) struct Wait {
    remaining: usize,
    then: Then,
    deadline: Instant,
    overdue: bool,
}

/// What happens when they have.
pub(super) enum Then {
    /// The control plane goes on.
    Tell(oneshot::Sender<()>),
    /// A task management function is complete.
    Respond { connection: ConnectionId, tag: u32 },
    /// The session is over.
    SessionEnded(usize),
    /// The logout is answered.
    LoggedOut { connection: ConnectionId },
}

impl Shard {
    /// Enters a wait that nothing counts against yet.
    fn open_wait(&mut self, then: Then) -> usize {
        self.waits.insert(Wait {
            // One for the opener, so that it cannot end while commands are being added.
            remaining: 1,
            then,
            deadline: self.now + self.links.shared.drain_time,
            overdue: false,
        })
    }

    pub(super) fn waited_for_ended(&mut self, wait: usize) {
        let entry = &mut self.waits[wait];
        entry.remaining -= 1;
        if entry.remaining > 0 {
            return;
        }
        let entry = self.waits.remove(wait);
        match entry.then {
            Then::Tell(done) => {
                // Nobody listens any more where the bound was passed.
                let _ = done.send(());
            }
            Then::Respond { connection, tag } if !entry.overdue => {
                self.respond_tmf(connection, tag, TmfResponse::Complete);
            }
            Then::Respond { .. } => {}
            Then::SessionEnded(session) => self.session_over(session),
            Then::LoggedOut { connection } => self.logged_out(connection),
        }
    }

    /// Lets the wait depend on this command's end.
    fn wait_for(&mut self, wait: usize, index: usize) {
        self.waits[wait].remaining += 1;
        let running = &mut self.running[index];
        running.waits.push(wait);
        if !running.owed {
            running.owed = true;
            running.unit.zombie_born();
        }
    }

    /// Ends a command: at once where nothing is under way, else when it comes back.
    fn abort(&mut self, index: usize, wait: usize) {
        // Gone where its end was part of what an earlier one in the same list led to.
        let Some(running) = self.running.get_mut(index) else {
            return;
        };
        let key = key_of(index, running.generation);
        running.aborted = true;
        let ends_now = match &running.phase {
            // The note that its nexus writes may be made all the same, which does no harm.
            Phase::Receiving | Phase::Recording(_) => true,
            Phase::Queued(_) => {
                let waiter = Waiter {
                    shard: self.index,
                    key,
                };
                let (left, grants) = running.unit.gate.leave(waiter);
                let unit = Arc::clone(&running.unit);
                self.deliver(&unit, grants);
                left
            }
            Phase::Changing(ticket) => ticket.cancel(),
            Phase::Disk(_) | Phase::Stepping => false,
        };
        if ends_now {
            self.end_aborted(index);
        } else {
            self.wait_for(wait, index);
        }
    }

    pub(super) fn tasks_where(&self, wanted: impl Fn(&super::Running) -> bool) -> Vec<usize> {
        self.running
            .iter()
            .filter(|(_, running)| wanted(running))
            .map(|(index, _)| index)
            .collect()
    }

    /// A barrier of the control plane: from here on this shard decides by what is published now.
    pub(super) fn work(&mut self, work: &UnitWork, done: oneshot::Sender<()>) {
        for (_, session) in &mut self.sessions {
            session.attend(&work.unit, &work.attentions);
            if work.doubt {
                session.doubt(&work.unit);
            }
        }
        if work.doubt {
            // A write that waits for its data has begun under another document.
            for (_, running) in &mut self.running {
                running.recorded &= !Arc::ptr_eq(&running.unit, &work.unit);
            }
        }
        let wait = self.open_wait(Then::Tell(done));
        let of_unit = |unit: &Arc<LogicalUnit>| Arc::ptr_eq(unit, &work.unit);
        let aborted = match &work.abort {
            Abort::None => Vec::new(),
            Abort::Nexuses(nexuses) => self.tasks_where(|running| {
                of_unit(&running.unit) && nexuses.contains(&running.shared.nexus)
            }),
            Abort::All => self.tasks_where(|running| of_unit(&running.unit)),
        };
        for index in aborted {
            let Some(running) = self.running.get(index) else {
                continue;
            };
            let key = key_of(index, running.generation);
            let asked = |by: Reply| by.shard == self.index && by.key == key;
            if work.asked_by.is_some_and(asked) {
                continue;
            }
            if let Some(by) = &work.cleared_by
                && running.shared.nexus != *by
                && let Some(session) = self.sessions.get_mut(running.session)
            {
                session.attend_one(&work.unit, Attention::CommandsCleared);
            }
            self.abort(index, wait);
        }
        // Aborted ones, too: their writes can still land.
        if work.drain {
            let on_disk = self.tasks_where(|running| {
                of_unit(&running.unit) && matches!(running.phase, Phase::Disk(_))
            });
            for index in on_disk {
                self.wait_for(wait, index);
            }
        }
        self.waited_for_ended(wait);
    }

    /// A task management request arrived (RFC 7143, 11.5).
    pub(super) fn task_management(&mut self, connection: usize, request: &Tmf) {
        let Some(id) = self.id_of(connection) else {
            return;
        };
        let tag = request.itt;
        let Some(session) = self.connections[connection].session else {
            return;
        };
        let unit = single_level(request.lun)
            .and_then(|number| self.sessions[session].find(number))
            .map(|lun| Arc::clone(&lun.unit));
        if let Some(refusal) = self.refusal(session, request, unit.is_some()) {
            return self.respond_tmf(id, tag, refusal);
        }
        let then = Then::Respond {
            connection: id,
            tag,
        };
        match request.function {
            TmfFunction::AbortTask => {
                let task = request.referenced;
                match task.and_then(|task| self.find(connection, task)) {
                    Some(index) => self.abort_all(vec![index], then),
                    None => self.respond_tmf(id, tag, TmfResponse::TaskDoesNotExist),
                }
            }
            TmfFunction::AbortTaskSet => {
                let is_on_unit = |of: &Arc<LogicalUnit>| {
                    let unit = unit.as_ref();
                    unit.is_some_and(|unit| Arc::ptr_eq(unit, of))
                };
                let tasks = self
                    .tasks_where(|running| running.session == session && is_on_unit(&running.unit));
                self.abort_all(tasks, then);
            }
            TmfFunction::ClearTaskSet => {
                let units = unit.into_iter().collect();
                self.ask_reset(id, session, tag, units, ResetKind::ClearTaskSet);
            }
            TmfFunction::LogicalUnitReset => {
                let units = unit.into_iter().collect();
                self.ask_reset(id, session, tag, units, ResetKind::Unit);
            }
            TmfFunction::TargetWarmReset | TmfFunction::TargetColdReset => {
                let units = self.sessions[session].units();
                self.ask_reset(id, session, tag, units, ResetKind::Unit);
            }
            TmfFunction::TaskReassign => {
                self.respond_tmf(id, tag, TmfResponse::ReassignNotSupported);
            }
            TmfFunction::ClearAca
            | TmfFunction::QueryTask
            | TmfFunction::QueryTaskSet
            | TmfFunction::NexusReset
            | TmfFunction::QueryAsyncEvent => {
                self.respond_tmf(id, tag, TmfResponse::NotSupported);
            }
        }
    }

    /// What keeps a session from a task management function, whatever runs.
    fn refusal(&self, session: usize, request: &Tmf, has_unit: bool) -> Option<TmfResponse> {
        let resets = matches!(
            request.function,
            TmfFunction::ClearTaskSet
                | TmfFunction::LogicalUnitReset
                | TmfFunction::TargetWarmReset
                | TmfFunction::TargetColdReset
        );
        // Who may only read must not end what others do.
        let luns = &self.sessions[session].luns;
        if resets
            && luns
                .iter()
                .any(|lun| lun.read_only && concerns(lun, request))
        {
            return Some(TmfResponse::AuthorizationFailed);
        }
        let needs_unit = matches!(
            request.function,
            TmfFunction::AbortTaskSet | TmfFunction::ClearTaskSet | TmfFunction::LogicalUnitReset
        );
        (needs_unit && !has_unit).then_some(TmfResponse::LunDoesNotExist)
    }

    pub(super) fn abort_all(&mut self, tasks: Vec<usize>, then: Then) {
        let wait = self.open_wait(then);
        for index in tasks {
            self.abort(index, wait);
        }
        self.waited_for_ended(wait);
    }

    /// All commands of a session end.
    pub(super) fn abort_session(&mut self, session: usize, then: Then) {
        let tasks = self.tasks_where(|running| running.session == session && !running.aborted);
        let ending = self.tasks_where(|running| running.session == session && running.aborted);
        let wait = self.open_wait(then);
        for index in ending {
            self.wait_for(wait, index);
        }
        for index in tasks {
            self.abort(index, wait);
        }
        self.waited_for_ended(wait);
    }

    fn ask_reset(
        &mut self,
        connection: ConnectionId,
        session: usize,
        tag: u32,
        units: Vec<Arc<LogicalUnit>>,
        kind: ResetKind,
    ) {
        // A unit that is stuck, or has too much to do, fails the function at once.
        let places = units.into_iter().map(|unit| {
            let place = unit.place().filter(|_| !unit.is_stuck())?;
            Some((unit, place))
        });
        let Some(units) = places.collect() else {
            return self.respond_tmf(connection, tag, TmfResponse::Rejected);
        };
        let request = ControlRequest::Reset {
            units,
            by: self.sessions[session].shared.nexus.clone(),
            kind,
            shard: self.index,
            connection,
            tag,
        };
        if self.links.control.try_send(request).is_err() {
            self.respond_tmf(connection, tag, TmfResponse::Rejected);
        }
    }

    pub(super) fn reset_done(&mut self, connection: ConnectionId, tag: u32, complete: bool) {
        let response = if complete {
            TmfResponse::Complete
        } else {
            TmfResponse::Rejected
        };
        self.respond_tmf(connection, tag, response);
    }

    fn respond_tmf(&mut self, id: ConnectionId, tag: u32, response: TmfResponse) {
        let Some((index, connection)) = self.connection(id) else {
            return;
        };
        connection
            .engine
            .tmf_respond(tag, response, &mut connection.out);
        self.mark(index);
    }

    /// Waits past their bound: tell the initiator, and declare the units stuck.
    pub(super) fn check_waits(&mut self) {
        let now = self.now;
        let late: Vec<usize> = self
            .waits
            .iter()
            .filter(|(_, wait)| !wait.overdue && now >= wait.deadline)
            .map(|(index, _)| index)
            .collect();
        for wait in late {
            self.waits[wait].overdue = true;
            if let Then::Respond { connection, tag } = self.waits[wait].then {
                self.respond_tmf(connection, tag, TmfResponse::Rejected);
            }
            let mut units: Vec<Arc<LogicalUnit>> = Vec::new();
            for (_, running) in &self.running {
                let known = |unit: &Arc<LogicalUnit>| Arc::ptr_eq(unit, &running.unit);
                if running.waits.contains(&wait) && !units.iter().any(known) {
                    units.push(Arc::clone(&running.unit));
                }
            }
            for unit in units {
                self.tell_stuck(unit);
            }
        }
    }
}

impl Shard {
    /// Where there is no room, somebody who waits for the same commands at the control plane finds
    /// out by himself.
    fn tell_stuck(&self, unit: Arc<LogicalUnit>) {
        if unit.is_stuck() {
            return;
        }
        if let Some(place) = unit.place() {
            let _ = self
                .links
                .control
                .try_send(ControlRequest::Stuck { place, unit });
        }
    }
}

/// Whether a reset ends commands of this LUN.
fn concerns(lun: &super::session::SessionLun, request: &Tmf) -> bool {
    match request.function {
        TmfFunction::ClearTaskSet | TmfFunction::LogicalUnitReset => {
            single_level(request.lun) == Some(lun.number)
        }
        _ => true,
    }
}

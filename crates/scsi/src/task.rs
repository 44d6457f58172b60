//! A running command: from its CDB through disk steps and changes to its response.

use crate::attention::NexusState;
use crate::command::{Command, DiskResult, Footprint, Response, Resume, Step};
use crate::job::{Job, Turn};
use crate::nexus::Nexus;
use crate::opcodes::{self, Found, Opcode, Start};
use crate::sense::{Code, Format};
use crate::unit::Unit;
use crate::wire::Cdb;
use crate::{inquiry, luns, request_sense};

/// A running command. Never waits; every disk step it emits was checked against the unit given in that
/// very call.
#[derive(Debug)]
pub struct Task {
    cdb: Cdb,
    opcode: Option<&'static Opcode>,
    /// The access rule of the initiator.
    read_only: bool,
    job: Job,
    /// The disk step that is out changes blocks.
    writing: bool,
}

impl Task {
    /// Starts a command: reports a pending attention in its place, checks it against the unit, and says
    /// what comes first.
    pub fn begin(command: &Command<'_>, unit: &Unit, state: &mut NexusState) -> (Self, Step) {
        let cdb = Cdb::new(command.cdb);
        let mut task = Self {
            cdb,
            opcode: None,
            read_only: command.read_only,
            job: Job::Spent,
            writing: false,
        };
        let start = Start { cdb, command, unit };
        match task.open(&start, state) {
            Ok(job) => task.job = job,
            Err(response) => return (task, done(response, unit)),
        }
        let turn = task.job.start();
        let step = task.take(turn, unit, command.nexus);
        (task, step)
    }

    fn open(&mut self, start: &Start<'_>, state: &mut NexusState) -> Result<Job, Response> {
        let found = opcodes::find(start.unit, self.cdb.opcode(), self.cdb.u8(1) & 0x1f);
        let through = matches!(found, Found::Command(opcode) if opcode.through_attention);
        if !through && let Some(sense) = state.take() {
            return Err(Response::check(sense));
        }
        let opcode = match found {
            Found::Command(opcode) => opcode,
            Found::NoAction => return Err(Response::invalid_cdb(1, Some(4))),
            Found::Nothing => return Err(Response::illegal(Code::INVALID_OPCODE)),
        };
        // NACA: auto contingent allegiance is not offered.
        let control = opcode.usage.len();
        if self.cdb.bit(control, 0x04) {
            return Err(Response::invalid_cdb(crate::wire::len16(control), Some(2)));
        }
        self.opcode = Some(opcode);
        self.gate(start.unit, start.command.nexus)?;
        (opcode.handler)(start, state)
    }

    /// Goes on with what [`Step`] asked for.
    pub fn resume(&mut self, with: Resume<'_>, unit: &Unit, nexus: &Nexus) -> Step {
        if let Resume::Disk(DiskResult::Failed(fault)) = with {
            return self.end(Response::fault(fault, self.writing), unit);
        }
        let turn = self.job.resume(with, unit);
        self.take(turn, unit, nexus)
    }

    /// Turns what the job wants into a step; a disk step only after the checks.
    fn take(&mut self, turn: Turn, unit: &Unit, nexus: &Nexus) -> Step {
        match turn {
            Turn::Receive(len) => Step::Receive { len },
            Turn::Change(change) => Step::Change(change),
            Turn::Done(response) => self.end(response, unit),
            Turn::Disk(op) => match self.recheck(unit, nexus) {
                Ok(()) => {
                    self.writing = op.writes();
                    Step::Disk(op)
                }
                Err(response) => self.end(response, unit),
            },
        }
    }

    fn end(&mut self, mut response: Response, unit: &Unit) -> Step {
        if response.transfer == 0 {
            response.transfer = self.job.transfer();
        }
        self.job = Job::Spent;
        done(response, unit)
    }

    /// Blocks it will change, for the unit's range table: taken before the first disk step, held until
    /// it is done. For UNMAP known only once its data-out has arrived.
    pub fn footprint(&self) -> Footprint {
        self.job.footprint()
    }

    /// Checks again against a newer unit, after waiting for the range table.
    ///
    /// # Errors
    ///
    /// The response to end the command with.
    pub fn recheck(&self, unit: &Unit, nexus: &Nexus) -> Result<(), Response> {
        self.gate(unit, nexus)?;
        if self.job.end_block() > unit.blocks {
            return Err(finished(
                Response::illegal(Code::LBA_RANGE),
                unit.sense_format(),
            ));
        }
        Ok(())
    }

    /// Reservations, medium, write protection: in the order that SPC ranks them.
    fn gate(&self, unit: &Unit, nexus: &Nexus) -> Result<(), Response> {
        let Some(opcode) = self.opcode else {
            return Ok(());
        };
        if !unit.allows(nexus, opcode.access(&self.cdb)) {
            return Err(Response::conflict());
        }
        let medium = unit
            .medium
            .trouble(unit.kind)
            .filter(|_| opcode.needs_medium());
        let protect = || {
            unit.write_trouble(self.read_only)
                .filter(|_| opcode.writes())
        };
        match medium.or_else(protect) {
            Some(sense) => Err(finished(Response::check(sense), unit.sense_format())),
            None => Ok(()),
        }
    }
}

fn done(response: Response, unit: &Unit) -> Step {
    Step::Done(finished(response, unit.sense_format()))
}

/// Lays the sense data out as the control mode page asks.
fn finished(mut response: Response, format: Format) -> Response {
    if let Some(sense) = &mut response.sense {
        sense.format = format;
    }
    response
}

/// Answers a command to a LUN that the initiator's map does not have: INQUIRY says that there is none,
/// REPORT LUNS tells those there are, REQUEST SENSE tells the error; all else is an error.
pub fn no_such_lun(command: &Command<'_>) -> Response {
    let cdb = Cdb::new(command.cdb);
    match cdb.opcode() {
        0x12 => inquiry::absent(&cdb),
        0xa0 => luns::report(&cdb, command.luns).unwrap_or_else(|error| error),
        0x03 => request_sense::no_such_lun(&cdb),
        _ => Response::illegal(Code::NO_SUCH_LUN),
    }
}

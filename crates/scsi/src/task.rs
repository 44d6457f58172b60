//! A running command.

use crate::attention::NexusState;
use crate::command::{Command, Footprint, Response, Resume, Step};
use crate::nexus::Nexus;
use crate::sense::{Code, Key, Sense};
use crate::unit::Unit;

/// A running command. Never waits; every disk step it emits was checked against the unit given in that
/// very call.
#[derive(Debug)]
pub struct Task {
    footprint: Footprint,
}

impl Task {
    /// Starts a command: reports a pending attention in its place, checks it against the unit, and says
    /// what comes first.
    pub fn begin(command: &Command<'_>, unit: &Unit, state: &mut NexusState) -> (Self, Step) {
        let task = Self {
            footprint: Footprint::None,
        };
        let mut response = match state.take() {
            Some(sense) => Response::check(sense),
            None if command.cdb.first() == Some(&0) => Response::good(),
            None => Response::illegal(Code::INVALID_OPCODE),
        };
        if let Some(sense) = &mut response.sense {
            sense.format = unit.sense_format();
        }
        (task, Step::Done(response))
    }

    /// Goes on with what [`Step`] asked for.
    pub fn resume(&mut self, with: Resume<'_>, unit: &Unit, nexus: &Nexus) -> Step {
        let _ = (with, unit, nexus);
        Step::Done(Response::error(Key::AbortedCommand, Code::INTERNAL_FAILURE))
    }

    /// Blocks it will change, for the unit's range table: taken before the first disk step, held until
    /// it is done.
    pub fn footprint(&self) -> Footprint {
        self.footprint.clone()
    }

    /// Checks again against a newer unit, after waiting for the range table.
    ///
    /// # Errors
    ///
    /// The response to end the command with.
    pub fn recheck(&self, unit: &Unit, nexus: &Nexus) -> Result<(), Response> {
        let _ = (unit, nexus);
        Ok(())
    }
}

/// Answers a command to a LUN that the initiator's map does not have.
pub fn no_such_lun(command: &Command<'_>) -> Response {
    let _ = command;
    Response::check(Sense::new(Key::IllegalRequest, Code::NO_SUCH_LUN))
}

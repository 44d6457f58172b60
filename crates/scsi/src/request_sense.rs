//! REQUEST SENSE.

use crate::attention::NexusState;
use crate::command::Response;
use crate::job::Job;
use crate::opcodes::{Begun, Start};
use crate::sense::{Code, Format, Key, Sense};
use crate::wire::Cdb;

/// Tells what is pending, and takes it away by telling it. Errors of commands are not kept: they went
/// out with their status.
pub(crate) fn begin(start: &Start<'_>, state: &mut NexusState) -> Begun {
    let sense = state.take().unwrap_or(Sense::new(Key::NoSense, Code::NONE));
    Ok(Job::Answer(answer(&start.cdb, sense)))
}

pub(crate) fn no_such_lun(cdb: &Cdb) -> Response {
    answer(cdb, Sense::new(Key::IllegalRequest, Code::NO_SUCH_LUN))
}

/// As data; the DESC bit chooses the format, not the control mode page.
fn answer(cdb: &Cdb, mut sense: Sense) -> Response {
    sense.format = if cdb.bit(1, 0x01) {
        Format::Descriptor
    } else {
        Format::Fixed
    };
    Response::data(sense.to_bytes(), u32::from(cdb.u8(4)))
}

//! The table of commands: the one place that says which there are.
//!
//! It drives the dispatcher, REPORT SUPPORTED OPERATION CODES and the reservation class of each
//! command, so that these cannot disagree.

use crate::attention::NexusState;
use crate::command::{Command, Response};
use crate::job::Job;
use crate::reservation::Access;
use crate::unit::{Kind, Unit};
use crate::wire::Cdb;
use crate::{
    block, diagnostics, inquiry, luns, medium, mode, optical, persistent, ports, request_sense,
    supported,
};

/// What a handler starts from; the gate of the command has been passed.
pub(crate) struct Start<'a> {
    pub(crate) cdb: Cdb,
    pub(crate) command: &'a Command<'a>,
    pub(crate) unit: &'a Unit,
}

/// A job to run, or the error that ends the command.
pub(crate) type Begun = Result<Job, Response>;

/// Starts a command.
pub(crate) type Handler = fn(&Start<'_>, &mut NexusState) -> Begun;

/// Which devices have a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Has {
    /// Disks.
    Disk,
    /// Disks whose blocks can be unmapped.
    Thin,
    /// Optical drives.
    Optical,
    /// Both.
    Both,
}

/// How reservations see a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    /// The same whatever its fields say.
    Fixed(Access),
    /// START STOP UNIT: starting is free.
    StartStop,
    /// PREVENT ALLOW MEDIUM REMOVAL: allowing is free.
    Prevent,
}

/// What must hold before a command runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Needs {
    /// Nothing.
    Nothing,
    /// A medium.
    Medium,
    /// A medium that may be written.
    Writable,
}

/// One command, or one service action of one.
#[derive(Debug)]
pub(crate) struct Opcode {
    /// OPERATION CODE.
    pub(crate) code: u8,
    /// SERVICE ACTION, where the code has any.
    pub(crate) action: Option<u8>,
    /// CDB USAGE DATA: a bit map of what is looked at, after the code; its length is the CDB's.
    pub(crate) usage: &'static [u8],
    /// Seconds to give it before asking what became of it.
    pub(crate) timeout_seconds: u32,
    has: Has,
    class: Class,
    needs: Needs,
    /// Runs in spite of a pending unit attention.
    pub(crate) through_attention: bool,
    pub(crate) handler: Handler,
}

impl Opcode {
    /// How reservations see this command.
    pub(crate) fn access(&self, cdb: &Cdb) -> Access {
        match self.class {
            Class::Fixed(access) => access,
            Class::StartStop if cdb.u8(4) & 0xf1 == 1 => Access::Free,
            Class::Prevent if cdb.u8(4) & 0x03 == 0 => Access::Free,
            Class::StartStop | Class::Prevent => Access::Write,
        }
    }

    pub(crate) fn needs_medium(&self) -> bool {
        self.needs != Needs::Nothing
    }

    pub(crate) fn writes(&self) -> bool {
        self.needs == Needs::Writable
    }

    pub(crate) fn is_on(&self, unit: &Unit) -> bool {
        match self.has {
            Has::Both => true,
            Has::Disk => unit.kind == Kind::Disk,
            Has::Thin => unit.kind == Kind::Disk && unit.thin,
            Has::Optical => unit.kind == Kind::Optical,
        }
    }
}

/// What looking for a command finds.
pub(crate) enum Found {
    /// The command.
    Command(&'static Opcode),
    /// The operation code, but not this service action.
    NoAction,
    /// Not even the operation code.
    Nothing,
}

/// The commands a unit has, in the order of the table.
pub(crate) fn all(unit: &Unit) -> impl Iterator<Item = &'static Opcode> {
    TABLE.iter().filter(move |opcode| opcode.is_on(unit))
}

/// Finds the command of a CDB.
pub(crate) fn find(unit: &Unit, code: u8, action: u8) -> Found {
    let mut found = Found::Nothing;
    for opcode in all(unit).filter(|opcode| opcode.code == code) {
        if opcode.action.is_none_or(|a| a == action) {
            return Found::Command(opcode);
        }
        found = Found::NoAction;
    }
    found
}

const FREE: Class = Class::Fixed(Access::Free);
const READ: Class = Class::Fixed(Access::Read);
const WRITE: Class = Class::Fixed(Access::Write);

/// Seconds for what answers from memory.
const QUICK: u32 = 10;
/// Seconds for what may wait for a disk.
const SLOW: u32 = 60;

/// A command that both kinds of device have, that needs no medium.
const fn both(code: u8, class: Class, usage: &'static [u8], handler: Handler) -> Opcode {
    Opcode {
        code,
        action: None,
        usage,
        timeout_seconds: QUICK,
        has: Has::Both,
        class,
        needs: Needs::Nothing,
        through_attention: false,
        handler,
    }
}

/// A disk command that moves or looks at blocks.
const fn disk(code: u8, class: Class, usage: &'static [u8], handler: Handler) -> Opcode {
    let mut opcode = both(code, class, usage, handler);
    opcode.has = Has::Disk;
    opcode.needs = Needs::Medium;
    opcode.timeout_seconds = SLOW;
    opcode
}

/// A disk command that changes blocks.
const fn write(code: u8, usage: &'static [u8], handler: Handler) -> Opcode {
    let mut opcode = disk(code, WRITE, usage, handler);
    opcode.needs = Needs::Writable;
    opcode
}

impl Opcode {
    const fn action(mut self, action: u8) -> Self {
        self.action = Some(action);
        self
    }

    const fn also_optical(mut self) -> Self {
        self.has = Has::Both;
        self
    }

    const fn only_optical(mut self) -> Self {
        self.has = Has::Optical;
        self
    }

    const fn only_thin(mut self) -> Self {
        self.has = Has::Thin;
        self
    }

    const fn without_medium(mut self) -> Self {
        self.needs = Needs::Nothing;
        self
    }

    const fn with_medium(mut self) -> Self {
        self.needs = Needs::Medium;
        self
    }

    const fn through_attention(mut self) -> Self {
        self.through_attention = true;
        self
    }

    const fn slow(mut self) -> Self {
        self.timeout_seconds = SLOW;
        self
    }
}

/// NACA, the one bit of CONTROL that is looked at.
const C: u8 = 0x04;
/// All bits of a byte.
const F: u8 = 0xff;

/// Six-byte transfers.
const X6: &[u8] = &[0x1f, F, F, F, C];
/// Ten-byte transfers with DPO and FUA.
const X10: &[u8] = &[0xf8, F, F, F, F, 0, F, F, C];
/// Ten-byte transfers with DPO and BYTCHK.
const V10: &[u8] = &[0xf6, F, F, F, F, 0, F, F, C];
/// Twelve-byte transfers with DPO and FUA.
const X12: &[u8] = &[0xf8, F, F, F, F, F, F, F, F, 0, C];
/// Twelve-byte transfers with DPO and BYTCHK.
const V12: &[u8] = &[0xf6, F, F, F, F, F, F, F, F, 0, C];
/// Sixteen-byte transfers with DPO and FUA.
const X16: &[u8] = &[0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0, C];
/// Sixteen-byte transfers with DPO and BYTCHK.
const V16: &[u8] = &[0xf6, F, F, F, F, F, F, F, F, F, F, F, F, 0, C];
/// PERSISTENT RESERVE IN.
const PRI: &[u8] = &[0x1f, 0, 0, 0, 0, 0, F, F, C];
/// PERSISTENT RESERVE OUT.
const PRO: &[u8] = &[0x1f, F, 0, 0, F, F, F, F, C];
/// MAINTENANCE IN with an allocation length alone.
const MI: &[u8] = &[0xff, 0, 0, 0, 0, F, F, F, F, 0, C];

/// Every command of every device.
static TABLE: &[Opcode] = &[
    both(0x00, FREE, &[0, 0, 0, 0, C], medium::test_unit_ready).with_medium(),
    both(0x03, FREE, &[0x01, 0, 0, F, C], request_sense::begin).through_attention(),
    disk(0x08, READ, X6, block::read),
    write(0x0a, X6, block::write),
    both(0x12, FREE, &[0x01, F, F, F, C], inquiry::begin).through_attention(),
    both(0x15, WRITE, &[0x11, 0, 0, F, C], mode::select),
    both(0x16, FREE, &[0x11, 0, 0, 0, C], persistent::legacy),
    both(0x17, FREE, &[0x11, 0, 0, 0, C], persistent::legacy),
    both(0x1a, READ, &[0x08, F, F, F, C], mode::sense),
    both(
        0x1b,
        Class::StartStop,
        &[0x01, 0, 0, 0xf7, C],
        medium::start_stop,
    )
    .slow(),
    both(
        0x1d,
        WRITE,
        &[0xe4, 0, F, F, C],
        diagnostics::send_diagnostic,
    ),
    both(
        0x1e,
        Class::Prevent,
        &[0, 0, 0, 0x03, C],
        medium::prevent_allow,
    ),
    disk(0x25, FREE, &[0, 0, 0, 0, 0, 0, 0, 0, C], block::capacity10).also_optical(),
    disk(0x28, READ, X10, block::read).also_optical(),
    write(0x2a, X10, block::write),
    disk(0x2b, READ, &[0, F, F, F, F, 0, 0, 0, C], optical::seek).only_optical(),
    write(0x2e, V10, block::write_and_verify),
    disk(0x2f, READ, V10, block::verify),
    disk(0x34, READ, &[0x02, F, F, F, F, 0, F, F, C], block::prefetch),
    disk(
        0x35,
        WRITE,
        &[0x02, F, F, F, F, 0, F, F, C],
        block::synchronize_cache,
    ),
    disk(
        0x37,
        READ,
        &[0, 0x1f, 0, 0, 0, 0, F, F, C],
        diagnostics::read_defect_data,
    )
    .without_medium(),
    write(0x41, &[0xf8, F, F, F, F, 0, F, F, C], block::write_same),
    write(0x42, &[0x01, 0, 0, 0, 0, 0, F, F, C], block::unmap).only_thin(),
    disk(
        0x43,
        READ,
        &[0x02, 0x0f, 0, 0, 0, F, F, F, 0xc4],
        optical::read_toc,
    )
    .only_optical(),
    both(
        0x46,
        FREE,
        &[0x03, F, F, 0, 0, 0, F, F, C],
        optical::get_configuration,
    )
    .only_optical(),
    both(
        0x4a,
        FREE,
        &[0x01, 0, 0, F, 0, 0, F, F, C],
        optical::get_event_status,
    )
    .only_optical()
    .through_attention(),
    both(
        0x4d,
        FREE,
        &[0x01, F, F, 0, F, F, F, F, C],
        diagnostics::log_sense,
    ),
    disk(
        0x51,
        READ,
        &[0x07, 0, 0, 0, 0, 0, F, F, C],
        optical::read_disc_information,
    )
    .only_optical(),
    disk(
        0x52,
        READ,
        &[0x03, F, F, F, F, 0, F, F, C],
        optical::read_track_information,
    )
    .only_optical(),
    both(0x55, WRITE, &[0x11, 0, 0, 0, 0, 0, F, F, C], mode::select),
    both(
        0x56,
        FREE,
        &[0x13, 0, 0, 0, 0, 0, 0, 0, C],
        persistent::legacy,
    ),
    both(
        0x57,
        FREE,
        &[0x13, 0, 0, 0, 0, 0, 0, 0, C],
        persistent::legacy,
    ),
    both(0x5a, READ, &[0x18, F, F, 0, 0, 0, F, F, C], mode::sense),
    both(0x5e, FREE, PRI, persistent::reserve_in).action(0),
    both(0x5e, FREE, PRI, persistent::reserve_in).action(1),
    both(0x5e, FREE, PRI, persistent::reserve_in).action(2),
    both(0x5e, FREE, PRI, persistent::reserve_in).action(3),
    both(0x5f, FREE, PRO, persistent::reserve_out).action(0),
    both(0x5f, FREE, PRO, persistent::reserve_out).action(1),
    both(0x5f, FREE, PRO, persistent::reserve_out).action(2),
    both(0x5f, FREE, PRO, persistent::reserve_out).action(3),
    both(0x5f, FREE, PRO, persistent::reserve_out).action(4),
    both(0x5f, FREE, PRO, persistent::reserve_out).action(5),
    both(0x5f, FREE, PRO, persistent::reserve_out).action(6),
    both(0x5f, FREE, PRO, persistent::reserve_out).action(7),
    disk(0x88, READ, X16, block::read),
    write(
        0x89,
        &[0xf8, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0, C],
        block::compare_and_write,
    ),
    write(0x8a, X16, block::write),
    write(0x8b, X16, block::or_write),
    write(0x8e, V16, block::write_and_verify),
    disk(0x8f, READ, V16, block::verify),
    disk(
        0x90,
        READ,
        &[0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, C],
        block::prefetch,
    ),
    disk(
        0x91,
        WRITE,
        &[0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, C],
        block::synchronize_cache,
    ),
    write(
        0x93,
        &[0xff, F, F, F, F, F, F, F, F, F, F, F, F, 0, C],
        block::write_same,
    ),
    disk(
        0x9e,
        FREE,
        &[0x1f, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, C],
        block::capacity16,
    )
    .action(0x10),
    disk(
        0x9e,
        READ,
        &[0x1f, F, F, F, F, F, F, F, F, F, F, F, F, 0, C],
        block::lba_status,
    )
    .action(0x12),
    both(0xa0, FREE, &[0, F, 0, 0, 0, F, F, F, F, 0, C], luns::begin).through_attention(),
    both(0xa3, FREE, MI, ports::report_groups).action(0x0a),
    both(
        0xa3,
        READ,
        &[0x1f, 0x87, F, F, F, F, F, F, F, 0, C],
        supported::opcodes,
    )
    .action(0x0c),
    both(
        0xa3,
        READ,
        &[0x1f, 0x80, 0, 0, 0, F, F, F, F, 0, C],
        supported::task_management,
    )
    .action(0x0d),
    disk(0xa8, READ, X12, block::read).also_optical(),
    write(0xaa, X12, block::write),
    write(0xae, V12, block::write_and_verify),
    disk(0xaf, READ, V12, block::verify),
    disk(
        0xb7,
        READ,
        &[0x1f, 0, 0, 0, 0, F, F, F, F, 0, C],
        diagnostics::read_defect_data,
    )
    .without_medium(),
    both(
        0xbb,
        READ,
        &[0x03, F, F, F, F, 0, 0, 0, 0, 0, C],
        optical::set_speed,
    )
    .only_optical(),
    both(
        0xbd,
        FREE,
        &[0, 0, 0, 0, 0, 0, 0, F, F, 0, C],
        optical::mechanism_status,
    )
    .only_optical(),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// CDB length that the group code (the three highest bits of the operation code) stands for.
    fn group_length(code: u8) -> usize {
        match code >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            5 => 12,
            _ => 0,
        }
    }

    #[test]
    fn usage_is_as_long_as_the_cdb_and_ends_in_control() {
        for opcode in TABLE {
            assert_eq!(
                opcode.usage.len() + 1,
                group_length(opcode.code),
                "{opcode:02x?}"
            );
            assert_eq!(opcode.usage.last().unwrap() & C, C, "{opcode:02x?}");
            if let Some(action) = opcode.action {
                assert_eq!(opcode.usage[0] & 0x1f, 0x1f, "{opcode:02x?}");
                assert_eq!(action & !0x1f, 0);
            }
        }
    }

    #[test]
    fn no_command_stands_twice() {
        for (i, a) in TABLE.iter().enumerate() {
            for b in TABLE.iter().skip(i + 1) {
                assert!(
                    a.code != b.code || (a.action.is_some() && a.action != b.action),
                    "{a:02x?}"
                );
            }
        }
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by_key(|o| (o.code, o.action)));
    }
}

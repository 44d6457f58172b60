//! What the initiator engine tells its caller.

use crate::command::TaskId;
use crate::pdu::{Header, LoginStatus, LogoutStatus, RejectReason, TmfResponse};
use crate::target::TargetRecord;

/// What was left over or missing of a transfer, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// Nothing.
    #[default]
    None,
    /// The command moves so many bytes more than were expected; they were not moved.
    Overflow(u32),
    /// So many of the bytes expected were not moved.
    Underflow(u32),
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Its task; the id is free again.
    pub task: TaskId,
    /// The target could not carry the command out at all (service response "target failure");
    /// `status` means nothing then.
    pub target_failure: bool,
    /// SCSI status.
    pub status: u8,
    /// Sense data; empty if none came.
    pub sense: Vec<u8>,
    /// Residual, of the write if the command is bidirectional.
    pub residual: Residual,
    /// Residual of the read of a bidirectional command.
    pub bidi_residual: Residual,
}

/// What a target tells without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A SCSI event.
    Scsi {
        /// Logical unit.
        lun: u64,
        /// Sense data.
        sense: Vec<u8>,
    },
    /// Log out within so many seconds.
    LogoutRequest {
        /// Seconds.
        seconds: u16,
    },
    /// A connection will be dropped.
    ConnectionDrop {
        /// Which.
        cid: u16,
        /// Seconds before coming back.
        time2wait: u16,
        /// Seconds for which tasks are kept after that.
        time2retain: u16,
    },
    /// All connections of the session will be dropped.
    SessionDrop {
        /// Seconds before coming back.
        time2wait: u16,
        /// Seconds for which tasks are kept after that.
        time2retain: u16,
    },
    /// Parameters shall be negotiated anew within so many seconds.
    NegotiationRequest {
        /// Seconds.
        seconds: u16,
    },
    /// Something else.
    Other {
        /// The event's number.
        event: u8,
    },
}

/// What happened. Borrows only from the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// Full feature phase.
    LoggedIn {
        /// The target's part of the session identifier.
        tsih: u16,
        /// TargetAlias.
        alias: Option<String>,
        /// TargetPortalGroupTag.
        portal_group_tag: Option<u16>,
    },
    /// The target refused; the connection is closing.
    LoginFailed {
        /// Its status; `None` for a number that the standard does not have.
        status: Option<LoginStatus>,
        /// The status as it came.
        code: u16,
        /// Where to go instead.
        redirect: Option<String>,
    },
    /// A piece of read data. Not to be trusted before the command is done.
    Data {
        /// Its task.
        task: TaskId,
        /// Place in the command's data.
        offset: u32,
        /// The bytes.
        bytes: &'b [u8],
    },
    /// A command has ended.
    Done(Completion),
    /// A task management function was answered.
    Function {
        /// Its task.
        task: TaskId,
        /// The answer; `None` for a number that the standard does not have.
        response: Option<TmfResponse>,
    },
    /// SendTargets was answered.
    Targets(Vec<TargetRecord>),
    /// A ping was answered.
    Pong {
        /// Its task.
        task: TaskId,
    },
    /// The logout was answered; the connection is closing.
    LoggedOut {
        /// The answer; `None` for a number that the standard does not have.
        status: Option<LogoutStatus>,
        /// Seconds before coming back.
        time2wait: u16,
        /// Seconds for which tasks are kept after that.
        time2retain: u16,
    },
    /// An asynchronous message.
    Message(Message),
    /// A PDU of ours was rejected.
    Rejected {
        /// Why; `None` for a number that the standard does not have.
        reason: Option<RejectReason>,
        /// The header of the PDU.
        header: Header,
        /// The task that has ended by this, without any other answer.
        task: Option<TaskId>,
    },
}

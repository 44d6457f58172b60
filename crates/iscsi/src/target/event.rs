//! What the target engine tells the service.

use crate::chap::Algorithm;
use crate::command::{Cdb, SessionType, TaskId};
use crate::pdu::{LoginStatus, LogoutReason, TaskAttribute, TmfFunction};

/// Who is on the other side, as far as login told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionIdentity {
    /// InitiatorName, normalized.
    pub initiator_name: String,
    /// InitiatorAlias, for people.
    pub initiator_alias: Option<String>,
    /// The initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// TargetName, normalized; none in a discovery session that names no target.
    pub target_name: Option<String>,
    /// Discovery or normal.
    pub session_type: SessionType,
    /// Connection identifier.
    pub cid: u16,
    /// The session it wants to join or reinstate; 0: a new one. After admission, the session's.
    pub tsih: u16,
    /// What it proved; none where nothing was asked.
    pub proof: Option<Proof>,
}

impl SessionIdentity {
    /// The CHAP user it proved to be.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.proof.as_ref().map(|proof| proof.user.as_str())
    }
}

/// How an initiator proved itself at login, so that the service can ask later whether that would
/// still do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// CHAP user whose secret it knows.
    pub user: String,
    /// Hash of the response.
    pub algorithm: Algorithm,
    /// It asked for the target's proof, and got it.
    pub mutual: bool,
}

/// An initiator wants in; answer with [`super::Connection::login_answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginStart {
    /// Who it says it is (not proven yet) and where it wants to go.
    pub identity: SessionIdentity,
}

/// Everything is agreed; answer with [`super::Connection::admit`] or
/// [`super::Connection::refuse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginReady {
    /// Who it is, proven where the policy asked for that.
    pub identity: SessionIdentity,
}

/// The engine refused a login by itself; the connection is closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRefused {
    /// What the initiator was told.
    pub status: LoginStatus,
    /// What is behind it, for our log only.
    pub reason: String,
    /// Who it said it is; the name is empty when it did not come that far.
    pub identity: SessionIdentity,
}

/// A SCSI command. Its task lives until [`super::Connection::respond`], a final
/// [`super::Connection::data_in`] or [`super::Connection::forget`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its task.
    pub task: TaskId,
    /// The initiator's tag, for logs.
    pub itt: u32,
    /// CmdSN, for logs and ordering.
    pub cmd_sn: u32,
    /// Delivered outside the command window.
    pub immediate: bool,
    /// Logical unit, as SAM writes it (eight bytes, first byte highest).
    pub lun: u64,
    /// The CDB.
    pub cdb: Cdb,
    /// Ordering among tasks.
    pub attribute: TaskAttribute,
    /// Expected data transfer length: of the write if there is one, else of the read.
    pub edtl: u32,
    /// It takes data.
    pub read: bool,
    /// It brings data.
    pub write: bool,
    /// Bytes it brings: `edtl` of a write, else 0.
    pub write_len: u32,
    /// Bytes it is ready to take: `edtl` of a read, the bidirectional length of a write with read,
    /// else 0.
    pub read_len: u32,
    /// Bytes that come with the command itself; [`Event::Data`] for them follows at once.
    pub immediate_len: u32,
    /// Whether unsolicited Data-Out PDUs follow.
    pub unsolicited: bool,
}

/// A task management function that is the service's to carry out; answer with
/// [`super::Connection::tmf_respond`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tmf {
    /// Tag for the answer.
    pub itt: u32,
    /// What to do.
    pub function: TmfFunction,
    /// Logical unit, where the function concerns one.
    pub lun: u64,
    /// The task that ABORT TASK or QUERY TASK names. Always there for ABORT TASK: where no such
    /// task lives, the engine answers by itself.
    pub referenced: Option<TaskId>,
    /// Delivered outside the command window.
    pub immediate: bool,
    /// CmdSN: tasks with an earlier one are affected.
    pub cmd_sn: u32,
}

/// Which targets an initiator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All it may use (discovery sessions).
    All,
    /// The one it is logged in to.
    This,
    /// One by name, normalized.
    Name(String),
}

/// Why the engine gives a task up. The service answers the task with CHECK CONDITION, ABORTED
/// COMMAND and [`AbortReason::additional_sense`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// A data digest did not match.
    DataDigest,
    /// A Data-Out PDU out of sequence: DataSN or buffer offset not the next one.
    Sequence,
    /// Unsolicited data where none is allowed, or more than allowed.
    UnexpectedData,
    /// A sequence ended with another amount of data than was asked for or agreed on.
    IncorrectAmount,
}

impl AbortReason {
    /// ASC and ASCQ.
    #[must_use]
    pub const fn additional_sense(self) -> (u8, u8) {
        match self {
            // Protocol service CRC error; a gap in a sequence is a digest error not seen.
            Self::DataDigest | Self::Sequence => (0x47, 0x05),
            // Write error - unexpected unsolicited data.
            Self::UnexpectedData => (0x0c, 0x0c),
            // Write error - not enough unsolicited data.
            Self::IncorrectAmount => (0x0c, 0x0d),
        }
    }
}

/// What happened. Borrows only from the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// Names are known; the service decides about the way in.
    LoginStart(LoginStart),
    /// All is negotiated; the service admits or refuses.
    LoginReady(LoginReady),
    /// The engine refused the login; for the log.
    LoginRefused(LoginRefused),
    /// A SCSI command.
    Command(Command),
    /// A piece of write data, as it comes. Not to be trusted before [`Event::DataComplete`].
    Data {
        /// Its task.
        task: TaskId,
        /// Place in the command's data.
        offset: u32,
        /// The bytes.
        bytes: &'b [u8],
    },
    /// All that was solicited is there, with right digests.
    DataComplete {
        /// Its task.
        task: TaskId,
    },
    /// The transfer failed. No more data comes; the task waits for the service's response.
    TaskAborted {
        /// The task.
        task: TaskId,
        /// Why.
        reason: AbortReason,
    },
    /// A task management function.
    TaskManagement(Tmf),
    /// SendTargets; answer with [`super::Connection::text_answer`].
    SendTargets {
        /// Which targets.
        which: Which,
    },
    /// The initiator leaves; answer with [`super::Connection::logout_done`] once its tasks have
    /// ended.
    Logout {
        /// Session or connection.
        reason: LogoutReason,
    },
}

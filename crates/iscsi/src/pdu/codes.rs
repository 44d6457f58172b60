//! Numbers on the wire and their names.

/// Defines an enumeration with its wire numbers and the way back from a number.
macro_rules! codes {
    ($(
        $(#[$about:meta])*
        $name:ident: $repr:ty { $( $(#[$doc:meta])* $variant:ident = $value:literal ),* $(,)? }
    )*) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $name { $( $(#[$doc])* $variant = $value, )* }

        impl $name {
            /// The name of a number from the wire; `None` for numbers the standard leaves open.
            #[must_use]
            pub const fn from_wire(value: $repr) -> Option<Self> {
                match value {
                    $( $value => Some(Self::$variant), )*
                    _ => None,
                }
            }

            /// The number on the wire.
            #[must_use]
            pub const fn to_wire(self) -> $repr {
                self as $repr
            }
        }
    )*};
}

codes! {
    /// Kinds of PDU.
    Opcode: u8 {
        /// NOP-Out.
        NopOut = 0x00,
        /// SCSI Command.
        ScsiCommand = 0x01,
        /// SCSI Task Management Function Request.
        TaskManagement = 0x02,
        /// Login Request.
        LoginRequest = 0x03,
        /// Text Request.
        TextRequest = 0x04,
        /// SCSI Data-Out.
        DataOut = 0x05,
        /// Logout Request.
        LogoutRequest = 0x06,
        /// SNACK Request.
        Snack = 0x10,
        /// NOP-In.
        NopIn = 0x20,
        /// SCSI Response.
        ScsiResponse = 0x21,
        /// SCSI Task Management Function Response.
        TaskManagementResponse = 0x22,
        /// Login Response.
        LoginResponse = 0x23,
        /// Text Response.
        TextResponse = 0x24,
        /// SCSI Data-In.
        DataIn = 0x25,
        /// Logout Response.
        LogoutResponse = 0x26,
        /// Ready To Transfer.
        ReadyToTransfer = 0x31,
        /// Asynchronous Message.
        AsyncMessage = 0x32,
        /// Reject.
        Reject = 0x3f,
    }

    /// Login status: class in the high byte, detail in the low one.
    LoginStatus: u16 {
        /// Goes on, or done.
        Success = 0x0000,
        /// The target has moved for now; the address comes along.
        MovedTemporarily = 0x0101,
        /// The target has moved for good; the address comes along.
        MovedPermanently = 0x0102,
        /// Some error of the initiator.
        InitiatorError = 0x0200,
        /// It did not prove who it is.
        AuthenticationFailure = 0x0201,
        /// It may not use this target.
        Forbidden = 0x0202,
        /// There is no such target.
        NotFound = 0x0203,
        /// There was such a target, and it will not come back.
        Removed = 0x0204,
        /// No protocol version in common.
        UnsupportedVersion = 0x0205,
        /// The session has as many connections as it may have.
        TooManyConnections = 0x0206,
        /// A key that must come did not come.
        MissingParameter = 0x0207,
        /// The connection cannot be added to that session.
        CannotInclude = 0x0208,
        /// The target does not do this type of session.
        SessionTypeNotSupported = 0x0209,
        /// There is no session with that TSIH.
        SessionDoesNotExist = 0x020a,
        /// A request that is not allowed during login.
        InvalidDuringLogin = 0x020b,
        /// Some error of the target.
        TargetError = 0x0300,
        /// Not now: the service is not available.
        ServiceUnavailable = 0x0301,
        /// The target lacks resources (sessions, memory).
        OutOfResources = 0x0302,
    }

    /// Task management functions.
    TmfFunction: u8 {
        /// One task.
        AbortTask = 1,
        /// All tasks of this nexus on a logical unit.
        AbortTaskSet = 2,
        /// The auto contingent allegiance condition.
        ClearAca = 3,
        /// All tasks on a logical unit.
        ClearTaskSet = 4,
        /// A logical unit.
        LogicalUnitReset = 5,
        /// The target, sessions kept.
        TargetWarmReset = 6,
        /// The target, sessions dropped.
        TargetColdReset = 7,
        /// Moves a task to this connection (error recovery level 2).
        TaskReassign = 8,
        /// Is the task there? (RFC 7144)
        QueryTask = 9,
        /// Is any task of this nexus there? (RFC 7144)
        QueryTaskSet = 10,
        /// All tasks and state of this nexus (RFC 7144).
        NexusReset = 11,
        /// Is a unit attention waiting? (RFC 7144)
        QueryAsyncEvent = 12,
    }

    /// Answers to task management functions.
    TmfResponse: u8 {
        /// Done; for abort functions, the affected tasks have ended.
        Complete = 0,
        /// The referenced task is not there.
        TaskDoesNotExist = 1,
        /// No such logical unit.
        LunDoesNotExist = 2,
        /// The task still belongs to another connection.
        TaskStillAllegiant = 3,
        /// Reassignment is not supported.
        ReassignNotSupported = 4,
        /// The function is not supported.
        NotSupported = 5,
        /// The initiator may not do that.
        AuthorizationFailed = 6,
        /// Succeeded: the thing asked about is there (RFC 7144).
        Succeeded = 7,
        /// Refused, or it could not be done.
        Rejected = 255,
    }

    /// Why an initiator logs out.
    LogoutReason: u8 {
        /// Closes the whole session.
        CloseSession = 0,
        /// Closes one connection.
        CloseConnection = 1,
        /// Removes a connection so that its tasks can be reassigned.
        RecoverConnection = 2,
    }

    /// Answers to a logout.
    LogoutStatus: u8 {
        /// Closed.
        Success = 0,
        /// No such connection.
        CidNotFound = 1,
        /// Recovery is not supported.
        RecoveryNotSupported = 2,
        /// It did not work out.
        CleanupFailed = 3,
    }

    /// Why a PDU is rejected.
    RejectReason: u8 {
        /// The data digest did not match.
        DataDigest = 0x02,
        /// A SNACK that cannot be served.
        Snack = 0x03,
        /// It must not come here and now.
        Protocol = 0x04,
        /// Not supported.
        NotSupported = 0x05,
        /// Too many immediate commands.
        TooManyImmediate = 0x06,
        /// A task with that tag is in progress.
        TaskInProgress = 0x07,
        /// An acknowledgement that makes no sense.
        InvalidDataAck = 0x08,
        /// A field has a wrong value.
        InvalidField = 0x09,
        /// No resources for a long operation.
        LongOperation = 0x0a,
        /// A logout was asked for and is awaited.
        WaitingForLogout = 0x0c,
    }

    /// What an asynchronous message tells.
    AsyncEvent: u8 {
        /// A SCSI event with sense data.
        Scsi = 0,
        /// The target asks for a logout.
        LogoutRequest = 1,
        /// The target will drop a connection.
        ConnectionDrop = 2,
        /// The target will drop all connections of the session.
        SessionDrop = 3,
        /// The target asks for a parameter negotiation.
        NegotiationRequest = 4,
        /// All tasks of this logical unit and nexus are being ended (task-set sharing).
        FastAbort = 5,
        /// Vendor's own.
        Vendor = 255,
    }
}

impl LoginStatus {
    /// The class: 0 success, 1 redirection, 2 the initiator's fault, 3 the target's fault.
    #[must_use]
    pub const fn class(self) -> u8 {
        let [class, _] = self.to_wire().to_be_bytes();
        class
    }
}

/// How a task wants to be ordered among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskAttribute {
    /// No tag; treated as [`TaskAttribute::Simple`] by most.
    Untagged,
    /// Any order.
    Simple,
    /// After all before it, before all after it.
    Ordered,
    /// Before all that wait.
    HeadOfQueue,
    /// Runs in an auto contingent allegiance condition.
    Aca,
}

impl TaskAttribute {
    /// From the low three bits of a SCSI command's flags; reserved values count as simple.
    #[must_use]
    pub const fn from_flags(flags: u8) -> Self {
        match flags & 0x07 {
            0 => Self::Untagged,
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            4 => Self::Aca,
            _ => Self::Simple,
        }
    }

    /// The bits on the wire.
    #[must_use]
    pub const fn to_flags(self) -> u8 {
        match self {
            Self::Untagged => 0,
            Self::Simple => 1,
            Self::Ordered => 2,
            Self::HeadOfQueue => 3,
            Self::Aca => 4,
        }
    }
}

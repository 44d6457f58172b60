//! The initiator's engine: one [`Connection`] logs in to a target and carries commands.
//!
//! The caller connects, calls [`Connection::start`], hands over what it reads with
//! [`Connection::next`] until that returns nothing, and reacts to each [`Event`]. Write data is
//! passed by reference: the engine keeps the payload of a running command and answers R2Ts from it
//! by itself. Read data comes as [`Event::Data`], borrowed from the input.
//!
//! ```text
//!     start ─ LoggedIn ─ send_command ─ Data … Done
//!                        send_function ─ Function    (then forget what was aborted)
//!                        send_targets ─ Targets
//!                        ping ─ Pong
//!                        logout ─ LoggedOut
//!             LoginFailed
//! ```
//!
//! Several sessions, reconnecting, and the decision what to send again are the caller's. At error
//! recovery level 0 every broken digest or sequence ends the connection ([`Fatal`]).

mod command;
mod connection;
mod event;
mod login;
mod receive;
mod settings;
mod tasks;

pub use self::command::{Request, SubmitError};
pub use self::connection::{Connection, Fatal};
pub use self::event::{Completion, Event, Message, Residual};
pub use self::login::LoginError;
pub use self::settings::{ChapLogin, Mutual, Settings};
pub use crate::Output;
pub use crate::chap::{Algorithm, Secret};
pub use crate::command::{Cdb, SessionType, TaskId};
pub use crate::negotiation::{Digest, Negotiated, Offer};
pub use crate::pdu::{
    LoginStatus, LogoutReason, LogoutStatus, RejectReason, TaskAttribute, TmfFunction, TmfResponse,
};
pub use crate::target::TargetRecord;

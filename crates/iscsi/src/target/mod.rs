//! The target's engine: one [`Connection`] for each TCP connection of a portal.
//!
//! The service hands over bytes with [`Connection::next`] until it returns nothing, and reacts to
//! each [`Event`]; PDUs go to its [`Output`]. Calls never block and never fail half-way: either a
//! PDU is appended whole, or (for a task that has ended meanwhile) nothing is.
//!
//! ```text
//!            LoginStart ─ login_answer ─ (CHAP, negotiation) ─ LoginReady ─ admit
//!            Command ─┬─ data_in … data_in(status)          read
//!                     ├─ solicit ─ Data … DataComplete ─ respond    write
//!                     └─ respond                             no data, or an error
//!            TaskAborted ─ respond(CHECK CONDITION)         a transfer failed
//!            TaskManagement ─ forget … tmf_respond
//!            SendTargets ─ text_answer
//!            Logout ─ (tasks end) ─ logout_done ─ closing
//! ```
//!
//! Every task of an [`Event::Command`] ends by exactly one of [`Connection::respond`], a final
//! [`Connection::data_in`] or [`Connection::forget`]. Every [`Event::TaskManagement`] is answered
//! by [`Connection::tmf_respond`].
//!
//! Write data that comes with a command or unsolicited arrives as [`Event::Data`] right after the
//! [`Event::Command`], before or after [`Connection::solicit`]: the buffer has to be there when
//! the command is, or the data is lost and the task must be refused. Pieces are handed on before
//! their digest is known to be right; only [`Event::DataComplete`] makes them good.

mod config;
mod connection;
mod data;
mod event;
mod login;
mod policy;
mod request;
mod response;
mod session;
mod text;

pub use self::config::Config;
pub use self::connection::{Connection, Fatal};
pub use self::event::{
    AbortReason, Command, Event, LoginReady, LoginRefused, LoginStart, Proof, SessionIdentity, Tmf,
    Which,
};
pub use self::policy::{Acceptance, Account, Authentication, ChapPolicy, LoginPolicy};
pub use self::response::{Asynchronous, ScsiStatus};
pub use self::text::TargetRecord;
pub use crate::Output;
pub use crate::chap::{Algorithm, Secret};
pub use crate::command::{Cdb, SessionType, TaskId};
pub use crate::negotiation::{Digest, Negotiated};
pub use crate::pdu::{
    LoginStatus, LogoutReason, LogoutStatus, TaskAttribute, TmfFunction, TmfResponse,
};

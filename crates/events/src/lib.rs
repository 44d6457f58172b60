//! Numbered events with cause and next step, in a bounded store.
//!
//! # What it is for
//!
//! Whatever a person must learn later without having watched (a login refused, a device gone, a
//! reservation taken over) becomes an [`Event`]: a number that only grows, a time, a severity, a
//! stable code for programs, a subject, a sentence for people, and where known the cause and the
//! next step. [`Store`] keeps the newest of them in memory, writes all of them to two files,
//! answers queries, and lets readers follow.
//!
//! It is not a log of the program's doings (that is `tracing`), not metrics, and it decides
//! nothing: services hand typed notices to the service binary, which words them as [`Draft`]s.
//!
//! # Key types
//!
//! | type | what |
//! |---|---|
//! | [`Draft`] | an event to be: built by the caller, without number and time |
//! | [`Event`] | a recorded event |
//! | [`Store`] | the bounded store; a cheap handle, shared by clones |
//! | [`Filter`] | which events a query wants |
//! | [`Subscription`] | a follower, asynchronous, told when it lagged |
//! | [`Clock`] | where time comes from; tests bring their own |
//!
//! # Sketch
//!
//! `record` takes the store's one lock, asks the rate limit (only for events an outsider can
//! provoke), pushes into a ring of [`limits::MEMORY_EVENTS`], and wakes the writer and the
//! followers. It never waits for the disk, and no more does any question: the lock is not held over
//! its work. The writer, a thread of the store's own, appends one JSON line an event to
//! `events.jsonl` (into the page cache, no sync). Neither it nor a follower has a queue of its own:
//! each is a position in the ring, so that a slow one costs nothing and learns how many it missed.
//!
//! What can fail between two steps:
//! - Process killed: lines that were written survive; what was recorded in the last moments, before
//!   the writer's turn, is lost. A line cut in the middle is dropped at the next start.
//! - Host lost: the lines the kernel had not written are lost. [`Store::sync`] makes them stable.
//! - Disk full or failing: the event stays in memory, [`Store::health`] says so, and the store
//!   tries again with the next event after [`limits::RETRY_AFTER`]; what is still in memory is then
//!   caught up. Numbers given meanwhile are given again if the process ends before the disk takes
//!   lines again.
//! - Disk that does not answer: the same, told after [`limits::ANSWER_TIME_MAX`]. Events that left
//!   memory before the disk took them are counted, and told by an event once it does.
//! - Rotation cut in the middle: `events.jsonl` is absent and `events.1.jsonl` complete; the next
//!   start begins a new one.
//!
//! # On disk
//!
//! `events.jsonl` and `events.1.jsonl` (the older half), mode 0600, one event as JSON a line, at
//! most [`limits::ROTATE_BYTES`] each.

#![forbid(unsafe_code)]

mod clock;
mod event;
mod journal;
pub mod limits;
mod rate;
mod ring;
mod store;
mod subscribe;
#[cfg(test)]
mod tests;
mod writer;

pub use clock::{Clock, SystemClock};
pub use event::{Draft, Event, Severity};
pub use journal::OpenError;
pub use ring::Filter;
pub use store::{Health, Options, Recorded, Store};
pub use subscribe::{Delivery, SubscribeError, Subscription};

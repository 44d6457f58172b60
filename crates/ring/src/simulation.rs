//! What a simulated reactor does: its seed, its delays, its faults.

use std::time::Duration;

/// The plan of a simulated driver. The same plan and the same operations give the same trace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Simulation {
    /// Where all random choices come from.
    pub seed: u64,
    /// Shortest virtual time that an operation takes.
    pub delay_min: Duration,
    /// Longest virtual time that an operation takes (without a stall).
    pub delay_max: Duration,
    /// What goes wrong.
    pub faults: FaultPlan,
}

impl Default for Simulation {
    fn default() -> Self {
        Self {
            seed: 0,
            delay_min: Duration::from_micros(10),
            delay_max: Duration::from_millis(2),
            faults: FaultPlan::default(),
        }
    }
}

/// Faults by chance and faults by count. The default is none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FaultPlan {
    /// Of each kind of operation, how many in a thousand get which fault.
    pub rates: Vec<FaultRate>,
    /// Faults of the n-th operation of a kind, counted from 0 as they start.
    pub script: Vec<ScriptedFault>,
}

/// A fault by chance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FaultRate {
    /// Which operations.
    pub operation: OpKind,
    /// How many in a thousand.
    pub per_mille: u16,
    /// What happens.
    pub fault: Fault,
}

/// A fault by count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ScriptedFault {
    /// Which operations are counted.
    pub operation: OpKind,
    /// Which of them, from 0.
    pub nth: u64,
    /// What happens.
    pub fault: Fault,
}

/// Kinds of operation that can have a fault.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum OpKind {
    /// [`crate::Op::Accept`].
    Accept,
    /// [`crate::Op::Connect`].
    Connect,
    /// [`crate::Op::Recv`].
    Recv,
    /// [`crate::Op::Send`].
    Send,
    /// [`crate::Op::Read`].
    Read,
    /// [`crate::Op::Write`].
    Write,
    /// [`crate::Op::Sync`].
    Sync,
    /// [`crate::Op::Allocate`], [`crate::Op::BlockDiscard`], [`crate::Op::BlockZero`].
    Allocate,
    /// [`crate::Op::Extent`].
    Extent,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Fails with this errno and does nothing (5 = EIO, 28 = ENOSPC).
    Errno(i32),
    /// Does a part: a receive brings at most half of what was asked for, a read ends there as at
    /// the end of a file, a write or send does a part and then fails with EIO or ECONNRESET.
    /// Others are as without a fault.
    Short,
    /// Takes this much longer.
    Stall(Duration),
}

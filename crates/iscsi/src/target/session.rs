//! What belongs to a session and not to one of its connections: the command window, the order of
//! commands, and the task table.
//!
//! Apart from connection framing (StatSN, digests), so that several connections can share it once
//! they are negotiated.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use super::event::AbortReason;
use crate::command::TaskId;
use crate::limits::{IMMEDIATE_TASKS_MAX, TASKS_MAX};
use crate::serial;

/// What the order of commands says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It is the next one, or immediate.
    Deliver,
    /// A duplicate, or outside the window: to be dropped without a word.
    Ignore,
    /// Inside the window, but others are missing before it. On one connection nothing can fill
    /// the gap.
    Gap,
}

/// One R2T that is being answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    /// Its target transfer tag.
    pub(super) ttt: u32,
    /// First byte.
    pub(super) offset: u32,
    /// Bytes asked for.
    pub(super) len: u32,
    /// Bytes that have come.
    pub(super) received: u32,
    /// Next DataSN.
    pub(super) data_sn: u32,
}

/// A task and how far its transfers are.
#[derive(Debug, Default)]
pub(super) struct Task {
    pub(super) itt: u32,
    pub(super) lun: u64,
    pub(super) immediate: bool,
    /// Expected data transfer length.
    pub(super) edtl: u32,
    /// It brings data (`edtl` bytes).
    pub(super) write: bool,
    /// Bytes the initiator takes.
    pub(super) read_len: u32,

    /// Immediate data is still coming in.
    pub(super) immediate_data: bool,
    /// Unsolicited Data-Out PDUs are still to come.
    pub(super) unsolicited: bool,
    /// Next DataSN of the unsolicited ones.
    pub(super) unsolicited_sn: u32,
    /// Bytes that have come with right digests.
    pub(super) received: u32,
    /// Bytes the service wants; none until it asks.
    pub(super) wanted: Option<u32>,
    /// Next byte to ask for.
    pub(super) next_offset: u32,
    /// R2Ts on their way.
    pub(super) bursts: Vec<Burst>,
    /// The timers' first look at it since data last came, while data is expected.
    pub(super) expecting: Option<Instant>,
    /// The service was told that all is there.
    pub(super) complete: bool,
    /// The transfer failed.
    pub(super) failed: Option<AbortReason>,
    /// The service was told so.
    pub(super) failure_told: bool,

    /// Data-In bytes sent.
    pub(super) sent: u32,
    /// Data-In and R2T PDUs sent.
    pub(super) data_sn: u32,
    /// R2T PDUs sent.
    pub(super) r2t_sn: u32,
}

impl Task {
    /// Bytes the initiator brings.
    pub(super) const fn write_len(&self) -> u32 {
        if self.write { self.edtl } else { 0 }
    }

    /// Bytes announced and not there yet.
    const fn outstanding(&self) -> u64 {
        if self.complete || self.failure_told {
            return 0;
        }
        self.write_len().saturating_sub(self.received) as u64
    }

    /// Nothing more comes by itself or by an R2T.
    pub(super) fn quiet(&self) -> bool {
        !self.immediate_data && !self.unsolicited && self.bursts.is_empty()
    }

    /// As new, but with the memory of its burst list.
    fn reset(&mut self) {
        let mut bursts = std::mem::take(&mut self.bursts);
        bursts.clear();
        *self = Self {
            bursts,
            ..Self::default()
        };
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u16,
    live: bool,
    task: Task,
}

/// Spreads task tags over a small table. Tags are the initiator's choice, so it may make them
/// collide; the table is bounded, so that costs it a walk over its own tasks.
#[derive(Default)]
pub(super) struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, tag: u32) {
        self.0 = u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The state of a session.
#[derive(Debug)]
pub(super) struct Session {
    /// Next CmdSN.
    exp_cmd_sn: u32,
    /// Highest CmdSN promised; never goes back.
    max_cmd_sn: u32,
    /// Commands that may be in flight from now on.
    credits: u32,
    /// The most `credits` may be.
    window: u32,
    /// The last PDU told the initiator to wait.
    told_closed: bool,
    /// CmdSNs that count as received though no command came (aborted before they came).
    plugged: Vec<u32>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    tags: HashMap<u32, TaskId, BuildHasherDefault<TagHasher>>,
    /// Live tasks that came as immediate commands.
    immediate: u32,
    /// Write bytes announced by live tasks and not there yet.
    pending_write: u64,
    /// R2Ts sent; gives transfer tags.
    transfers: u16,
}

impl Session {
    pub(super) fn new(cmd_sn: u32, window: u32) -> Self {
        Self {
            exp_cmd_sn: cmd_sn,
            max_cmd_sn: cmd_sn.wrapping_add(window).wrapping_sub(1),
            credits: window,
            window,
            told_closed: false,
            plugged: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            tags: HashMap::default(),
            immediate: 0,
            pending_write: 0,
            transfers: 0,
        }
    }

    // -- the command window --

    /// Takes a request's CmdSN. An immediate request does not count.
    pub(super) fn order(&mut self, cmd_sn: u32, immediate: bool) -> Order {
        if immediate {
            return Order::Deliver;
        }
        if !serial::within(cmd_sn, self.exp_cmd_sn, self.max_cmd_sn)
            || self.plugged.contains(&cmd_sn)
        {
            return Order::Ignore;
        }
        if cmd_sn != self.exp_cmd_sn {
            return Order::Gap;
        }
        self.advance();
        Order::Deliver
    }

    /// The next CmdSN, past those that were plugged.
    fn advance(&mut self) {
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        while let Some(at) = self.plugged.iter().position(|sn| *sn == self.exp_cmd_sn) {
            self.plugged.swap_remove(at);
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        }
    }

    pub(super) const fn exp_cmd_sn(&self) -> u32 {
        self.exp_cmd_sn
    }

    /// ABORT TASK for a command that has not come: where its CmdSN is inside the window and
    /// earlier than that of the function, it counts as received. True if so.
    pub(super) fn plug(&mut self, ref_cmd_sn: u32, function_cmd_sn: u32) -> bool {
        let valid = serial::within(ref_cmd_sn, self.exp_cmd_sn, self.max_cmd_sn)
            && serial::before(ref_cmd_sn, function_cmd_sn);
        if valid && ref_cmd_sn == self.exp_cmd_sn {
            self.advance();
        } else if valid && !self.plugged.contains(&ref_cmd_sn) {
            // At most one entry for each number of the window.
            self.plugged.push(ref_cmd_sn);
        }
        valid
    }

    /// ExpCmdSN and MaxCmdSN for the PDU that is about to be sent.
    pub(super) fn window(&mut self) -> (u32, u32) {
        let highest = self.highest();
        if serial::after(highest, self.max_cmd_sn) {
            self.max_cmd_sn = highest;
        }
        self.told_closed = serial::before(self.max_cmd_sn, self.exp_cmd_sn);
        (self.exp_cmd_sn, self.max_cmd_sn)
    }

    /// MaxCmdSN by the credits: commands in flight and commands promised together stay below them.
    fn highest(&self) -> u32 {
        let in_flight = u32::try_from(self.tags.len()).unwrap_or(u32::MAX);
        let in_flight = in_flight.saturating_sub(self.immediate);
        let free = self.credits.saturating_sub(in_flight);
        self.exp_cmd_sn.wrapping_add(free).wrapping_sub(1)
    }

    /// The initiator waits for a window that has opened meanwhile.
    pub(super) fn must_announce(&self) -> bool {
        self.told_closed && !serial::before(self.highest(), self.exp_cmd_sn)
    }

    pub(super) fn set_credits(&mut self, credits: u32) {
        self.credits = credits.min(self.window);
    }

    // -- tasks --

    pub(super) fn len(&self) -> usize {
        self.tags.len()
    }

    pub(super) const fn pending_write(&self) -> u64 {
        self.pending_write
    }

    pub(super) const fn too_many_immediate(&self) -> bool {
        self.immediate >= IMMEDIATE_TASKS_MAX
    }

    pub(super) fn find(&self, itt: u32) -> Option<TaskId> {
        self.tags.get(&itt).copied()
    }

    /// Ids of all live tasks.
    pub(super) fn ids(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.tags.values().copied()
    }

    /// A slot for a task with a tag that is not in use; `None` when the table is full, which the
    /// window and the bound on immediate commands keep from happening.
    pub(super) fn insert(&mut self, fill: impl FnOnce(&mut Task)) -> Option<TaskId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u16::try_from(self.slots.len()).ok()?;
                if u32::from(index) >= TASKS_MAX {
                    return None;
                }
                self.slots.push(Slot::default());
                index
            }
        };
        let slot = self.slots.get_mut(usize::from(index))?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.live = true;
        slot.task.reset();
        fill(&mut slot.task);
        let id = TaskId::new(index, slot.generation);
        self.tags.insert(slot.task.itt, id);
        self.immediate = self
            .immediate
            .saturating_add(u32::from(slot.task.immediate));
        self.pending_write = self.pending_write.saturating_add(slot.task.outstanding());
        Some(id)
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Task> {
        let slot = self.slots.get(id.slot())?;
        (slot.live && slot.generation == id.generation()).then_some(&slot.task)
    }

    /// Changes a task; what it still has to bring is accounted for.
    pub(super) fn with<R>(&mut self, id: TaskId, change: impl FnOnce(&mut Task) -> R) -> Option<R> {
        let slot = self.slots.get_mut(id.slot())?;
        if !slot.live || slot.generation != id.generation() {
            return None;
        }
        let before = slot.task.outstanding();
        let result = change(&mut slot.task);
        let after = slot.task.outstanding();
        self.pending_write = self
            .pending_write
            .saturating_sub(before)
            .saturating_add(after);
        Some(result)
    }

    /// Since when the task waits whose data has been expected longest. A wait begins with the first
    /// look at it.
    pub(super) fn expecting(&mut self, now: Instant) -> Option<Instant> {
        if self.pending_write == 0 {
            return None;
        }
        let waiting = |slot: &&mut Slot| slot.live && !slot.task.quiet();
        let since = |slot: &mut Slot| *slot.task.expecting.get_or_insert(now);
        self.slots.iter_mut().filter(waiting).map(since).min()
    }

    /// Ends a task; false if it had ended before.
    pub(super) fn remove(&mut self, id: TaskId) -> bool {
        let Some(slot) = self.slots.get_mut(id.slot()) else {
            return false;
        };
        if !slot.live || slot.generation != id.generation() {
            return false;
        }
        slot.live = false;
        self.tags.remove(&slot.task.itt);
        self.immediate = self
            .immediate
            .saturating_sub(u32::from(slot.task.immediate));
        self.pending_write = self.pending_write.saturating_sub(slot.task.outstanding());
        if let Ok(index) = u16::try_from(id.slot()) {
            self.free.push(index);
        }
        true
    }

    /// Ends all tasks.
    pub(super) fn clear(&mut self) {
        let live: Vec<TaskId> = self.ids().collect();
        for id in live {
            self.remove(id);
        }
    }

    /// A transfer tag for a task: its slot, and a number. Never [`crate::pdu::NO_TAG`], since no
    /// slot has the highest number.
    pub(super) fn transfer_tag(&mut self, id: TaskId) -> u32 {
        self.transfers = self.transfers.wrapping_add(1);
        let slot = u32::try_from(id.slot()).unwrap_or(0);
        slot << 16 | u32::from(self.transfers)
    }

    /// The live task in the slot that a transfer tag names, if its own tag is `itt`.
    pub(super) fn by_transfer_tag(&self, ttt: u32, itt: u32) -> Option<TaskId> {
        let slot = self.slots.get(usize::try_from(ttt >> 16).ok()?)?;
        let index = u16::try_from(ttt >> 16).ok()?;
        (slot.live && slot.task.itt == itt).then(|| TaskId::new(index, slot.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(session: &mut Session, itt: u32) -> TaskId {
        session.insert(|task| task.itt = itt).unwrap()
    }

    #[test]
    fn the_window_counts_what_is_in_flight() {
        let mut session = Session::new(u32::MAX - 1, 4);
        assert_eq!(session.window(), (u32::MAX - 1, 1));
        assert_eq!(session.order(u32::MAX - 1, false), Order::Deliver);
        let task = insert(&mut session, 1);
        assert_eq!(
            session.window(),
            (u32::MAX, 1),
            "one in flight, three promised"
        );
        assert_eq!(
            session.order(u32::MAX - 1, false),
            Order::Ignore,
            "a duplicate"
        );
        assert_eq!(session.order(2, false), Order::Ignore, "above the window");
        assert_eq!(session.order(0, false), Order::Gap);
        assert_eq!(session.order(77, true), Order::Deliver, "immediate");
        assert!(session.remove(task));
        assert!(!session.remove(task));
        assert_eq!(session.window(), (u32::MAX, 2));
    }

    #[test]
    fn a_smaller_window_takes_nothing_back() {
        let mut session = Session::new(10, 4);
        session.set_credits(0);
        assert_eq!(session.window(), (10, 13));
        for sn in 10..14 {
            assert_eq!(session.order(sn, false), Order::Deliver);
        }
        assert_eq!(session.window(), (14, 13), "closed");
        assert_eq!(session.order(14, false), Order::Ignore);
        assert!(!session.must_announce());
        session.set_credits(99);
        assert!(session.must_announce());
        assert_eq!(session.window(), (14, 17), "at most the configured window");
        assert!(!session.must_announce());
    }

    #[test]
    fn commands_aborted_before_they_came() {
        let mut session = Session::new(10, 8);
        assert!(!session.plug(12, 12), "not earlier than the function");
        assert!(!session.plug(18, 30), "outside the window");
        assert!(!session.plug(9, 12), "received before");
        assert!(session.plug(11, 13));
        assert_eq!(session.order(11, false), Order::Ignore);
        assert_eq!(session.order(10, false), Order::Deliver);
        assert_eq!(session.exp_cmd_sn(), 12, "past the plugged one");
        assert!(session.plug(12, 13));
        assert_eq!(session.exp_cmd_sn(), 13);
    }

    #[test]
    fn old_names_do_not_reach_new_tasks() {
        let mut session = Session::new(0, 4);
        let old = insert(&mut session, 5);
        let tag = session.transfer_tag(old);
        assert_eq!(session.by_transfer_tag(tag, 5), Some(old));
        assert!(session.remove(old));
        assert_eq!(session.by_transfer_tag(tag, 5), None);
        let new = insert(&mut session, 6);
        assert_eq!(new.slot(), old.slot());
        assert!(session.get(old).is_none());
        assert!(session.with(old, |_| ()).is_none());
        assert!(!session.remove(old));
        assert_eq!(session.by_transfer_tag(tag, 5), None);
        assert_eq!(session.find(6), Some(new));
    }

    #[test]
    fn announced_data_is_accounted_for() {
        let mut session = Session::new(0, 4);
        let write = |task: &mut Task| {
            task.write = true;
            task.edtl = 1000;
        };
        let task = session.insert(write).unwrap();
        assert_eq!(session.pending_write(), 1000);
        session.with(task, |task| task.received = 400);
        assert_eq!(session.pending_write(), 600);
        session.remove(task);
        assert_eq!(session.pending_write(), 0);
    }
}

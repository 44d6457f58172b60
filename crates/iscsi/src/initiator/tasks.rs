//! Everything an initiator waits for an answer to, by its task tag.
//!
//! The tag on the wire *is* the task's id (slot and generation), so an answer finds its task
//! without a search, and a late one for a slot used anew finds nothing.

use std::ops::Range;

use crate::command::TaskId;
use crate::limits::INITIATOR_TASKS_MAX;

/// A SCSI command in flight.
#[derive(Debug)]
pub(super) struct CommandTask<P> {
    pub(super) lun: u64,
    pub(super) cmd_sn: u32,
    /// Write data.
    pub(super) data: Option<(P, Range<usize>)>,
    /// Bytes taken.
    pub(super) read_len: u32,
    /// Bytes that have come.
    pub(super) received: u32,
    /// Next DataSN of Data-In.
    pub(super) data_sn: u32,
    /// Next R2TSN.
    pub(super) r2t_sn: u32,
}

/// What is waited for.
#[derive(Debug)]
pub(super) enum Pending<P> {
    Command(CommandTask<P>),
    Function,
    Ping {
        /// By the keep-alive timer, and of no interest to the caller.
        own: bool,
    },
    Text(Vec<u8>),
    Logout,
}

#[derive(Debug)]
struct Slot<P> {
    generation: u16,
    pending: Option<Pending<P>>,
}

#[derive(Debug)]
pub(super) struct Tasks<P> {
    slots: Vec<Slot<P>>,
    free: Vec<u16>,
}

impl<P> Tasks<P> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// `None` when the table is full.
    pub(super) fn insert(&mut self, pending: Pending<P>) -> Option<TaskId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < INITIATOR_TASKS_MAX => {
                let index = u16::try_from(self.slots.len()).ok()?;
                self.slots.push(Slot {
                    generation: 0,
                    pending: None,
                });
                index
            }
            None => return None,
        };
        let slot = self.slots.get_mut(usize::from(index))?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.pending = Some(pending);
        Some(TaskId::new(index, slot.generation))
    }

    pub(super) fn get(&mut self, id: TaskId) -> Option<&mut Pending<P>> {
        let slot = self.slots.get_mut(id.slot())?;
        if slot.generation == id.generation() {
            slot.pending.as_mut()
        } else {
            None
        }
    }

    pub(super) fn command(&mut self, id: TaskId) -> Option<&mut CommandTask<P>> {
        match self.get(id) {
            Some(Pending::Command(command)) => Some(command),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<Pending<P>> {
        let slot = self.slots.get_mut(id.slot())?;
        if slot.generation != id.generation() {
            return None;
        }
        let pending = slot.pending.take()?;
        if let Ok(index) = u16::try_from(id.slot()) {
            self.free.push(index);
        }
        Some(pending)
    }

    /// Ids of the commands in flight.
    pub(super) fn commands(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let command = matches!(slot.pending, Some(Pending::Command(_)));
            let index = u16::try_from(index).ok().filter(|_| command)?;
            Some(TaskId::new(index, slot.generation))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_answers_find_nothing() {
        let mut tasks = Tasks::<Vec<u8>>::new();
        let first = tasks.insert(Pending::Function).unwrap();
        assert!(tasks.remove(first).is_some());
        assert!(tasks.remove(first).is_none());
        let second = tasks.insert(Pending::Logout).unwrap();
        assert_eq!(first.slot(), second.slot());
        assert!(tasks.get(first).is_none());
        assert!(tasks.get(second).is_some());
        assert_eq!(tasks.len(), 1);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut tasks = Tasks::<Vec<u8>>::new();
        for _ in 0..INITIATOR_TASKS_MAX {
            assert!(tasks.insert(Pending::Function).is_some());
        }
        assert!(tasks.insert(Pending::Function).is_none());
    }
}

//! Decorator: failures and stalls by rule, for tests of what stands above a disk.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use ring::Io;

use crate::decorate::as_inner;
use crate::limits::FAULT_RULES_MAX;
use crate::request::{Disk, DiskError, Execution, Extent, OpKind, Request};

/// What happens to an operation that a rule matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// It fails without reaching the disk.
    Fail(DiskError),
    /// It is done, and then reported as failed.
    FailAfter(DiskError),
    /// It waits for [`Fault::release`], then goes on to the disk.
    Stall,
}

/// Which operations, how many of them, and what happens.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Only this kind.
    pub kind: Option<OpKind>,
    /// Only what touches these bytes.
    pub range: Option<Extent>,
    /// The first so many matches pass.
    pub skip: u64,
    /// Then so many are hit; `u64::MAX` for all.
    pub count: u64,
    /// What happens to them.
    pub action: Action,
}

impl Rule {
    /// Hits every operation.
    pub const fn any(action: Action) -> Self {
        Self {
            kind: None,
            range: None,
            skip: 0,
            count: u64::MAX,
            action,
        }
    }

    /// Hits the next operation of a kind.
    pub const fn next(kind: OpKind, action: Action) -> Self {
        Self {
            kind: Some(kind),
            range: None,
            skip: 0,
            count: 1,
            action,
        }
    }

    fn hits(&mut self, request: &Request) -> bool {
        let kind = self.kind.is_none_or(|kind| kind == request.kind());
        let range = self.range.is_none_or(|range| request.touches(range));
        if !kind || !range || self.count == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.count != u64::MAX {
            self.count -= 1;
        }
        true
    }
}

#[derive(Debug, Default)]
struct State {
    rules: VecDeque<Rule>,
    /// Raised by a release; a stalled operation waits until it is above its own.
    releases: u64,
    stalled: Vec<(u64, Waker)>,
    next: u64,
}

/// There is no room for another rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("at most {FAULT_RULES_MAX} fault rules are held; clear some first")]
pub struct TooManyRules;

/// A disk that fails by rule.
#[derive(Debug)]
pub struct Fault {
    inner: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

impl Fault {
    /// Without rules nothing changes.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    /// Adds a rule behind the others; the first that hits decides.
    ///
    /// # Errors
    /// [`TooManyRules`] past [`FAULT_RULES_MAX`].
    pub fn add(&self, rule: Rule) -> Result<(), TooManyRules> {
        let mut state = self.state.lock();
        if state.rules.len() >= FAULT_RULES_MAX {
            return Err(TooManyRules);
        }
        state.rules.push_back(rule);
        Ok(())
    }

    /// Takes all rules away and lets the stalled go.
    pub fn release(&self) {
        let stalled = {
            let mut state = self.state.lock();
            state.rules.clear();
            state.releases += 1;
            std::mem::take(&mut state.stalled)
        };
        stalled.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Operations stalled now.
    pub fn stalled(&self) -> usize {
        self.state.lock().stalled.len()
    }
}

/// Takes a stalled operation's waker out when the operation is dropped.
struct Place {
    state: Arc<Mutex<State>>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.lock().stalled.retain(|(id, _)| *id != self.id);
    }
}

async fn stall(state: &Arc<Mutex<State>>) {
    let (place, releases) = {
        let mut now = state.lock();
        now.next += 1;
        (
            Place {
                state: Arc::clone(state),
                id: now.next,
            },
            now.releases,
        )
    };
    poll_fn(|context| {
        let mut now = state.lock();
        if now.releases > releases {
            return Poll::Ready(());
        }
        now.stalled.retain(|(id, _)| *id != place.id);
        now.stalled.push((place.id, context.waker().clone()));
        Poll::Pending
    })
    .await;
}

impl Disk for Fault {
    as_inner!();

    fn execute(&self, io: &Io, request: Request) -> Execution {
        let (inner, state, io) = (Arc::clone(&self.inner), Arc::clone(&self.state), io.clone());
        Box::pin(async move {
            let action = {
                let mut state = state.lock();
                state
                    .rules
                    .iter_mut()
                    .find_map(|rule| rule.hits(&request).then_some(rule.action))
            };
            match action {
                Some(Action::Fail(error)) => return Err(error),
                Some(Action::Stall) => stall(&state).await,
                Some(Action::FailAfter(_)) | None => {}
            }
            let reply = inner.execute(&io, request).await?;
            if let Some(Action::FailAfter(error)) = action {
                Err(error)
            } else {
                Ok(reply)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::RamDisk;
    use crate::request::CacheMode;
    use crate::testing::{fill, read, shards, write};

    fn fault() -> Fault {
        Fault::new(Arc::new(
            RamDisk::new(1 << 20, 512, CacheMode::None).unwrap(),
        ))
    }

    #[test]
    fn kinds_ranges_and_counts() {
        for mut shard in shards() {
            let disk = fault();
            let medium = DiskError::Medium { offset: 0 };
            let rule = Rule {
                kind: Some(OpKind::Write),
                range: Some(Extent {
                    offset: 1024,
                    len: 512,
                }),
                skip: 1,
                count: 2,
                action: Action::Fail(medium),
            };
            disk.add(rule).unwrap();
            let outcome = |shard: &mut crate::testing::Shard, offset| {
                shard.run(&disk, write(offset, &fill(7, 1024), false)).err()
            };
            assert_eq!(outcome(&mut shard, 0), None); // does not touch it
            assert_eq!(outcome(&mut shard, 512), None); // skipped
            assert_eq!(outcome(&mut shard, 1024), Some(medium));
            assert_eq!(outcome(&mut shard, 512), Some(medium));
            assert_eq!(outcome(&mut shard, 512), None); // used up
            assert!(shard.run(&disk, read(1024, 512)).is_ok());
        }
    }

    #[test]
    fn failed_after_it_was_done() {
        for mut shard in shards() {
            let disk = fault();
            disk.add(Rule::next(
                OpKind::Write,
                Action::FailAfter(DiskError::Gone),
            ))
            .unwrap();
            let data = fill(9, 512);
            assert_eq!(
                shard.run(&disk, write(0, &data, false)).unwrap_err(),
                DiskError::Gone
            );
            assert_eq!(shard.bytes(&disk, 0, 512), data);
        }
    }

    #[test]
    fn stalled_until_released_or_dropped() {
        for mut shard in shards() {
            let disk = fault();
            disk.add(Rule::any(Action::Stall)).unwrap();
            shard.start(1, &disk, Request::Flush);
            shard.until(|_| disk.stalled() == 1);
            drop(disk.execute(&shard.io(), Request::Flush));
            disk.release();
            assert!(shard.outcome(1).is_ok());
            assert_eq!(disk.stalled(), 0);
            assert!(shard.run(&disk, Request::Flush).is_ok());
        }
    }

    #[test]
    fn rules_are_bounded() {
        let disk = fault();
        for _ in 0..FAULT_RULES_MAX {
            disk.add(Rule::any(Action::Stall)).unwrap();
        }
        assert_eq!(disk.add(Rule::any(Action::Stall)), Err(TooManyRules));
    }
}

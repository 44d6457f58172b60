//! The one way of an operation to the generation it runs under, and how a mode change closes it.
//!
//! An operation enters, and keeps its [`Pass`] to its end. A change closes the entrance: whoever
//! comes now is held (a waiting future; as many as the caller has started), those inside go on to
//! their end. Then it publishes the new generation, or lets the old one stay, and those held enter,
//! those of one reactor in the order they came. A held operation that is dropped is forgotten.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, RwLock};

use super::generation::Generation;

/// Where operations enter.
#[derive(Debug)]
pub(crate) struct Entrance {
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// In force: what is told about the device follows from it.
    generation: Arc<Generation>,
    /// What an operation takes along; `None` while a change waits for those inside.
    open: Option<Arc<Pass>>,
    /// Operations that came while it was closed, in order.
    held: Vec<(u64, Waker)>,
    next: u64,
}

/// The generation, for as long as an operation runs.
#[derive(Debug)]
pub(crate) struct Pass {
    generation: Arc<Generation>,
    ended: Arc<Ended>,
}

impl Pass {
    fn over(generation: &Arc<Generation>) -> Arc<Self> {
        Arc::new(Self {
            generation: Arc::clone(generation),
            ended: Arc::default(),
        })
    }
}

impl Deref for Pass {
    type Target = Generation;

    fn deref(&self) -> &Generation {
        &self.generation
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        *self.ended.flag.lock() = true;
        self.ended.changed.notify_all();
    }
}

#[derive(Debug, Default)]
struct Ended {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Entrance {
    pub(super) fn new(generation: Generation) -> Self {
        let generation = Arc::new(generation);
        let open = Some(Pass::over(&generation));
        let (held, next) = (Vec::new(), 0);
        Self {
            state: RwLock::new(State {
                generation,
                open,
                held,
                next,
            }),
        }
    }

    /// The generation in force.
    pub(super) fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.state.read().generation)
    }

    /// Waits while a mode change is under way.
    pub(super) fn enter(&self) -> Enter<'_> {
        Enter {
            entrance: self,
            id: None,
        }
    }

    /// Holds whoever comes from now on. One change at a time: the caller sees to that.
    pub(super) fn close(&self) -> Closed<'_> {
        let (generation, pass) = {
            let mut state = self.state.write();
            (Arc::clone(&state.generation), state.open.take())
        };
        // Were another change under way, this one would wait in vain, not go on beside it.
        let (inside, ended) = pass.map_or_else(Default::default, |pass| {
            (Arc::downgrade(&pass), Arc::clone(&pass.ended))
        });
        Closed {
            entrance: self,
            generation,
            pass: inside,
            ended,
            published: false,
        }
    }

    fn open(&self, generation: Arc<Generation>, pass: Arc<Pass>) {
        let held = {
            let mut state = self.state.write();
            state.generation = generation;
            state.open = Some(pass);
            std::mem::take(&mut state.held)
        };
        held.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Operations that wait to enter; `None` while it is open.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Option<usize> {
        let state = self.state.read();
        state.open.is_none().then_some(state.held.len())
    }
}

/// Waiting to enter.
#[derive(Debug)]
pub(super) struct Enter<'a> {
    entrance: &'a Entrance,
    /// Its place among the held.
    id: Option<u64>,
}

impl Future for Enter<'_> {
    type Output = Arc<Pass>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Arc<Pass>> {
        let this = &mut *self;
        if let Some(pass) = &this.entrance.state.read().open {
            return Poll::Ready(Arc::clone(pass));
        }
        let mut state = this.entrance.state.write();
        // It may have opened between the two locks.
        if let Some(pass) = &state.open {
            return Poll::Ready(Arc::clone(pass));
        }
        let id = *this.id.get_or_insert(state.next);
        match state.held.iter_mut().find(|(held, _)| *held == id) {
            Some((_, waker)) => waker.clone_from(context.waker()),
            None => {
                state.next = state.next.max(id + 1);
                state.held.push((id, context.waker().clone()));
            }
        }
        Poll::Pending
    }
}

impl Drop for Enter<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.entrance
                .state
                .write()
                .held
                .retain(|(held, _)| *held != id);
        }
    }
}

/// A closed entrance. Dropped, it opens again with the generation that was in force.
#[derive(Debug)]
pub(super) struct Closed<'a> {
    entrance: &'a Entrance,
    generation: Arc<Generation>,
    /// Not counted, so that it ends with the last operation inside.
    pass: Weak<Pass>,
    ended: Arc<Ended>,
    published: bool,
}

impl Closed<'_> {
    /// Waits until the last operation inside has ended; false at the deadline.
    pub(super) fn drain(&self, deadline: Instant) -> bool {
        let mut ended = self.ended.flag.lock();
        while !*ended {
            let wait = self.ended.changed.wait_until(&mut ended, deadline);
            if wait.timed_out() {
                return *ended;
            }
        }
        true
    }

    /// Opens with a new generation.
    pub(super) fn publish(mut self, next: Generation) {
        self.published = true;
        let next = Arc::new(next);
        let pass = Pass::over(&next);
        self.entrance.open(next, pass);
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        let generation = Arc::clone(&self.generation);
        // Those still inside share the pass with those that enter now: the next change waits for
        // all of them.
        let pass = self.pass.upgrade();
        let pass = pass.unwrap_or_else(|| Pass::over(&generation));
        self.entrance.open(generation, pass);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;
    use crate::request::CacheMode;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(enter: &mut Enter<'_>, count: &Arc<Count>) -> Poll<Arc<Pass>> {
        let waker = Waker::from(Arc::clone(count));
        Pin::new(enter).poll(&mut Context::from_waker(&waker))
    }

    fn pass(enter: &mut Enter<'_>, count: &Arc<Count>) -> Arc<Pass> {
        match poll(enter, count) {
            Poll::Ready(pass) => pass,
            Poll::Pending => panic!("it is held"),
        }
    }

    fn generation(mode: CacheMode) -> Generation {
        Generation::buffered(mode)
    }

    fn soon() -> Instant {
        super::super::mode::now() + Duration::from_millis(5)
    }

    #[test]
    fn held_until_the_new_generation_is_there() {
        let (entrance, count) = (
            Entrance::new(generation(CacheMode::None)),
            Arc::new(Count::default()),
        );
        let inside = pass(&mut entrance.enter(), &count);
        let closed = entrance.close();
        let mut held = [entrance.enter(), entrance.enter()];
        for each in &mut held {
            assert!(poll(each, &count).is_pending());
            assert!(poll(each, &count).is_pending());
        }
        let mut dropped = entrance.enter();
        assert!(poll(&mut dropped, &count).is_pending());
        assert_eq!(entrance.held(), Some(3));
        drop(dropped);
        assert_eq!(entrance.held(), Some(2));
        assert!(!closed.drain(soon()));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        drop(inside);
        assert!(closed.drain(soon()));
        closed.publish(generation(CacheMode::WriteBack));
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        for each in &mut held {
            assert_eq!(pass(each, &count).mode(), CacheMode::WriteBack);
        }
        assert_eq!(entrance.held(), None);
    }

    #[test]
    fn the_next_change_waits_for_those_an_earlier_one_gave_up_on() {
        let (entrance, count) = (
            Entrance::new(generation(CacheMode::None)),
            Arc::new(Count::default()),
        );
        let before = pass(&mut entrance.enter(), &count);
        let closed = entrance.close();
        let mut held = entrance.enter();
        assert!(poll(&mut held, &count).is_pending());
        assert!(!closed.drain(soon()));
        drop(closed);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        let after = pass(&mut held, &count);
        assert_eq!(after.mode(), CacheMode::None);
        let closed = entrance.close();
        drop(after);
        assert!(!closed.drain(soon()), "the stuck one is forgotten");
        drop(before);
        assert!(closed.drain(soon()));
        drop(closed);
        assert_eq!(entrance.generation().mode(), CacheMode::None);
        drop(pass(&mut entrance.enter(), &count));
    }
}

//! Places for connections. Users besides root and the service's own have a bounded share, each and
//! together: whatever they open and leave, these two come in.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::limits;
use crate::peer::Peer;

/// Connections of the other users by their numbers. Users without any are not in it.
type Others = Arc<Mutex<HashMap<u32, usize>>>;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    others: Others,
}

/// One place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _any: OwnedSemaphorePermit,
    other: Option<(Others, u32)>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
            others: Others::default(),
        }
    }

    /// Waits until somebody can be let in.
    pub(super) async fn free(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.all).acquire_owned().await
    }

    /// A place for this peer, unless they have their share. Who the kernel does not know is a user
    /// of their own.
    pub(super) fn take(&self, any: OwnedSemaphorePermit, peer: Option<Peer>) -> Option<Place> {
        if peer.is_some_and(Peer::is_own) {
            return Some(Place {
                _any: any,
                other: None,
            });
        }
        let uid = peer.map_or(u32::MAX, Peer::uid);
        let mut others = self.others.lock();
        let have = others.get(&uid).copied().unwrap_or(0);
        if have >= limits::USER_CONNECTIONS_MAX
            || others.values().sum::<usize>() >= limits::OTHERS_CONNECTIONS_MAX
        {
            return None;
        }
        others.insert(uid, have + 1);
        Some(Place {
            _any: any,
            other: Some((Arc::clone(&self.others), uid)),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((others, uid)) = &self.other else {
            return;
        };
        let mut others = others.lock();
        if let Some(have) = others.get_mut(uid) {
            *have -= 1;
            if *have == 0 {
                others.remove(uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_cannot_take_all() {
        let places = Places::new();
        let user = |uid| Some(Peer::of_user(uid));
        let mut taken = Vec::new();
        let mut fill = |first: u32| {
            for uid in first..first + 5 {
                for _ in 0..=limits::USER_CONNECTIONS_MAX {
                    let any = Arc::clone(&places.all).try_acquire_owned().unwrap();
                    taken.extend(places.take(any, user(uid)));
                }
            }
            taken.len()
        };
        assert_eq!(fill(4000), limits::OTHERS_CONNECTIONS_MAX);
        assert_eq!(fill(5000), limits::OTHERS_CONNECTIONS_MAX);
        let any = places.free().await.unwrap();
        assert!(places.take(any, None).is_none());
        // Root comes in all the same.
        let any = places.free().await.unwrap();
        assert!(places.take(any, user(0)).is_some());

        taken.truncate(limits::USER_CONNECTIONS_MAX);
        let any = places.free().await.unwrap();
        assert!(places.take(any, user(4000)).is_none(), "has their share");
        let any = places.free().await.unwrap();
        assert!(places.take(any, user(4001)).is_some());
        taken.clear();
        assert!(places.others.lock().is_empty());
        assert_eq!(places.all.available_permits(), limits::CONNECTIONS_MAX);
    }
}

//! Who may keep a connection that is not a session: bounds by where it comes from.
//!
//! Anybody who reaches a portal can open connections and leave them, before login or in discovery
//! sessions, which need no access rule. Each network address gets so many of either kind and no
//! more; the last descriptors of the process are kept for the service's own files. Who comes on top
//! is turned away, and the admin floor is told now and then.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::limits;
use crate::notice::Notice;

/// One for the service. The lock is held for look-ups only, when connections come, change their kind
/// or go.
#[derive(Debug)]
pub(crate) struct Door {
    inside: Mutex<Inside>,
    connections_max: usize,
}

#[derive(Debug, Default)]
struct Inside {
    connections: usize,
    /// Places that have any of either kind.
    places: HashMap<IpAddr, Count>,
    /// Turned away since that was last told, and the last of them.
    refused: u64,
    last: Option<(SocketAddr, TurnedAway)>,
    told: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Count {
    logins: usize,
    discoveries: usize,
}

/// Why somebody is turned away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TurnedAway {
    /// Too many connections of its address have not logged in.
    Logins,
    /// Too many discovery sessions of its address.
    Discoveries,
    /// The process may not open more connections.
    Descriptors,
    /// The shard has all it may have.
    Shard,
}

impl TurnedAway {
    const fn reason(self) -> &'static str {
        match self {
            Self::Logins => "too many connections from there have not logged in",
            Self::Discoveries => "too many discovery sessions from there",
            Self::Descriptors => "the process may not open more files (RLIMIT_NOFILE)",
            Self::Shard => "there are too many connections",
        }
    }
}

/// What a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Login,
    Discovery,
    Session,
}

/// A connection that was let in; gives its place back when it is dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    door: Arc<Door>,
    place: IpAddr,
    kind: Kind,
}

impl Door {
    /// `descriptors`: how many the process may have; none where there is no limit.
    pub(crate) fn new(descriptors: Option<u64>) -> Self {
        let reserved = |all: u64| (all / 4).min(limits::DESCRIPTORS_RESERVED);
        let left = descriptors.map(|all| all - reserved(all));
        Self {
            inside: Mutex::default(),
            connections_max: left
                .and_then(|left| usize::try_from(left).ok())
                .unwrap_or(usize::MAX),
        }
    }

    /// Lets a connection in, whose login begins.
    ///
    /// # Errors
    /// It is to be closed; that is counted already.
    pub(crate) fn enter(self: &Arc<Self>, peer: SocketAddr) -> Result<Visit, TurnedAway> {
        let place = place_of(peer.ip());
        let mut inside = self.inside.lock();
        let logins = inside.places.get(&place).map_or(0, |count| count.logins);
        let refusal = if inside.connections >= self.connections_max {
            Some(TurnedAway::Descriptors)
        } else if logins >= limits::LOGINS_PER_PEER_MAX {
            Some(TurnedAway::Logins)
        } else {
            None
        };
        if let Some(why) = refusal {
            inside.refuse(peer, why);
            return Err(why);
        }
        inside.connections += 1;
        inside.places.entry(place).or_default().logins += 1;
        drop(inside);
        Ok(Visit {
            door: Arc::clone(self),
            place,
            kind: Kind::Login,
        })
    }

    /// Counts somebody who was turned away elsewhere.
    pub(crate) fn refuse(&self, peer: SocketAddr, why: TurnedAway) {
        self.inside.lock().refuse(peer, why);
    }

    /// What the admin floor is to be told, at most once in [`limits::REFUSALS_TOLD_EVERY`].
    pub(crate) fn report(&self, now: Instant) -> Option<Notice> {
        let mut inside = self.inside.lock();
        let quiet =
            |told: Instant| now.saturating_duration_since(told) < limits::REFUSALS_TOLD_EVERY;
        if inside.refused == 0 || inside.told.is_some_and(quiet) {
            return None;
        }
        let (peer, why) = inside.last?;
        inside.told = Some(now);
        Some(Notice::ConnectionsRefused {
            count: std::mem::take(&mut inside.refused),
            peer,
            reason: why.reason().to_owned(),
        })
    }
}

impl Inside {
    fn refuse(&mut self, peer: SocketAddr, why: TurnedAway) {
        self.refused += 1;
        self.last = Some((peer, why));
    }

    fn leave(&mut self, place: IpAddr, kind: Kind) {
        let Some(count) = self.places.get_mut(&place) else {
            return;
        };
        match kind {
            Kind::Login => count.logins -= 1,
            Kind::Discovery => count.discoveries -= 1,
            Kind::Session => return,
        }
        if *count == Count::default() {
            self.places.remove(&place);
        }
    }
}

impl Visit {
    /// It becomes a discovery session.
    ///
    /// # Errors
    /// Its address has too many of these; that is counted already.
    pub(crate) fn discover(&mut self, peer: SocketAddr) -> Result<(), TurnedAway> {
        let mut inside = self.door.inside.lock();
        let count = inside.places.entry(self.place).or_default();
        if count.discoveries >= limits::DISCOVERIES_PER_PEER_MAX {
            inside.refuse(peer, TurnedAway::Discoveries);
            return Err(TurnedAway::Discoveries);
        }
        count.discoveries += 1;
        inside.leave(self.place, self.kind);
        self.kind = Kind::Discovery;
        Ok(())
    }

    /// It becomes a session that the access rules let in.
    pub(crate) fn settle(&mut self) {
        self.door.inside.lock().leave(self.place, self.kind);
        self.kind = Kind::Session;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock();
        inside.connections -= 1;
        inside.leave(self.place, self.kind);
    }
}

/// Where an address counts: an IPv6 host has as many addresses as it likes in its /64.
fn place_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 4000))
    }

    #[test]
    fn an_address_has_so_many_logins_and_another_one_its_own() {
        let door = Arc::new(Door::new(None));
        let mut visits: Vec<Visit> = (0..limits::LOGINS_PER_PEER_MAX)
            .map(|_| door.enter(peer(1)).unwrap())
            .collect();
        assert_eq!(door.enter(peer(1)).unwrap_err(), TurnedAway::Logins);
        let mapped = "[::ffff:10.0.0.1]:9".parse().unwrap();
        assert_eq!(door.enter(mapped).unwrap_err(), TurnedAway::Logins);
        drop(door.enter(peer(2)).unwrap());
        // One that logs in makes room, and so does one that goes.
        visits[0].settle();
        visits.push(door.enter(peer(1)).unwrap());
        assert!(door.enter(peer(1)).is_err());
        visits.pop();
        drop(door.enter(peer(1)).unwrap());
        drop(visits);
        assert!(door.inside.lock().places.is_empty());
        assert_eq!(door.inside.lock().connections, 0);
    }

    #[test]
    fn an_address_has_so_many_discovery_sessions() {
        let door = Arc::new(Door::new(None));
        let discover = || {
            let mut visit = door.enter(peer(1)).unwrap();
            visit.discover(peer(1)).map(|()| visit)
        };
        let mut visits: Vec<Visit> = (0..limits::DISCOVERIES_PER_PEER_MAX)
            .map(|_| discover().unwrap())
            .collect();
        assert_eq!(discover().unwrap_err(), TurnedAway::Discoveries);
        visits.pop();
        discover().unwrap();
        drop(visits);
        assert!(door.inside.lock().places.is_empty());
    }

    #[test]
    fn hosts_of_one_ipv6_network_count_together() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let same: IpAddr = "2001:db8::ffff:2".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        assert_eq!(place_of(one), place_of(same));
        assert_ne!(place_of(one), place_of(other));
    }

    #[test]
    fn descriptors_are_kept_back_and_refusals_told_now_and_then() {
        let door = Arc::new(Door::new(Some(8)));
        let visits: Vec<Visit> = (0..6).map(|n| door.enter(peer(n)).unwrap()).collect();
        assert_eq!(door.enter(peer(9)).unwrap_err(), TurnedAway::Descriptors);
        assert!(door.enter(peer(9)).is_err());
        #[expect(clippy::disallowed_methods, reason = "any moment will do")]
        let now = Instant::now();
        let Some(Notice::ConnectionsRefused { count: 2, .. }) = door.report(now) else {
            panic!("not told");
        };
        assert!(door.enter(peer(9)).is_err());
        assert_eq!(door.report(now + Duration::from_secs(1)), None);
        let later = now + limits::REFUSALS_TOLD_EVERY;
        assert!(door.report(later).is_some());
        assert_eq!(door.report(later + limits::REFUSALS_TOLD_EVERY), None);
        drop(visits);
        drop(door.enter(peer(9)).unwrap());
    }
}

//! Who may keep a connection that is not a session: bounds by where it comes from.
//!
//! Anybody who reaches a portal can open connections and leave them, before login or in discovery
//! sessions, which need no access rule. Each network (an IPv4 address; an IPv6 /64, in which a host
//! takes as many addresses as it likes) has so many of either kind and no more. When that is
//! reached, the address that has most of them pays: its oldest is closed for a newcomer from
//! elsewhere in the network, and its own newcomers are turned away. So nobody locks out a neighbour.
//! The last descriptors of the process are kept for the service's own files. The admin floor is told
//! now and then of those who were turned away.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use ring::Fd;

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
    /// Networks that have any of either kind.
    networks: HashMap<IpAddr, Guests>,
    /// Rises with every connection.
    last_number: u64,
    /// Turned away since that was last told, and the last of them.
    refused: u64,
    last: Option<(SocketAddr, TurnedAway)>,
    told: Option<Instant>,
}

/// Those of one network that are not sessions.
#[derive(Debug, Default)]
struct Guests {
    logins: Crowd,
    discoveries: Crowd,
}

impl Guests {
    #[cfg(test)]
    fn len(&self) -> usize {
        self.logins.0.len() + self.discoveries.0.len()
    }
}

/// Connections of one kind from one network, oldest first.
#[derive(Debug, Default)]
struct Crowd(VecDeque<Guest>);

#[derive(Clone, Debug)]
struct Guest {
    number: u64,
    peer: SocketAddr,
    socket: Fd,
}

/// Why somebody is turned away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TurnedAway {
    /// Too many connections of its network have not logged in.
    Logins,
    /// Too many discovery sessions of its network.
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
    guest: Guest,
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
    pub(crate) fn enter(
        self: &Arc<Self>,
        peer: SocketAddr,
        socket: &Fd,
    ) -> Result<Visit, TurnedAway> {
        let mut inside = self.inside.lock();
        if inside.connections >= self.connections_max {
            inside.refuse(peer, TurnedAway::Descriptors);
            return Err(TurnedAway::Descriptors);
        }
        inside.last_number += 1;
        let guest = Guest {
            number: inside.last_number,
            peer,
            socket: Arc::clone(socket),
        };
        let gone = inside.join(&guest, Kind::Login)?;
        inside.connections += 1;
        drop(inside);
        turn_out(gone);
        Ok(Visit {
            door: Arc::clone(self),
            guest,
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

    /// Makes one of a kind; gives the one that goes for it. Either way who has to go is counted.
    fn join(&mut self, guest: &Guest, kind: Kind) -> Result<Option<Guest>, TurnedAway> {
        let guests = self.networks.entry(network_of(guest.peer)).or_default();
        let (crowd, most, why) = match kind {
            Kind::Login => (
                &mut guests.logins,
                limits::LOGINS_PER_PEER_MAX,
                TurnedAway::Logins,
            ),
            Kind::Discovery => (
                &mut guests.discoveries,
                limits::DISCOVERIES_PER_PEER_MAX,
                TurnedAway::Discoveries,
            ),
            Kind::Session => return Ok(None),
        };
        let full = crowd.0.len() >= most;
        let gone = full.then(|| crowd.pay_for(guest)).flatten();
        let joins = !full || gone.is_some();
        if joins {
            crowd.0.push_back(guest.clone());
        }
        if full {
            self.refuse(gone.as_ref().unwrap_or(guest).peer, why);
        }
        if joins { Ok(gone) } else { Err(why) }
    }

    /// It is none of its kind any more; perhaps it had to go before.
    fn leave(&mut self, guest: &Guest, kind: Kind) {
        let network = network_of(guest.peer);
        let Some(guests) = self.networks.get_mut(&network) else {
            return;
        };
        match kind {
            Kind::Login => guests.logins.forget(guest),
            Kind::Discovery => guests.discoveries.forget(guest),
            Kind::Session => return,
        }
        if guests.logins.0.is_empty() && guests.discoveries.0.is_empty() {
            self.networks.remove(&network);
        }
    }
}

impl Crowd {
    /// Takes out the oldest of the address that has most; none where that is the newcomer's own.
    fn pay_for(&mut self, newcomer: &Guest) -> Option<Guest> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for guest in &self.0 {
            *counts.entry(address_of(guest.peer)).or_default() += 1;
        }
        let most = counts.values().max()?;
        let place = self
            .0
            .iter()
            .position(|guest| counts.get(&address_of(guest.peer)) == Some(most))?;
        let pays = address_of(self.0.get(place)?.peer);
        (pays != address_of(newcomer.peer))
            .then(|| self.0.remove(place))
            .flatten()
    }

    fn forget(&mut self, guest: &Guest) {
        self.0.retain(|other| other.number != guest.number);
    }
}

/// Ends the connection of one that was counted out: its shard sees that, and lets it go.
fn turn_out(gone: Option<Guest>) {
    if let Some(guest) = gone {
        // Perhaps it has ended by itself.
        let _ = ring::shutdown(&guest.socket);
    }
}

impl Visit {
    /// It becomes a discovery session.
    ///
    /// # Errors
    /// Its address has too many of these; that is counted already.
    pub(crate) fn discover(&mut self) -> Result<(), TurnedAway> {
        let mut inside = self.door.inside.lock();
        let gone = inside.join(&self.guest, Kind::Discovery)?;
        inside.leave(&self.guest, self.kind);
        drop(inside);
        turn_out(gone);
        self.kind = Kind::Discovery;
        Ok(())
    }

    /// It becomes a session that the access rules let in.
    pub(crate) fn settle(&mut self) {
        self.door.inside.lock().leave(&self.guest, self.kind);
        self.kind = Kind::Session;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock();
        inside.connections -= 1;
        inside.leave(&self.guest, self.kind);
    }
}

fn address_of(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

/// Where an address counts: an IPv6 host has as many addresses as it likes in its /64.
fn network_of(peer: SocketAddr) -> IpAddr {
    match address_of(peer) {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 4000))
    }

    fn six(host: u16) -> SocketAddr {
        SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, host], 4000))
    }

    /// A connection that nobody else has an end of.
    fn enter(door: &Arc<Door>, peer: SocketAddr) -> Result<Visit, TurnedAway> {
        let (socket, _) = UnixStream::pair().unwrap();
        door.enter(peer, &Arc::new(socket.into()))
    }

    fn discover(door: &Arc<Door>, peer: SocketAddr) -> Result<Visit, TurnedAway> {
        let mut visit = enter(door, peer)?;
        visit.discover().map(|()| visit)
    }

    fn is_empty(door: &Door) -> bool {
        let inside = door.inside.lock();
        inside.networks.is_empty() && inside.connections == 0
    }

    #[test]
    fn an_address_has_so_many_logins_and_another_one_its_own() {
        let door = Arc::new(Door::new(None));
        let mut visits: Vec<Visit> = (0..limits::LOGINS_PER_PEER_MAX)
            .map(|_| enter(&door, peer(1)).unwrap())
            .collect();
        assert_eq!(enter(&door, peer(1)).unwrap_err(), TurnedAway::Logins);
        let mapped = "[::ffff:10.0.0.1]:9".parse().unwrap();
        assert_eq!(enter(&door, mapped).unwrap_err(), TurnedAway::Logins);
        drop(enter(&door, peer(2)).unwrap());
        // One that logs in makes room, and so does one that goes.
        visits[0].settle();
        visits.push(enter(&door, peer(1)).unwrap());
        assert!(enter(&door, peer(1)).is_err());
        visits.pop();
        drop(enter(&door, peer(1)).unwrap());
        drop(visits);
        assert!(is_empty(&door));
    }

    #[test]
    fn an_address_has_so_many_discovery_sessions() {
        let door = Arc::new(Door::new(None));
        let mut visits: Vec<Visit> = (0..limits::DISCOVERIES_PER_PEER_MAX)
            .map(|_| discover(&door, peer(1)).unwrap())
            .collect();
        let refused = discover(&door, peer(1)).unwrap_err();
        assert_eq!(refused, TurnedAway::Discoveries);
        visits.pop();
        discover(&door, peer(1)).unwrap();
        drop(visits);
        assert!(is_empty(&door));
    }

    #[test]
    fn one_host_of_an_ipv6_network_does_not_lock_out_another() {
        type Come = fn(&Arc<Door>, SocketAddr) -> Result<Visit, TurnedAway>;
        let kinds: [(Come, usize); 2] = [
            (enter, limits::LOGINS_PER_PEER_MAX),
            (discover, limits::DISCOVERIES_PER_PEER_MAX),
        ];
        for (come, most) in kinds {
            let door = Arc::new(Door::new(None));
            let hers: Vec<Visit> = (0..most).map(|_| come(&door, six(1)).unwrap()).collect();
            assert!(come(&door, six(1)).is_err(), "her own bound");
            let crowd = || {
                door.inside
                    .lock()
                    .networks
                    .values()
                    .map(Guests::len)
                    .sum::<usize>()
            };
            let his: Vec<Visit> = (0..most / 2)
                .map(|_| come(&door, six(2)).unwrap())
                .collect();
            assert_eq!(crowd(), most, "her oldest went for them");
            // As many as she has: now it is between the two, and another one is still let in.
            let third = come(&door, six(3)).unwrap();
            assert_eq!(crowd(), most);
            drop((hers, his, third));
            assert!(is_empty(&door));
        }
    }

    #[test]
    fn many_addresses_do_not_lock_out_a_neighbour_either() {
        let door = Arc::new(Door::new(None));
        let most = u16::try_from(limits::LOGINS_PER_PEER_MAX).unwrap();
        let (socket, mut end) = UnixStream::pair().unwrap();
        let oldest = door.enter(six(0), &Arc::new(socket.into())).unwrap();
        let others: Vec<Visit> = (1..most)
            .map(|host| enter(&door, six(host)).unwrap())
            .collect();
        let mut new = enter(&door, six(most)).unwrap();
        // Its connection is ended, whatever its shard is at.
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
        new.settle();
        drop((oldest, others, new));
        assert!(is_empty(&door));
    }

    #[test]
    fn other_networks_count_by_themselves() {
        let other: SocketAddr = "[fd00:0:0:1::1]:9".parse().unwrap();
        assert_eq!(network_of(six(1)), network_of(six(2)));
        assert_ne!(network_of(six(1)), network_of(other));
    }

    #[test]
    fn descriptors_are_kept_back_and_refusals_told_now_and_then() {
        let door = Arc::new(Door::new(Some(8)));
        let visits: Vec<Visit> = (0..6).map(|n| enter(&door, peer(n)).unwrap()).collect();
        assert_eq!(enter(&door, peer(9)).unwrap_err(), TurnedAway::Descriptors);
        assert!(enter(&door, peer(9)).is_err());
        #[expect(clippy::disallowed_methods, reason = "any moment will do")]
        let now = Instant::now();
        let Some(Notice::ConnectionsRefused { count: 2, .. }) = door.report(now) else {
            panic!("not told");
        };
        assert!(enter(&door, peer(9)).is_err());
        assert_eq!(door.report(now + Duration::from_secs(1)), None);
        let later = now + limits::REFUSALS_TOLD_EVERY;
        assert!(door.report(later).is_some());
        assert_eq!(door.report(later + limits::REFUSALS_TOLD_EVERY), None);
        drop(visits);
        drop(enter(&door, peer(9)).unwrap());
    }
}

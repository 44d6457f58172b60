//! Persistent reservations against a naive model.
//!
//! The model is written from the standard's own lists of steps, over plain arrays, and shares nothing
//! with the implementation: nexuses are indices, keys are numbers, tables are spelled out. Random
//! sequences of commands, as bytes, run through both; after each command the status, the reports, the
//! attentions, the aborted nexuses and the access of everybody must agree.

use proptest::prelude::*;
use scsi::reservation::State;
use scsi::{Attention, Nexus, Status};

use crate::harness::{Host, block, nexus, reserve_in, reserve_out, ten};

/// Nexuses: a and b through two ports each.
const N: usize = 4;

fn who(i: usize) -> Nexus {
    nexus(['a', 'a', 'b', 'b'][i], [1, 2, 1, 2][i])
}

/// The nexus of the same initiator through the other port.
fn twin(i: usize) -> usize {
    [1, 0, 3, 2][i]
}

#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Good,
    Conflict,
    /// ASC and ASCQ.
    Illegal(u16),
}

#[derive(Clone, Debug)]
struct Order {
    from: usize,
    action: u8,
    kind: u8,
    key: u64,
    service_key: u64,
    aptpl: bool,
    all_ports: bool,
    /// SPEC_I_PT with these nexuses' initiator ports.
    also: Option<Vec<usize>>,
    /// REGISTER AND MOVE.
    to: usize,
    unregister: bool,
}

#[derive(Clone, Debug, Default)]
struct Model {
    generation: u32,
    aptpl: bool,
    /// 0: not registered.
    key: [u64; N],
    /// Type and holder; no holder under the all-registrants types.
    reserved: Option<(u8, Option<usize>)>,
    told: Vec<(usize, u16)>,
    aborted: Vec<usize>,
}

const RELEASED: u16 = 0x2a04;
const PREEMPTED: u16 = 0x2a03;
const UNREGISTERED: u16 = 0x2a05;

impl Model {
    fn holds(&self, i: usize) -> bool {
        match self.reserved {
            None => false,
            Some((7 | 8, _)) => self.key[i] != 0,
            Some((_, holder)) => holder == Some(i),
        }
    }

    fn nobody(&self) -> bool {
        self.key == [0; N]
    }

    fn tell_others(&mut self, from: usize, code: u16) {
        for i in 0..N {
            if i != from && self.key[i] != 0 {
                self.told.push((i, code));
            }
        }
    }

    fn run(&mut self, o: &Order) -> Verdict {
        let before = self.clone();
        self.told.clear();
        self.aborted.clear();
        let verdict = match o.action {
            0 | 6 => self.register(o),
            1..=5 | 7 => self.other(o),
            _ => Verdict::Illegal(0x2400),
        };
        if verdict != Verdict::Good {
            *self = before;
            self.told.clear();
            self.aborted.clear();
        }
        verdict
    }

    fn leave(&mut self, i: usize, from: usize) {
        let held = self.holds(i);
        self.key[i] = 0;
        match self.reserved {
            Some((1 | 3, _)) if held => self.reserved = None,
            Some((5 | 6, _)) if held => {
                self.reserved = None;
                self.tell_others(from, RELEASED);
            }
            Some((7 | 8, _)) if self.nobody() => self.reserved = None,
            _ => {}
        }
    }

    fn register(&mut self, o: &Order) -> Verdict {
        if o.also.is_some() && o.action == 6 {
            return Verdict::Illegal(0x2600);
        }
        let mine = self.key[o.from];
        if o.action == 0 && o.key != mine {
            return Verdict::Conflict;
        }
        if mine != 0 && o.also.is_some() {
            return Verdict::Illegal(0x2600);
        }
        if mine == 0 && o.service_key == 0 {
            return Verdict::Good;
        }
        self.generation += 1;
        self.aptpl = o.aptpl;
        let mut group = vec![o.from];
        if o.all_ports {
            group.push(twin(o.from));
        }
        for i in group {
            if i != o.from && o.action == 0 && self.key[i] != 0 && self.key[i] != o.key {
                return Verdict::Conflict;
            }
            if o.service_key != 0 {
                self.key[i] = o.service_key;
            } else if self.key[i] != 0 {
                self.leave(i, o.from);
            }
        }
        let fresh = self.clone();
        for named in o.also.clone().unwrap_or_default() {
            // Named is an initiator port: it comes through the sender's target port.
            let through = if who(named).port == who(o.from).port {
                named
            } else {
                twin(named)
            };
            let mut group = vec![through];
            if o.all_ports {
                group.push(twin(through));
            }
            for i in group {
                // Registered before this command, by somebody else: refused.
                let own = i == o.from || (o.all_ports && i == twin(o.from));
                if fresh.key[i] != 0 && !own {
                    return Verdict::Illegal(0x2600);
                }
                self.key[i] = o.service_key;
            }
        }
        Verdict::Good
    }

    fn other(&mut self, o: &Order) -> Verdict {
        let known_type = matches!(o.kind, 1 | 3 | 5 | 6 | 7 | 8);
        // Parameters come before keys: they are looked at before the state is.
        if o.action == 1 && !known_type {
            return Verdict::Illegal(0x2400);
        }
        if o.also.is_some() && o.action != 7 {
            return Verdict::Illegal(0x2600);
        }
        if o.action == 7 && o.service_key == 0 {
            return Verdict::Illegal(0x2600);
        }
        if self.key[o.from] == 0 || self.key[o.from] != o.key {
            return Verdict::Conflict;
        }
        match o.action {
            1 => self.reserve(o),
            2 => self.release(o),
            3 => {
                self.generation += 1;
                self.tell_others(o.from, PREEMPTED);
                self.key = [0; N];
                self.reserved = None;
                Verdict::Good
            }
            7 => self.hand_over(o),
            _ => self.preempt(o, known_type),
        }
    }

    fn reserve(&mut self, o: &Order) -> Verdict {
        match self.reserved {
            None => {
                let holder = if o.kind >= 7 { None } else { Some(o.from) };
                self.reserved = Some((o.kind, holder));
                Verdict::Good
            }
            Some((kind, _)) if kind == o.kind && self.holds(o.from) => Verdict::Good,
            Some(_) => Verdict::Conflict,
        }
    }

    fn release(&mut self, o: &Order) -> Verdict {
        match self.reserved {
            Some((kind, _)) if self.holds(o.from) => {
                if kind != o.kind {
                    return Verdict::Illegal(0x2604);
                }
                self.reserved = None;
                if kind >= 5 {
                    self.tell_others(o.from, RELEASED);
                }
                Verdict::Good
            }
            _ => Verdict::Good,
        }
    }

    fn preempt(&mut self, o: &Order, known_type: bool) -> Verdict {
        // The flow of the figure "device server interpretation of PREEMPT".
        let everybody = matches!(self.reserved, Some((7 | 8, _)));
        let takes = match (self.reserved, o.service_key) {
            (Some((7 | 8, _)), 0) => true,
            (_, 0) => return Verdict::Illegal(0x2600),
            (Some((_, Some(holder))), key) => self.key[holder] == key,
            _ => false,
        };
        let named: Vec<usize> = (0..N)
            .filter(|i| self.key[*i] != 0)
            .filter(|i| (everybody && o.service_key == 0) || self.key[*i] == o.service_key)
            .collect();
        if named.is_empty() {
            return Verdict::Conflict;
        }
        if takes && !known_type {
            return Verdict::Illegal(0x2400);
        }
        self.generation += 1;
        for i in named {
            if i == o.from && takes {
                continue;
            }
            self.key[i] = 0;
            if i != o.from {
                self.told.push((i, UNREGISTERED));
                if o.action == 5 {
                    self.aborted.push(i);
                }
            }
        }
        if takes {
            if self.reserved.is_some_and(|(kind, _)| kind != o.kind) {
                self.tell_others(o.from, RELEASED);
            }
            let holder = if o.kind >= 7 { None } else { Some(o.from) };
            self.reserved = Some((o.kind, holder));
        } else if everybody && self.nobody() {
            self.reserved = None;
        }
        Verdict::Good
    }

    fn hand_over(&mut self, o: &Order) -> Verdict {
        match self.reserved {
            None => return Verdict::Illegal(0x2400),
            Some((7 | 8, _)) => return Verdict::Conflict,
            Some(_) if !self.holds(o.from) => return Verdict::Conflict,
            Some((kind, _)) if o.to != o.from => self.reserved = Some((kind, Some(o.to))),
            Some(_) => return Verdict::Illegal(0x2600),
        }
        self.generation += 1;
        self.aptpl = o.aptpl;
        self.key[o.to] = o.service_key;
        if o.unregister {
            self.key[o.from] = 0;
        }
        Verdict::Good
    }

    /// May read, may write: one line a type, columns holder, registered, stranger.
    fn access(&self, i: usize) -> (bool, bool) {
        let column = match (self.holds(i), self.key[i] != 0) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        let (read, write) = match self.reserved.map(|(kind, _)| kind) {
            None => ([true, true, true], [true, true, true]),
            Some(1) => ([true, true, true], [true, false, false]),
            Some(3) => ([true, false, false], [true, false, false]),
            Some(5 | 7) => ([true, true, true], [true, true, false]),
            Some(_) => ([true, true, false], [true, true, false]),
        };
        (read[column], write[column])
    }
}

/// The command as bytes.
fn bytes(o: &Order) -> ([u8; 10], Vec<u8>) {
    let flags = u8::from(o.aptpl) | u8::from(o.all_ports) << 2 | u8::from(o.also.is_some()) << 3;
    let (mut cdb, mut list) = reserve_out(o.action, o.kind, o.key, o.service_key, flags);
    let id = |i: usize| {
        let name = who(i).port_name();
        let len = (name.len() + 1).next_multiple_of(4);
        let mut id = vec![0x45, 0, 0, len as u8];
        id.extend(name.as_bytes());
        id.resize(4 + len, 0);
        id
    };
    if o.action == 7 {
        list[20] = 0;
        list[17] = u8::from(o.aptpl) | u8::from(o.unregister) << 1;
        list[18..20].copy_from_slice(&who(o.to).port.to_be_bytes());
        let id = id(o.to);
        list[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
        list.extend(id);
    } else if let Some(also) = &o.also {
        let ids: Vec<u8> = also.iter().flat_map(|i| id(*i)).collect();
        list.extend((ids.len() as u32).to_be_bytes());
        list.extend(ids);
    }
    cdb[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes());
    (cdb, list)
}

/// Keys 0 to 3: few enough to meet each other.
fn order() -> impl Strategy<Value = Order> {
    let also = prop::option::weighted(0.15, prop::collection::vec(0..N, 0..3));
    let kinds = prop::sample::select(vec![0u8, 1, 1, 2, 3, 3, 5, 5, 6, 6, 7, 7, 8, 8, 15]);
    let actions = prop::sample::select(vec![0u8, 0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 6, 7]);
    let flags = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (0..N, actions, kinds, 0..4u64, 0..4u64, flags, also, 0..N).prop_map(
        |(from, action, kind, key, service_key, (aptpl, all_ports, unregister), also, to)| Order {
            from,
            action,
            kind,
            key,
            service_key,
            aptpl,
            all_ports,
            also: also.filter(|_| action != 7),
            to,
            unregister,
        },
    )
}

/// Half of the orders use the sender's own key, so that more than refusals happen.
fn orders() -> impl Strategy<Value = Vec<(Order, bool)>> {
    prop::collection::vec((order(), any::<bool>()), 1..60)
}

fn verdict(host: &mut Host, o: &Order) -> Verdict {
    let (cdb, list) = bytes(o);
    let outcome = host.out(&who(o.from), &cdb, &list);
    match outcome.status() {
        Status::Good => Verdict::Good,
        Status::ReservationConflict => Verdict::Conflict,
        _ => Verdict::Illegal(outcome.sense().code.0),
    }
}

/// Attentions of everybody, sorted; forgotten afterwards.
fn told(host: &mut Host) -> Vec<(usize, u16)> {
    let mut told = Vec::new();
    for i in 0..N {
        told.extend(
            host.pending(&who(i))
                .iter()
                .map(|a: &Attention| (i, a.code().0)),
        );
        host.greet(&who(i));
    }
    told.sort_unstable();
    told
}

fn compare(host: &mut Host, model: &Model) {
    let stranger = nexus('z', 1);
    let status = host.send(&stranger, &reserve_in(3, 4096)).good();
    assert_eq!(status[..4], model.generation.to_be_bytes());
    let mut seen = [0; N];
    let mut rest = &status[8..];
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[20..24].try_into().unwrap()) as usize;
        let text = rest[28..24 + len].split(|b| *b == 0).next().unwrap();
        let port = u16::from_be_bytes([rest[18], rest[19]]);
        let named = |i: &usize| who(*i).port == port && who(*i).port_name().as_bytes() == text;
        let i = (0..N).find(named).expect("somebody else is registered");
        seen[i] = u64::from_be_bytes(rest[..8].try_into().unwrap());
        assert_eq!(rest[12] & 1 != 0, model.holds(i));
        let kind = if model.holds(i) {
            model.reserved.unwrap().0
        } else {
            0
        };
        assert_eq!(rest[13], kind);
        rest = &rest[24 + len..];
    }
    assert_eq!(seen, model.key);
    let reservation = host.send(&stranger, &reserve_in(1, 255)).good();
    let want = model
        .reserved
        .map(|(kind, holder)| (kind, holder.map_or(0, |i| model.key[i])));
    let got = (reservation.len() > 8).then(|| {
        (
            reservation[21],
            u64::from_be_bytes(reservation[8..16].try_into().unwrap()),
        )
    });
    assert_eq!(got, want);
    assert_eq!(
        host.send(&stranger, &reserve_in(2, 255)).good()[3] & 1 != 0,
        model.aptpl
    );
    for i in 0..N {
        let may =
            |outcome: crate::harness::Outcome| outcome.status() != Status::ReservationConflict;
        let read = may(host.send(&who(i), &ten(0x28, 0, 0, 1)));
        let write = may(host.out(&who(i), &ten(0x2a, 0, 0, 1), &block(0)));
        assert_eq!((read, write), model.access(i), "nexus {i}");
    }
}

fn check(orders: &[(Order, bool)]) {
    let mut host = Host::disk(4);
    let mut model = Model::default();
    told(&mut host);
    for (order, own) in orders {
        let mut order = order.clone();
        if *own {
            order.key = model.key[order.from];
        }
        let want = model.run(&order);
        host.applied = None;
        assert_eq!(verdict(&mut host, &order), want, "{order:?}");
        model.told.sort_unstable();
        model.told.dedup();
        assert_eq!(told(&mut host), model.told, "{order:?}");
        let mut aborted: Vec<Nexus> = model.aborted.iter().map(|i| who(*i)).collect();
        aborted.sort();
        let got = host
            .applied
            .as_ref()
            .map(|a| a.abort.clone())
            .unwrap_or_default();
        assert_eq!(got, aborted);
        compare(&mut host, &model);
        let saved = host.unit.reservations.saved();
        assert_eq!(saved.is_some(), model.aptpl);
        if let Some(saved) = saved {
            assert_eq!(State::restore(saved), *host.unit.reservations);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::Direct(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/model.regressions"),
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn implementation_and_model_agree(orders in orders()) {
        check(&orders);
    }
}

/// Every pair of commands after every reservation, with three registered: nothing random.
#[test]
fn every_action_after_every_reservation() {
    let plain = |from: usize, action: u8, kind: u8, key: u64, service_key: u64| Order {
        from,
        action,
        kind,
        key,
        service_key,
        aptpl: false,
        all_ports: false,
        also: None,
        to: 3,
        unregister: false,
    };
    for held in [0u8, 1, 3, 5, 6, 7, 8] {
        for keys in [[1, 2, 3], [1, 1, 2], [1, 2, 2], [1, 1, 1]] {
            for from in 0..N {
                for action in 0..8u8 {
                    for kind in [1, 3, 5, 6, 7, 8, 0] {
                        for service_key in 0..4 {
                            let mut orders: Vec<(Order, bool)> = (0..3)
                                .map(|i| (plain(i, 0, 0, 0, keys[i]), false))
                                .collect();
                            if held > 0 {
                                orders.push((plain(0, 1, held, 0, 0), true));
                            }
                            orders.push((plain(from, action, kind, 0, service_key), true));
                            check(&orders);
                        }
                    }
                }
            }
        }
    }
}

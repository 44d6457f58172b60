//! PERSISTENT RESERVE OUT: its parameter list, and what each service action makes of a [`State`].

use super::transport_id;
use super::{Key, Reservation, State, Type};
use crate::attention::Attention;
use crate::limits;
use crate::nexus::Nexus;
use crate::sense::{self, Code, Sense};
use crate::wire::{self, Cdb};

/// Bytes of the parameter list before any additional data.
const HEADER: u32 = 24;

/// What PERSISTENT RESERVE OUT asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// REGISTER
    Register {
        /// SPEC_I_PT: register these initiator ports too.
        also: Option<Vec<InitiatorPort>>,
    },
    /// RESERVE
    Reserve(Type),
    /// RELEASE; the type is checked only against a holder's reservation.
    Release(Option<Type>),
    /// CLEAR
    Clear,
    /// PREEMPT, and with `abort` PREEMPT AND ABORT; the type matters only when a reservation is taken.
    Preempt {
        /// Type of the reservation it may take over.
        kind: Option<Type>,
        /// End the tasks of those who lose their registration.
        abort: bool,
    },
    /// REGISTER AND IGNORE EXISTING KEY
    RegisterAndIgnore,
    /// REGISTER AND MOVE
    Move {
        /// Who gets it.
        to: Nexus,
        /// The mover's registration goes.
        unregister: bool,
    },
}

/// An initiator port: name and ISID.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InitiatorPort {
    /// iSCSI name, lower case.
    pub name: String,
    /// Initiator session identifier.
    pub isid: [u8; 6],
}

/// A PERSISTENT RESERVE OUT that was well-formed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Out {
    /// The service action with what only it needs.
    pub action: Action,
    /// RESERVATION KEY: the sender's own.
    pub key: Key,
    /// SERVICE ACTION RESERVATION KEY: the new one, or the one preempted.
    pub service_key: Key,
    /// APTPL, for the registering actions.
    pub aptpl: bool,
    /// ALL_TG_PT: register through every target port.
    pub all_ports: bool,
}

/// Why a reservation command is not done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

/// What a reservation command does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// The new state.
    pub state: State,
    /// Told to these; never to the sender.
    pub attentions: Vec<(Nexus, Attention)>,
    /// PREEMPT AND ABORT: tasks of these end before the status.
    pub abort: Vec<Nexus>,
}

/// Checks that need only the CDB, before any parameter data is asked for.
pub(crate) fn precheck(cdb: &Cdb) -> Result<u32, Sense> {
    let action = cdb.u8(1) & 0x1f;
    if action > 7 {
        return Err(Sense::invalid_cdb(1, Some(4)));
    }
    if action == 1 {
        reserved_type(cdb)?;
    }
    let len = cdb.u32(5);
    // Nothing is received, let alone allocated, for a list that no service action could have.
    if !(HEADER..=limits::RESERVE_OUT_LIST).contains(&len) {
        return Err(list_length());
    }
    Ok(len)
}

/// SCOPE and TYPE where they must be right: the whole unit, and one of the six.
fn reserved_type(cdb: &Cdb) -> Result<Type, Sense> {
    if cdb.u8(2) >> 4 != 0 {
        return Err(Sense::invalid_cdb(2, Some(7)));
    }
    Type::from_code(cdb.u8(2) & 0x0f).ok_or_else(|| Sense::invalid_cdb(2, Some(3)))
}

const fn list_length() -> Sense {
    Sense::new(sense::Key::IllegalRequest, Code::LIST_LENGTH)
}

/// Reads the parameter list. `list` is what arrived; it must be as long as the CDB says.
pub(crate) fn parse(cdb: &Cdb, list: &[u8], ports: &[u16]) -> Result<Out, Sense> {
    let announced = precheck(cdb)?;
    if wire::len32(list.len()) < announced {
        return Err(list_length());
    }
    let kind = reserved_type(cdb);
    let code = cdb.u8(1) & 0x1f;
    if code == 7 {
        return parse_move(list, ports);
    }
    let flags = wire::byte(list, 20);
    let (spec_i_pt, all_ports, aptpl) = (flags & 8 != 0, flags & 4 != 0, flags & 1 != 0);
    if spec_i_pt && code != 0 {
        return Err(Sense::invalid_parameter(20, Some(3)));
    }
    if !spec_i_pt && announced != HEADER {
        return Err(list_length());
    }
    let registers = matches!(code, 0 | 6);
    let action = match code {
        0 if spec_i_pt => Action::Register {
            also: Some(transport_id::parse_list(list)?),
        },
        0 => Action::Register { also: None },
        1 => Action::Reserve(kind?),
        2 => Action::Release(kind.ok()),
        3 => Action::Clear,
        4 | 5 => Action::Preempt {
            kind: kind.ok(),
            abort: code == 5,
        },
        _ => Action::RegisterAndIgnore,
    };
    Ok(Out {
        action,
        key: Key(wire::be64(list, 0)),
        service_key: Key(wire::be64(list, 8)),
        aptpl: aptpl && registers,
        all_ports: all_ports && registers,
    })
}

/// The parameter list of REGISTER AND MOVE has a layout of its own.
fn parse_move(list: &[u8], ports: &[u16]) -> Result<Out, Sense> {
    let flags = wire::byte(list, 17);
    let port = wire::be16(list, 18);
    if !ports.contains(&port) {
        return Err(Sense::invalid_parameter(18, Some(7)));
    }
    let announced = wire::index(wire::be32(list, 20));
    if announced != list.len().saturating_sub(wire::index(HEADER)) {
        return Err(list_length());
    }
    let (initiator, used) = transport_id::parse(list, wire::index(HEADER))?;
    if used != announced {
        return Err(Sense::invalid_parameter(20, Some(7)));
    }
    let service_key = Key(wire::be64(list, 8));
    if service_key == Key::ZERO {
        return Err(Sense::invalid_parameter(8, Some(7)));
    }
    Ok(Out {
        action: Action::Move {
            to: Nexus::new(initiator.name, initiator.isid, port),
            unregister: flags & 2 != 0,
        },
        key: Key(wire::be64(list, 0)),
        service_key,
        aptpl: flags & 1 != 0,
        all_ports: false,
    })
}

impl State {
    /// What a PERSISTENT RESERVE OUT from `nexus` makes of this state; `ports` are the unit's target
    /// ports, for ALL_TG_PT and SPEC_I_PT.
    pub fn apply(&self, nexus: &Nexus, out: &Out, ports: &[u16]) -> Result<Outcome, Refusal> {
        match &out.action {
            Action::Register { also } => self.register(nexus, out, also.as_deref(), ports),
            Action::RegisterAndIgnore => self.register(nexus, out, None, ports),
            _ => {
                // All others are for registered nexuses with the right key.
                if self.key_of(nexus) != Some(out.key) {
                    return Err(Refusal::Conflict);
                }
                match &out.action {
                    Action::Reserve(kind) => self.reserve(nexus, *kind),
                    Action::Release(kind) => self.release(nexus, *kind),
                    Action::Clear => Ok(self.clear(nexus)),
                    Action::Preempt { kind, abort } => {
                        self.preempt(nexus, out.service_key, *kind, *abort)
                    }
                    Action::Move { to, unregister } => self.hand_over(nexus, out, to, *unregister),
                    Action::Register { .. } | Action::RegisterAndIgnore => Err(Refusal::Conflict),
                }
            }
        }
    }

    fn unchanged(&self) -> Outcome {
        Outcome {
            state: self.clone(),
            attentions: Vec::new(),
            abort: Vec::new(),
        }
    }

    /// A copy whose generation has moved on.
    fn next(&self) -> Outcome {
        let mut outcome = self.unchanged();
        outcome.state.generation = self.generation.wrapping_add(1);
        outcome
    }

    fn register(
        &self,
        nexus: &Nexus,
        out: &Out,
        also: Option<&[InitiatorPort]>,
        ports: &[u16],
    ) -> Result<Outcome, Refusal> {
        let ignore = out.action == Action::RegisterAndIgnore;
        let current = self.key_of(nexus);
        if !ignore && out.key != current.unwrap_or(Key::ZERO) {
            return Err(Refusal::Conflict);
        }
        if current.is_some() && also.is_some() {
            // Ports are registered along with one that is new itself.
            return Err(Refusal::Check(Sense::invalid_parameter(20, Some(3))));
        }
        if current.is_none() && out.service_key == Key::ZERO {
            return Ok(self.unchanged());
        }
        let mut outcome = self.next();
        outcome.state.aptpl = out.aptpl;
        for member in members(nexus, out.all_ports, ports) {
            let registered = self.key_of(&member);
            // Through another port the nexus may have come by another key: that one is not ours to change.
            if !ignore && member != *nexus && registered.is_some_and(|key| key != out.key) {
                return Err(Refusal::Conflict);
            }
            if out.service_key == Key::ZERO {
                outcome.unregister(&member, nexus);
            } else {
                outcome.state.registrations.insert(member, out.service_key);
            }
        }
        for port in also.unwrap_or_default() {
            let first = Nexus::new(port.name.as_str(), port.isid, nexus.port);
            for member in members(&first, out.all_ports, ports) {
                if member != *nexus && self.is_registered(&member) {
                    return Err(Refusal::Check(Sense::invalid_parameter(24, Some(7))));
                }
                outcome.state.registrations.insert(member, out.service_key);
            }
        }
        if outcome.state.registrations.len() > limits::REGISTRATIONS.max(self.registrations.len()) {
            let sense = Sense::new(sense::Key::IllegalRequest, Code::REGISTRATION_RESOURCES);
            return Err(Refusal::Check(sense));
        }
        Ok(outcome)
    }

    fn reserve(&self, nexus: &Nexus, kind: Type) -> Result<Outcome, Refusal> {
        match &self.reservation {
            Some(held) if self.holds(nexus) && held.kind == kind => Ok(self.unchanged()),
            Some(_) => Err(Refusal::Conflict),
            None => {
                let mut outcome = self.unchanged();
                outcome.state.reservation = Some(Reservation::new(nexus, kind));
                Ok(outcome)
            }
        }
    }

    fn release(&self, nexus: &Nexus, kind: Option<Type>) -> Result<Outcome, Refusal> {
        let Some(held) = self.reservation.as_ref().filter(|_| self.holds(nexus)) else {
            return Ok(self.unchanged());
        };
        if kind != Some(held.kind) {
            let sense = Sense::new(sense::Key::IllegalRequest, Code::INVALID_RELEASE);
            return Err(Refusal::Check(sense));
        }
        let mut outcome = self.unchanged();
        outcome.state.reservation = None;
        if held.kind.registrants() {
            outcome.tell_registered(nexus, Attention::ReservationsReleased);
        }
        Ok(outcome)
    }

    fn clear(&self, nexus: &Nexus) -> Outcome {
        let mut outcome = self.next();
        outcome.tell_registered(nexus, Attention::ReservationsPreempted);
        outcome.state.registrations.clear();
        outcome.state.reservation = None;
        outcome
    }

    fn preempt(
        &self,
        nexus: &Nexus,
        victim: Key,
        kind: Option<Type>,
        abort: bool,
    ) -> Result<Outcome, Refusal> {
        let all_registrants = self
            .reservation
            .as_ref()
            .is_some_and(|r| r.kind.all_registrants());
        if victim == Key::ZERO && !all_registrants {
            return Err(Refusal::Check(Sense::invalid_parameter(8, Some(7))));
        }
        let takes = match &self.reservation {
            Some(Reservation {
                holder: Some(holder),
                ..
            }) => self.key_of(holder) == Some(victim),
            Some(_) => victim == Key::ZERO,
            None => false,
        };
        let named = |key: Key| victim == Key::ZERO || key == victim;
        if !self.registrations.values().any(|key| named(*key)) {
            return Err(Refusal::Conflict);
        }
        let mut outcome = self.next();
        // The preemptor keeps its registration when it takes the reservation, only then.
        let lost = |(other, key): (&Nexus, Key)| {
            (named(key) && !(takes && other == nexus)).then(|| other.clone())
        };
        for other in self.registrations().filter_map(lost) {
            outcome.state.registrations.remove(&other);
            if other != *nexus {
                outcome
                    .attentions
                    .push((other.clone(), Attention::RegistrationsPreempted));
                if abort {
                    outcome.abort.push(other);
                }
            }
        }
        if takes {
            let kind = kind.ok_or(Refusal::Check(Sense::invalid_cdb(2, Some(3))))?;
            if self.reservation.as_ref().is_some_and(|r| r.kind != kind) {
                outcome.tell_registered(nexus, Attention::ReservationsReleased);
            }
            outcome.state.reservation = Some(Reservation::new(nexus, kind));
        } else if outcome.state.registrations.is_empty() {
            // The last registration of an all-registrants reservation went.
            outcome.state.reservation = None;
        }
        Ok(outcome)
    }

    fn hand_over(
        &self,
        nexus: &Nexus,
        out: &Out,
        to: &Nexus,
        unregister: bool,
    ) -> Result<Outcome, Refusal> {
        let Some(held) = &self.reservation else {
            return Err(Refusal::Check(Sense::invalid_cdb(1, Some(4))));
        };
        if held.kind.all_registrants() || !self.holds(nexus) {
            return Err(Refusal::Conflict);
        }
        if to == nexus {
            return Err(Refusal::Check(Sense::invalid_parameter(24, Some(7))));
        }
        if !self.is_registered(to)
            && self.registrations.len() >= limits::REGISTRATIONS
            && !unregister
        {
            let sense = Sense::new(sense::Key::IllegalRequest, Code::REGISTRATION_RESOURCES);
            return Err(Refusal::Check(sense));
        }
        let mut outcome = self.next();
        outcome.state.aptpl = out.aptpl;
        outcome
            .state
            .registrations
            .insert(to.clone(), out.service_key);
        outcome.state.reservation = Some(Reservation::new(to, held.kind));
        if unregister {
            outcome.state.registrations.remove(nexus);
        }
        Ok(outcome)
    }
}

impl Reservation {
    fn new(nexus: &Nexus, kind: Type) -> Self {
        Self {
            kind,
            holder: (!kind.all_registrants()).then(|| nexus.clone()),
        }
    }
}

impl Outcome {
    /// An attention for every registered nexus but the sender.
    fn tell_registered(&mut self, sender: &Nexus, attention: Attention) {
        let others = self
            .state
            .registrations
            .keys()
            .filter(|nexus| *nexus != sender);
        self.attentions
            .extend(others.map(|nexus| (nexus.clone(), attention)));
    }

    /// Takes a registration away by its own wish, and the reservation with it where it held.
    fn unregister(&mut self, leaver: &Nexus, sender: &Nexus) {
        let held = self.state.holds(leaver);
        if self.state.registrations.remove(leaver).is_none() || !held {
            return;
        }
        let Some(reservation) = self.state.reservation.clone() else {
            return;
        };
        if reservation.holder.is_some() {
            self.state.reservation = None;
            if reservation.kind.registrants() {
                self.tell_registered(sender, Attention::ReservationsReleased);
            }
        } else if self.state.registrations.is_empty() {
            self.state.reservation = None;
        }
    }
}

/// A nexus alone, or its initiator port through every target port.
fn members(nexus: &Nexus, all_ports: bool, ports: &[u16]) -> Vec<Nexus> {
    let mut members = vec![nexus.clone()];
    if all_ports {
        let others = ports.iter().filter(|port| **port != nexus.port);
        members.extend(others.map(|port| Nexus::new(nexus.initiator.clone(), nexus.isid, *port)));
    }
    members
}

//! Changes of shared state: what a command, a reset or the operator makes of a published unit.
//!
//! Everything here is pure. The service serializes calls per unit, writes down what must persist,
//! publishes the new unit, passes the barrier, and only then tells attentions and answers.

use std::sync::Arc;

use crate::attention::Attention;
use crate::command::Response;
use crate::limits;
use crate::mode;
use crate::nexus::Nexus;
use crate::reservation::{self, Refusal};
use crate::sense::{Code, Key, Sense};
use crate::unit::{Medium, Unit};

/// A change that a command asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// PERSISTENT RESERVE OUT.
    Reservation(reservation::Out),
    /// MODE SELECT.
    Mode(mode::Select),
    /// START STOP UNIT with LOEJ.
    LoadEject {
        /// Load; else eject.
        load: bool,
    },
    /// PREVENT ALLOW MEDIUM REMOVAL.
    Prevent {
        /// Prevent; else allow.
        prevent: bool,
    },
    /// RESERVE(6), RESERVE(10), RELEASE(6), RELEASE(10).
    Legacy(Legacy),
}

/// The reservation commands of SPC-2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Legacy {
    /// RESERVE
    Reserve,
    /// RELEASE
    Release,
}

/// What a change does.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The unit to publish.
    pub unit: Unit,
    /// Established for each matching nexus but never for the one that asked unless named.
    pub attentions: Vec<(Selector, Attention)>,
    /// Tasks of these nexuses end before the status is sent (PREEMPT AND ABORT).
    pub abort: Vec<Nexus>,
    /// Write `reservations.saved()` and `mode.saved` beside the device before the status.
    pub persist: bool,
}

/// Nexuses of the unit that have a session now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selector {
    /// This one.
    Nexus(Nexus),
    /// All others.
    AllExcept(Nexus),
    /// All.
    All,
}

impl Selector {
    /// Whether a nexus is meant.
    pub fn matches(&self, nexus: &Nexus) -> bool {
        match self {
            Self::Nexus(one) => one == nexus,
            Self::AllExcept(one) => one != nexus,
            Self::All => true,
        }
    }
}

impl Applied {
    fn new(unit: Unit) -> Self {
        Self {
            unit,
            attentions: Vec::new(),
            abort: Vec::new(),
            persist: false,
        }
    }

    fn tell(mut self, selector: Selector, attention: Attention) -> Self {
        self.attentions.push((selector, attention));
        self
    }
}

/// Applies what a command of `nexus` asks for, checking again against the unit as it is now.
///
/// # Errors
///
/// The response to end the command with; nothing changes.
pub fn apply(unit: &Unit, nexus: &Nexus, change: &Change) -> Result<Applied, Response> {
    match change {
        Change::Reservation(out) => reserve_out(unit, nexus, out),
        Change::Mode(select) => mode_select(unit, nexus, select),
        Change::LoadEject { load } => load_eject(unit, nexus, *load),
        Change::Prevent { prevent } => prevent_removal(unit, nexus, *prevent),
        Change::Legacy(legacy) => legacy_reservation(unit, nexus, *legacy),
    }
}

/// LOGICAL UNIT RESET and target resets: the legacy reservation and PREVENT are gone, mode pages are
/// the saved ones. Persistent reservations stay. Every nexus is told, the one that asked too.
pub fn reset(unit: &Unit, by: Option<&Nexus>) -> Applied {
    let mut next = unit.clone();
    next.legacy = None;
    next.prevented = Arc::default();
    next.mode = mode::State::restore(unit.mode.saved);
    // A reset by a nexus is the function on this unit; by nobody in particular, one of the whole target.
    let attention = match by {
        Some(_) => Attention::UnitReset,
        None => Attention::TargetReset,
    };
    Applied::new(next).tell(Selector::All, attention)
}

/// A nexus is lost (its session ended): its legacy reservation and its PREVENT go. `None`: it had none.
pub fn nexus_lost(unit: &Unit, nexus: &Nexus) -> Option<Applied> {
    let reserved = unit.legacy.as_ref() == Some(nexus);
    if !reserved && !unit.prevented.contains(nexus) {
        return None;
    }
    let mut next = unit.clone();
    if reserved {
        next.legacy = None;
    }
    Arc::make_mut(&mut next.prevented).remove(nexus);
    Some(Applied::new(next))
}

/// The operator loads or takes out the medium, PREVENT or not.
pub fn medium(unit: &Unit, medium: Medium) -> Applied {
    let mut next = unit.clone();
    next.medium = medium;
    next.medium_changes = unit.medium_changes.wrapping_add(1);
    let arrived = medium == Medium::Present && unit.medium != Medium::Present;
    let applied = Applied::new(next);
    if arrived {
        applied.tell(Selector::All, Attention::MediumChanged)
    } else {
        applied
    }
}

/// The device has another size now.
pub fn resize(unit: &Unit, blocks: u64) -> Applied {
    let mut next = unit.clone();
    next.blocks = blocks;
    Applied::new(next).tell(Selector::All, Attention::CapacityChanged)
}

/// The operator takes all persistent reservations away.
pub fn clear_reservations(unit: &Unit) -> Applied {
    let mut next = unit.clone();
    next.reservations = Arc::new(unit.reservations.cleared());
    let mut applied = Applied::new(next);
    applied.persist = unit.reservations.aptpl();
    for (nexus, _) in unit.reservations.registrations() {
        let one = Selector::Nexus(nexus.clone());
        applied = applied.tell(one, Attention::ReservationsPreempted);
    }
    applied
}

fn reserve_out(unit: &Unit, nexus: &Nexus, out: &reservation::Out) -> Result<Applied, Response> {
    if unit.legacy.is_some() {
        return Err(Response::conflict());
    }
    let state = &unit.reservations;
    let outcome =
        state
            .apply(nexus, out, &unit.identity.ports)
            .map_err(|refusal| match refusal {
                Refusal::Conflict => Response::conflict(),
                Refusal::Check(sense) => Response::check(sense),
            })?;
    let mut next = unit.clone();
    let persist = (state.aptpl() || outcome.state.aptpl()) && **state != outcome.state;
    next.reservations = Arc::new(outcome.state);
    let mut applied = Applied::new(next);
    applied.persist = persist;
    applied.abort = outcome.abort;
    for (nexus, attention) in outcome.attentions {
        applied = applied.tell(Selector::Nexus(nexus), attention);
    }
    Ok(applied)
}

fn mode_select(unit: &Unit, nexus: &Nexus, select: &mode::Select) -> Result<Applied, Response> {
    if !unit.allows(nexus, reservation::Access::Write) {
        return Err(Response::conflict());
    }
    let mut next = unit.clone();
    next.mode = unit.mode.select(select);
    let shown = next.mode != unit.mode;
    let mut applied = Applied::new(next);
    applied.persist = select.save && applied.unit.mode.saved != unit.mode.saved;
    Ok(if shown {
        applied.tell(Selector::AllExcept(nexus.clone()), Attention::ModeChanged)
    } else {
        applied
    })
}

fn load_eject(unit: &Unit, nexus: &Nexus, load: bool) -> Result<Applied, Response> {
    if !load && !unit.allows(nexus, reservation::Access::Write) {
        return Err(Response::conflict());
    }
    // While removal is prevented the tray does not move, whichever way.
    let moves = load != unit.medium.is_in();
    if moves && !unit.prevented.is_empty() {
        return Err(Response::illegal(Code::REMOVAL_PREVENTED));
    }
    match (load, unit.medium) {
        (true, Medium::Ejected) => {
            let except = Selector::AllExcept(nexus.clone());
            let mut applied = medium(unit, Medium::Present);
            applied.attentions = vec![(except, Attention::MediumChanged)];
            Ok(applied)
        }
        (true, Medium::Absent) => Err(no_medium(unit)),
        (false, m) if m.is_in() => Ok(medium(unit, Medium::Ejected)),
        _ => Ok(Applied::new(unit.clone())),
    }
}

fn no_medium(unit: &Unit) -> Response {
    let trouble = Medium::Absent.trouble(unit.kind);
    Response::check(trouble.unwrap_or(Sense::new(Key::NotReady, Code::NO_MEDIUM)))
}

fn prevent_removal(unit: &Unit, nexus: &Nexus, prevent: bool) -> Result<Applied, Response> {
    if prevent && !unit.allows(nexus, reservation::Access::Write) {
        return Err(Response::conflict());
    }
    let mut next = unit.clone();
    let set = Arc::make_mut(&mut next.prevented);
    if !prevent {
        set.remove(nexus);
    } else if set.len() < limits::PREVENTERS {
        set.insert(nexus.clone());
    } else if !set.contains(nexus) {
        return Err(Response::status(crate::command::Status::Busy));
    }
    Ok(Applied::new(next))
}

fn legacy_reservation(unit: &Unit, nexus: &Nexus, legacy: Legacy) -> Result<Applied, Response> {
    let state = &unit.reservations;
    if !state.is_empty() {
        // Compatible reservation handling: who has access already is told so; the rest conflicts.
        let registrants = state.reservation().is_some_and(|r| r.kind.registrants());
        let fine = state.holds(nexus) || (registrants && state.is_registered(nexus));
        return if fine {
            Ok(Applied::new(unit.clone()))
        } else {
            Err(Response::conflict())
        };
    }
    let mut next = unit.clone();
    match (legacy, &unit.legacy) {
        (Legacy::Reserve, Some(holder)) if holder != nexus => return Err(Response::conflict()),
        (Legacy::Reserve, _) => next.legacy = Some(nexus.clone()),
        (Legacy::Release, Some(holder)) if holder == nexus => next.legacy = None,
        (Legacy::Release, _) => {}
    }
    Ok(Applied::new(next))
}

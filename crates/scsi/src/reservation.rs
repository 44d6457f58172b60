//! Persistent reservations: who is registered, who holds, and what that lets others do.
//!
//! [`State`] is immutable: [`State::apply`] makes another one. It follows SPC-4, section 5.13; where
//! targets differ, this one goes by the text:
//!
//! - PREEMPT that only removes registrations ignores SCOPE and TYPE, and removes the preemptor's own
//!   registration too when it has the key named. (Some targets check TYPE, some spare the preemptor.)
//! - PREEMPT of one's own reservation keeps one's own registration and takes the new type.
//! - PREEMPT AND ABORT names the nexuses whose tasks end, never the sender: its own tasks go on, also
//!   when it preempts itself. They are told REGISTRATIONS PREEMPTED, which says more than COMMANDS
//!   CLEARED BY ANOTHER INITIATOR.
//! - RELEASE by a registered nexus that does not hold is done, without effect.
//! - PRGENERATION survives a restart of the service together with an APTPL reservation: a restart is
//!   not a power cycle of the unit to those who watch the counter, and it must never go back.
//! - A registration by SPEC_I_PT names initiator ports with their ISID; the form without ISID ("all
//!   ports known") is refused, for ports that are not logged in cannot be known.
//! - REGISTER AND MOVE where nothing is reserved is an illegal request; by a nexus that does not hold,
//!   or under an all-registrants type, a conflict.
//! - ALL_TG_PT with REGISTER also changes (or removes) what the same initiator port registered through
//!   other target ports, as long as it was with the same key; another key there is a conflict.

mod access;
mod out;
mod report;
mod saved;
mod transport_id;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use access::Access;
pub use out::{Action, InitiatorPort, Out, Outcome, Refusal};
pub use saved::{Saved, SavedRegistration, SavedReservation};

pub(crate) use out::{parse, precheck};
pub(crate) use report::read;

use crate::nexus::Nexus;

/// A reservation key. Never 0 in a registration.
#[derive(Clone, Copy, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Key(pub u64);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows a key can preempt with it: it stays out of logs.
        f.write_str(if self.0 == 0 { "Key(0)" } else { "Key(..)" })
    }
}

impl Key {
    /// The key that means "none".
    pub const ZERO: Self = Self(0);
}

/// The six types of persistent reservation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Type {
    /// Only the holder writes; everybody reads.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 3,
    /// Every registered nexus writes; everybody reads.
    WriteExclusiveRegistrantsOnly = 5,
    /// Every registered nexus reads and writes.
    ExclusiveAccessRegistrantsOnly = 6,
    /// As registrants only, and every registered nexus holds.
    WriteExclusiveAllRegistrants = 7,
    /// As registrants only, and every registered nexus holds.
    ExclusiveAccessAllRegistrants = 8,
}

impl Type {
    /// All six.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// From the TYPE field.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrantsOnly,
            6 => Self::ExclusiveAccessRegistrantsOnly,
            7 => Self::WriteExclusiveAllRegistrants,
            8 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// As the TYPE field says it.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Every registered nexus holds.
    pub const fn all_registrants(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Being registered is enough for access.
    pub const fn registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Reading is excluded too.
    pub const fn exclusive(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }
}

/// A reservation in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// Its type.
    pub kind: Type,
    /// Who holds it; nobody in particular for the all-registrants types.
    pub holder: Option<Nexus>,
}

/// Registrations and reservation of one logical unit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    generation: u32,
    aptpl: bool,
    registrations: BTreeMap<Nexus, Key>,
    reservation: Option<Reservation>,
}

impl State {
    /// PRGENERATION.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Persists through power loss.
    pub const fn aptpl(&self) -> bool {
        self.aptpl
    }

    /// All registrations gone; the generation moves on.
    #[must_use]
    pub fn cleared(&self) -> Self {
        Self {
            generation: self.generation.wrapping_add(1),
            ..Self::default()
        }
    }

    /// Nobody is registered, and so nothing is reserved.
    pub fn is_empty(&self) -> bool {
        self.registrations.is_empty()
    }

    /// Registered nexuses with their keys.
    pub fn registrations(&self) -> impl Iterator<Item = (&Nexus, Key)> {
        self.registrations.iter().map(|(nexus, key)| (nexus, *key))
    }

    /// The reservation in force.
    pub const fn reservation(&self) -> Option<&Reservation> {
        self.reservation.as_ref()
    }

    /// The key a nexus is registered with.
    pub fn key_of(&self, nexus: &Nexus) -> Option<Key> {
        self.registrations.get(nexus).copied()
    }

    /// Whether a nexus is registered.
    pub fn is_registered(&self, nexus: &Nexus) -> bool {
        self.registrations.contains_key(nexus)
    }

    /// Whether a nexus holds the reservation; every registered one does under an all-registrants type.
    pub fn holds(&self, nexus: &Nexus) -> bool {
        self.reservation.as_ref().is_some_and(|r| match &r.holder {
            Some(holder) => holder == nexus,
            None => self.is_registered(nexus),
        })
    }

    /// Whether the reservation lets a nexus do this.
    pub fn allows(&self, nexus: &Nexus, access: Access) -> bool {
        let Some(reservation) = &self.reservation else {
            return true;
        };
        let excluded = match access {
            Access::Free => false,
            Access::Read => reservation.kind.exclusive(),
            Access::Write => true,
        };
        !excluded
            || self.holds(nexus)
            || (reservation.kind.registrants() && self.is_registered(nexus))
    }
}

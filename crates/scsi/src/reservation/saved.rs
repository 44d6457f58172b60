//! What lies beside the device while APTPL is on.

use serde::{Deserialize, Serialize};

use super::{Key, Reservation, State, Type};
use crate::limits;
use crate::nexus::Nexus;

/// Persistent reservations as they are written down.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// PRGENERATION.
    pub generation: u32,
    /// Who is registered.
    pub registrations: Vec<SavedRegistration>,
    /// What is reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<SavedReservation>,
}

/// One registered nexus.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedRegistration {
    /// The nexus.
    pub nexus: Nexus,
    /// Its key, not 0.
    pub key: Key,
}

/// The reservation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SavedReservation {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Type,
    /// Who holds it; none under the all-registrants types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Nexus>,
}

impl State {
    /// What must be written down: nothing unless APTPL is on.
    pub fn saved(&self) -> Option<Saved> {
        if !self.aptpl {
            return None;
        }
        let registrations = self.registrations().map(|(nexus, key)| SavedRegistration {
            nexus: nexus.clone(),
            key,
        });
        Some(Saved {
            generation: self.generation,
            registrations: registrations.collect(),
            reservation: self.reservation.as_ref().map(|r| SavedReservation {
                kind: r.kind,
                holder: r.holder.clone(),
            }),
        })
    }

    /// The state that was written down.
    ///
    /// What cannot be (a zero key, a holder who is not registered, too many registrations) is left out:
    /// a hand-edited file must not bring the unit into a state that no command could.
    pub fn restore(saved: Saved) -> Self {
        let mut state = Self {
            generation: saved.generation,
            aptpl: true,
            ..Self::default()
        };
        for registration in saved.registrations {
            if registration.key != Key::ZERO && state.registrations.len() < limits::REGISTRATIONS {
                state
                    .registrations
                    .insert(registration.nexus, registration.key);
            }
        }
        state.reservation = saved
            .reservation
            .map(|r| Reservation {
                kind: r.kind,
                holder: r.holder.filter(|_| !r.kind.all_registrants()),
            })
            .filter(|r| match &r.holder {
                Some(holder) => state.is_registered(holder),
                None => r.kind.all_registrants() && !state.is_empty(),
            });
        state
    }
}

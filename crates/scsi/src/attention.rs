//! Unit attentions and deferred errors: what a nexus must be told before its next command runs.

use crate::limits;
use crate::sense::{Code, Key, Sense};

/// A unit attention condition. Order is precedence: what comes first is reported first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Attention {
    /// 29/00 POWER ON, RESET, OR BUS DEVICE RESET OCCURRED
    PowerOn = 0,
    /// 29/02 SCSI BUS RESET OCCURRED: a target reset
    TargetReset = 1,
    /// 29/03 BUS DEVICE RESET FUNCTION OCCURRED: a logical unit reset
    UnitReset = 2,
    /// 29/07 I_T NEXUS LOSS OCCURRED
    NexusLoss = 3,
    /// 28/00 NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED
    MediumChanged = 4,
    /// 2A/03 RESERVATIONS PREEMPTED
    ReservationsPreempted = 5,
    /// 2A/05 REGISTRATIONS PREEMPTED
    RegistrationsPreempted = 6,
    /// 2A/04 RESERVATIONS RELEASED
    ReservationsReleased = 7,
    /// 2A/09 CAPACITY DATA HAS CHANGED
    CapacityChanged = 8,
    /// 2A/01 MODE PARAMETERS CHANGED
    ModeChanged = 9,
    /// 3F/03 INQUIRY DATA HAS CHANGED
    InquiryChanged = 10,
    /// 3F/0E REPORTED LUNS DATA HAS CHANGED
    LunsChanged = 11,
    /// 2F/00 COMMANDS CLEARED BY ANOTHER INITIATOR
    CommandsCleared = 12,
    /// 38/07 THIN PROVISIONING SOFT THRESHOLD REACHED
    ThinThreshold = 13,
}

impl Attention {
    const ALL: [Self; 14] = [
        Self::PowerOn,
        Self::TargetReset,
        Self::UnitReset,
        Self::NexusLoss,
        Self::MediumChanged,
        Self::ReservationsPreempted,
        Self::RegistrationsPreempted,
        Self::ReservationsReleased,
        Self::CapacityChanged,
        Self::ModeChanged,
        Self::InquiryChanged,
        Self::LunsChanged,
        Self::CommandsCleared,
        Self::ThinThreshold,
    ];

    /// Additional sense code and qualifier.
    pub const fn code(self) -> Code {
        Code(match self {
            Self::PowerOn => 0x2900,
            Self::TargetReset => 0x2902,
            Self::UnitReset => 0x2903,
            Self::NexusLoss => 0x2907,
            Self::MediumChanged => 0x2800,
            Self::ReservationsPreempted => 0x2a03,
            Self::RegistrationsPreempted => 0x2a05,
            Self::ReservationsReleased => 0x2a04,
            Self::CapacityChanged => 0x2a09,
            Self::ModeChanged => 0x2a01,
            Self::InquiryChanged => 0x3f03,
            Self::LunsChanged => 0x3f0e,
            Self::CommandsCleared => 0x2f00,
            Self::ThinThreshold => 0x3807,
        })
    }

    /// UNIT ATTENTION with this code.
    pub const fn sense(self) -> Sense {
        Sense::new(Key::UnitAttention, self.code())
    }

    const fn mask(self) -> u16 {
        1 << (self as u8)
    }
}

/// Per nexus and logical unit, kept by the session: unit attentions and deferred errors, and what the
/// nexus has seen of the medium. A set of at most one of each attention, so it cannot grow.
#[derive(Debug, Default)]
pub struct NexusState {
    pending: u16,
    deferred: Vec<Sense>,
    /// Value of [`crate::Unit::medium_changes`] that this nexus has been told of.
    pub(crate) medium_seen: u32,
}

impl NexusState {
    /// Of a nexus that appears: POWER ON, RESET, OR BUS DEVICE RESET OCCURRED is pending.
    pub fn new() -> Self {
        let mut state = Self::default();
        state.establish(Attention::PowerOn);
        state
    }

    /// Makes an attention pending; equal ones coalesce. A power-on or reset takes the place of the
    /// resets and losses that rank below it, for it tells more.
    pub fn establish(&mut self, attention: Attention) {
        if attention <= Attention::NexusLoss {
            let resets = Attention::NexusLoss.mask().wrapping_shl(1).wrapping_sub(1);
            let above = attention.mask().wrapping_sub(1);
            if self.pending & above != 0 {
                return;
            }
            self.pending &= !resets;
        }
        self.pending |= attention.mask();
    }

    /// Adds a deferred error (response code 71h); at most [`limits::DEFERRED_ERRORS`] are kept.
    pub fn establish_deferred(&mut self, mut sense: Sense) {
        sense.deferred = true;
        if self.deferred.len() < limits::DEFERRED_ERRORS && !self.deferred.contains(&sense) {
            self.deferred.push(sense);
        }
    }

    /// Whether anything waits to be reported.
    pub fn is_quiet(&self) -> bool {
        self.pending == 0 && self.deferred.is_empty()
    }

    /// The attentions pending, first to be reported first.
    pub fn pending(&self) -> impl Iterator<Item = Attention> + use<> {
        let pending = self.pending;
        Attention::ALL
            .into_iter()
            .filter(move |a| pending & a.mask() != 0)
    }

    /// Takes the first thing to report: attentions by precedence, then deferred errors by age.
    pub(crate) fn take(&mut self) -> Option<Sense> {
        if let Some(attention) = self.pending().next() {
            self.clear(attention);
            return Some(attention.sense());
        }
        if self.deferred.is_empty() {
            return None;
        }
        Some(self.deferred.remove(0))
    }

    /// Takes one attention away unreported.
    pub(crate) fn clear(&mut self, attention: Attention) {
        self.pending &= !attention.mask();
    }
}

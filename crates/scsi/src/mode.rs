//! Mode pages: what they say, and what MODE SELECT may change of them.

use serde::{Deserialize, Serialize};

/// Values that MODE SELECT may change, current and saved.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// SWP of the control page: nobody writes.
    pub write_protect: bool,
    /// D_SENSE of the control page: sense data in descriptor format.
    pub descriptor_sense: bool,
    /// What the values return to after a reset.
    pub saved: Saved,
}

/// The changeable values as they are written down beside the device.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// SWP.
    #[serde(default)]
    pub write_protect: bool,
    /// D_SENSE.
    #[serde(default)]
    pub descriptor_sense: bool,
}

impl State {
    /// The state after power on: current values are the saved ones.
    pub const fn restore(saved: Saved) -> Self {
        Self {
            write_protect: saved.write_protect,
            descriptor_sense: saved.descriptor_sense,
            saved,
        }
    }

    /// The current values as they would be saved.
    const fn current(self) -> Saved {
        Saved {
            write_protect: self.write_protect,
            descriptor_sense: self.descriptor_sense,
        }
    }

    /// What a MODE SELECT makes of it.
    #[must_use]
    pub fn select(self, select: &Select) -> Self {
        let mut next = self;
        next.write_protect = select.write_protect.unwrap_or(next.write_protect);
        next.descriptor_sense = select.descriptor_sense.unwrap_or(next.descriptor_sense);
        if select.save {
            next.saved = next.current();
        }
        next
    }
}

/// A MODE SELECT that was well-formed: the changeable values it sets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Select {
    /// SWP.
    pub write_protect: Option<bool>,
    /// D_SENSE.
    pub descriptor_sense: Option<bool>,
    /// SP: save them too.
    pub save: bool,
}

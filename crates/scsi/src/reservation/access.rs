//! What a command does, as far as a reservation cares.

/// Classes of commands in the tables of SPC-4 and SBC-3.
///
/// The tables have five columns (from anybody under the two exclusive types, from registered nexuses
/// under the others, from unregistered ones under the others) but only three different rows, apart
/// from the commands that have rules of their own.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Access {
    /// Allowed whatever is reserved.
    Free,
    /// Conflicts where access is exclusive.
    Read,
    /// Conflicts under every reservation.
    Write,
}

//! Writes that a power cut of the host may have taken although they were acknowledged.
//!
//! While a device's cache is volatile, the nexuses that write are written down beside it before
//! their first write is acknowledged. After a clean stop the list is emptied. Where a start finds a
//! list from an earlier boot of the host, each nexus on it gets a deferred error before anything
//! else: without that, a later SYNCHRONIZE CACHE would claim that lost writes are stable. A killed
//! process loses nothing (the page cache outlives it), so within one boot nobody is in doubt.
//!
//! The document beside the device keeps the books ([`disk::Beside`]); here is what the service asks
//! of it.

use disk::{Beside, BesideError};
use scsi::Nexus;

/// At the start: who wrote in an earlier boot is owed an error from now on. `true`: to be saved.
pub(crate) fn settle(beside: &mut Beside) -> Result<bool, BesideError> {
    Ok(beside.settle(&disk::beside::boot_id()?))
}

/// The cache was lost while the host ran (a flush failed, or the device was gone): who wrote since the
/// last clean stop is owed an error before a flush may succeed on the device opened anew. They stay
/// on the list, for they go on writing. `true`: to be saved.
pub(crate) fn lost(beside: &mut Beside) -> bool {
    let Some(writers) = &mut beside.writers else {
        return false;
    };
    let before = writers.clone();
    writers.owed.extend(writers.nexuses.iter().cloned());
    writers.owed_everyone |= writers.everyone || writers.owed.len() > disk::limits::WRITERS_MAX;
    if writers.owed_everyone {
        writers.owed.clear();
    }
    *writers != before
}

/// How many nexuses are in doubt; at least one where everyone is.
pub(crate) fn count(beside: &Beside) -> usize {
    beside.writers.as_ref().map_or(0, |writers| {
        writers.owed.len().max(usize::from(writers.owed_everyone))
    })
}

/// Before the first write: `true` when the document has to be saved.
pub(crate) fn about_to_write(beside: &mut Beside, nexus: &Nexus) -> Result<bool, BesideError> {
    Ok(beside.wrote(&nexus.to_string(), &disk::beside::boot_id()?))
}

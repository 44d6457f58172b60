//! Space before promise: under write-back, an image's blocks are reserved before a write into them
//! is acknowledged, so that the page cache never holds data that the disk has no room for.
//!
//! One bit per [`RESERVE_GRANULE`] says "reserved since this device was opened". Reserving twice
//! is harmless; a granule that holds data already costs one call that changes nothing. A write
//! holds its granules shared from the reservation to the end of the write; what punches holes
//! or zeroes holds them alone and takes the bits back first. A granule that is not whole, because
//! the device ends in it, never gets its bit. The promise is as good as `fallocate` of the
//! file system: one that copies on write may need space again to overwrite.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use ring::{AllocateMode, Io};

use super::errors::translate;
use super::transfer::widened;
use super::{Core, Generation};
use crate::gate::{Hold, RangeGuard};
use crate::limits::RESERVE_GRANULE;
use crate::request::DiskError;

/// Which granules are reserved.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    words: RwLock<Vec<AtomicU64>>,
}

impl Reserve {
    /// Makes room for the bits of a device of `bytes`; false when memory is short.
    pub(crate) fn cover(&self, bytes: u64) -> bool {
        let Ok(words) = usize::try_from(bytes.div_ceil(RESERVE_GRANULE).div_ceil(64)) else {
            return false;
        };
        let mut table = self.words.write();
        let more = words.saturating_sub(table.len());
        if table.try_reserve_exact(more).is_err() {
            return false;
        }
        let len = table.len().max(words);
        table.resize_with(len, || AtomicU64::new(0));
        true
    }

    /// First run of granules without a bit in `start..end`.
    fn missing(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let words = self.words.read();
        let unset = |granule: &u64| {
            let word = usize::try_from(*granule / 64)
                .ok()
                .and_then(|word| words.get(word));
            word.is_none_or(|word| word.load(Ordering::Acquire) & bit(*granule) == 0)
        };
        let first = (start..end).find(unset)?;
        let after = (first..end).find(|granule| !unset(granule)).unwrap_or(end);
        Some((first, after))
    }

    fn mark(&self, start: u64, end: u64, reserved: bool) {
        let words = self.words.read();
        for granule in start..end {
            let word = usize::try_from(granule / 64)
                .ok()
                .and_then(|word| words.get(word));
            let Some(word) = word else { continue };
            if reserved {
                word.fetch_or(bit(granule), Ordering::AcqRel);
            } else {
                word.fetch_and(!bit(granule), Ordering::AcqRel);
            }
        }
    }
}

const fn bit(granule: u64) -> u64 {
    1 << (granule % 64)
}

impl Core {
    /// Reserves what a write needs; the guard is held until the write has ended.
    pub(super) async fn reserve_for(
        &self,
        io: &Io,
        files: &Generation,
        offset: u64,
        len: u64,
    ) -> Result<Option<RangeGuard>, DiskError> {
        let Some(reserve) = self.reserve.as_ref().filter(|_| files.write_back()) else {
            return Ok(None);
        };
        let (start, end) = widened(offset, len, RESERVE_GRANULE);
        let held = self.ranges.acquire(start, end, Hold::Shared).await;
        let (mut first, last) = (start / RESERVE_GRANULE, end / RESERVE_GRANULE);
        while let Some((from, to)) = reserve.missing(first, last) {
            let (at, until) = (
                from * RESERVE_GRANULE,
                (to * RESERVE_GRANULE).min(self.geometry().bytes()),
            );
            match io
                .allocate(self.file(), AllocateMode::Reserve, at, until - at)
                .await
            {
                // Not the one that the device ends in: growing adds to it.
                Ok(()) => reserve.mark(from, until / RESERVE_GRANULE, true),
                Err(error) if translate(&error, offset) == DiskError::NoSpace => {
                    // No room for whole granules: the blocks themselves may still fit.
                    io.allocate(self.file(), AllocateMode::Reserve, offset, len)
                        .await
                        .map_err(|error| translate(&error, offset))?;
                    break;
                }
                Err(error) => return Err(translate(&error, offset)),
            }
            first = to;
        }
        Ok(Some(held))
    }

    /// Takes reservations back before space is given back. The caller holds the granules alone.
    pub(super) fn unreserve(&self, offset: u64, len: u64) {
        if let Some(reserve) = &self.reserve {
            let (start, end) = widened(offset, len, RESERVE_GRANULE);
            reserve.mark(start / RESERVE_GRANULE, end / RESERVE_GRANULE, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_missing_granules() {
        let reserve = Reserve::default();
        assert!(reserve.cover(RESERVE_GRANULE * 200));
        assert_eq!(reserve.missing(0, 200), Some((0, 200)));
        reserve.mark(3, 130, true);
        assert_eq!(reserve.missing(0, 200), Some((0, 3)));
        assert_eq!(reserve.missing(3, 200), Some((130, 200)));
        assert_eq!(reserve.missing(3, 130), None);
        reserve.mark(64, 65, false);
        assert_eq!(reserve.missing(3, 130), Some((64, 65)));
        assert!(reserve.cover(RESERVE_GRANULE * 400));
        assert_eq!(reserve.missing(65, 130), None);
    }
}

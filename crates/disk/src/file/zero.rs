//! Zeroing and giving back space, by the best means the file system or driver has.
//!
//! Reads of what was unmapped return zeros, always: a hole does, a partly covered file system
//! block is zeroed by the kernel within the same call, and where there is neither, zeros are
//! written. `BLKDISCARD` promises nothing about later reads, so it is not used; the punch call on
//! a block device is the kernel's "write zeroes, may deallocate", which does promise.
//!
//! A means that turns out not to exist is not tried again.

use std::sync::atomic::{AtomicU8, Ordering};

use ring::{AllocateMode, Buffer, Io, Op, Outcome};

use super::errors::{translate, unsupported};
use super::{Core, Generation, Kind};
use crate::limits::{RESERVE_GRANULE, ZERO_CHUNK};
use crate::request::{DiskError, Extent};

/// A means of making zeros, best first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    /// A hole; on a block device: zeroes that may deallocate.
    Punch,
    /// Allocated zeros of a file.
    ZeroRange,
    /// Zeros by the driver, allocated.
    BlockZero,
    /// Zeros are written.
    Write,
}

impl Method {
    const ALL: [Self; 4] = [Self::Punch, Self::ZeroRange, Self::BlockZero, Self::Write];

    const fn next(self, kind: Kind) -> Self {
        match (self, kind) {
            (Self::Punch, Kind::Block { .. }) => Self::BlockZero,
            (Self::Punch, _) => Self::ZeroRange,
            _ => Self::Write,
        }
    }
}

/// The method in use; only ever goes down the list.
#[derive(Debug)]
pub(crate) struct MethodCell(AtomicU8);

impl MethodCell {
    pub(crate) const fn new(method: Method) -> Self {
        Self(AtomicU8::new(method as u8))
    }

    pub(crate) fn get(&self) -> Method {
        let at = usize::from(self.0.load(Ordering::Relaxed));
        Method::ALL.get(at).copied().unwrap_or(Method::Write)
    }

    fn lower(&self, to: Method) {
        self.0.fetch_max(to as u8, Ordering::Relaxed);
    }
}

impl Core {
    pub(super) async fn unmap(
        &self,
        io: &Io,
        files: &Generation,
        extents: &[Extent],
    ) -> Result<(), DiskError> {
        for extent in extents {
            self.clear(io, files, extent.offset, extent.len, true)
                .await?;
        }
        if files.durable() {
            self.stable(io).await
        } else {
            Ok(())
        }
    }

    pub(super) async fn zero(
        &self,
        io: &Io,
        files: &Generation,
        offset: u64,
        len: u64,
        unmap: bool,
        fua: bool,
    ) -> Result<(), DiskError> {
        self.clear(io, files, offset, len, unmap).await?;
        if fua || files.durable() {
            self.stable(io).await
        } else {
            Ok(())
        }
    }

    /// Zeros, with the ends that the kernel's zeroing cannot address written out.
    async fn clear(
        &self,
        io: &Io,
        files: &Generation,
        offset: u64,
        len: u64,
        free: bool,
    ) -> Result<(), DiskError> {
        let unit = u64::from(self.traits.zero_alignment);
        let end = offset + len;
        let (inner, inner_end) = (offset.next_multiple_of(unit), end / unit * unit);
        if inner >= inner_end {
            return self.write_zeros(io, files, offset, len).await;
        }
        self.write_zeros(io, files, offset, inner - offset).await?;
        self.clear_aligned(io, files, inner, inner_end - inner, free)
            .await?;
        self.write_zeros(io, files, inner_end, end - inner_end)
            .await
    }

    async fn clear_aligned(
        &self,
        io: &Io,
        files: &Generation,
        offset: u64,
        len: u64,
        free: bool,
    ) -> Result<(), DiskError> {
        let cell = if free {
            &self.unmap_method
        } else {
            &self.zero_method
        };
        loop {
            let method = cell.get();
            if method == Method::Write {
                return self.write_zeros(io, files, offset, len).await;
            }
            match self.kernel_zero(io, files, offset, len, method).await {
                Ok(()) => return Ok(()),
                Err(error) if unsupported(&error) => cell.lower(method.next(self.traits.kind)),
                Err(error) => return Err(translate(&error, offset)),
            }
        }
    }

    async fn kernel_zero(
        &self,
        io: &Io,
        files: &Generation,
        offset: u64,
        len: u64,
        method: Method,
    ) -> std::io::Result<()> {
        // Zeroing a range punches it first on some file systems, and may then find no space.
        let alone = if self.reserve.is_some() {
            Some(RESERVE_GRANULE)
        } else {
            self.emulated(files)
        };
        let _held = match alone {
            Some(unit) => Some(self.hold_alone(offset, len, unit).await),
            None => None,
        };
        let file = self.file();
        self.unreserve(offset, len);
        match method {
            Method::Punch => {
                io.allocate(file, AllocateMode::PunchHole, offset, len)
                    .await
            }
            Method::ZeroRange => {
                io.allocate(file, AllocateMode::ZeroRange, offset, len)
                    .await
            }
            Method::BlockZero => match io.run(Op::BlockZero { file, offset, len }).await {
                Outcome::Done(result) => result,
                _ => Err(std::io::ErrorKind::Unsupported.into()),
            },
            Method::Write => Ok(()),
        }
    }

    /// Writes zeros through the ordinary write path, with all its rules.
    async fn write_zeros(
        &self,
        io: &Io,
        files: &Generation,
        offset: u64,
        len: u64,
    ) -> Result<(), DiskError> {
        let chunk = len.min(ZERO_CHUNK as u64);
        let size = usize::try_from(chunk).map_err(|_| DiskError::OutOfRange)?;
        if size == 0 {
            return Ok(());
        }
        let mut buffer = Buffer::zeroed(size);
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let now = usize::try_from((end - at).min(chunk)).map_err(|_| DiskError::OutOfRange)?;
            buffer = self.write(io, files, at, now, buffer, false).await?;
            at += now as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_only_go_down() {
        let cell = MethodCell::new(Method::Punch);
        let image = Kind::Image {
            preallocated: false,
        };
        assert_eq!(Method::Punch.next(image), Method::ZeroRange);
        assert_eq!(
            Method::Punch.next(Kind::Block { drive_cache: true }),
            Method::BlockZero
        );
        cell.lower(Method::ZeroRange);
        assert_eq!(cell.get(), Method::ZeroRange);
        cell.lower(Method::Punch);
        assert_eq!(cell.get(), Method::ZeroRange);
        cell.lower(Method::ZeroRange.next(image));
        assert_eq!(cell.get(), Method::Write);
    }
}

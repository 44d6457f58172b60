//! Reads and writes, with the emulation of blocks smaller than direct I/O allows.

use ring::{Buffer, Io};

use super::errors::translate;
use super::{Core, Generation};
use crate::gate::{Hold, RangeGuard};
use crate::request::DiskError;

/// `offset..offset + len` widened to multiples of `alignment`.
pub(super) const fn widened(offset: u64, len: u64, alignment: u64) -> (u64, u64) {
    (
        offset / alignment * alignment,
        (offset + len).next_multiple_of(alignment),
    )
}

fn narrow(value: u64) -> Result<usize, DiskError> {
    usize::try_from(value).map_err(|_| DiskError::OutOfRange)
}

impl Core {
    /// The alignment to emulate, if direct I/O is coarser than a block.
    pub(super) fn emulated(&self, files: &Generation) -> Option<u64> {
        files
            .direct()
            .filter(|alignment| *alignment > self.traits.block_size)
            .map(u64::from)
    }

    pub(super) async fn read(
        &self,
        io: &Io,
        files: &Generation,
        offset: u64,
        len: usize,
        mut buffer: Buffer,
    ) -> Result<Buffer, DiskError> {
        if len == 0 {
            return Ok(buffer);
        }
        let Some(alignment) = self.emulated(files) else {
            return self.read_plain(io, offset, len, buffer).await;
        };
        let (start, end) = widened(offset, len as u64, alignment);
        if start == offset && end == offset + len as u64 {
            return self.read_plain(io, offset, len, buffer).await;
        }
        let span = narrow(end - start)?;
        let wide = self
            .read_plain(io, start, span, Buffer::zeroed(span))
            .await?;
        let skip = narrow(offset - start)?;
        buffer[..len].copy_from_slice(&wide[skip..skip + len]);
        Ok(buffer)
    }

    /// One read that must bring all the bytes the file is to have there.
    async fn read_plain(
        &self,
        io: &Io,
        offset: u64,
        len: usize,
        buffer: Buffer,
    ) -> Result<Buffer, DiskError> {
        let (mut buffer, result) = io.read(self.file(), buffer, 0..len, offset).await;
        let got = result.map_err(|error| translate(&error, offset))?;
        let behind = self.geometry().bytes() - self.traits.padding;
        let expected = narrow(behind.saturating_sub(offset).min(len as u64))?;
        if got < expected {
            return Err(self.lost());
        }
        // Only the padding of an ISO image's last block is left.
        buffer[expected..len].fill(0);
        Ok(buffer)
    }

    pub(super) async fn write(
        &self,
        io: &Io,
        files: &Generation,
        offset: u64,
        len: usize,
        buffer: Buffer,
        fua: bool,
    ) -> Result<Buffer, DiskError> {
        if len == 0 {
            return Ok(buffer);
        }
        let reserved = self.reserve_for(io, files, offset, len as u64).await?;
        // Under write-back the sync must go through the one queue (see `sync`).
        let durable = files.durable() || (fua && !files.write_back());
        let buffer = match self.emulated(files) {
            None => self.write_plain(io, offset, len, buffer, durable).await?,
            Some(alignment) => {
                self.write_emulated(io, offset, len, buffer, (alignment, durable))
                    .await?
            }
        };
        drop(reserved);
        if fua && files.write_back() {
            self.stable(io).await?;
        }
        Ok(buffer)
    }

    async fn write_plain(
        &self,
        io: &Io,
        offset: u64,
        len: usize,
        buffer: Buffer,
        durable: bool,
    ) -> Result<Buffer, DiskError> {
        let (buffer, result) = io.write(self.file(), buffer, 0..len, offset, durable).await;
        result.map_err(|error| translate(&error, offset))?;
        Ok(buffer)
    }

    /// Holds the aligned range alone: nobody's block inside it is written back from an old copy.
    pub(super) async fn hold_alone(&self, offset: u64, len: u64, alignment: u64) -> RangeGuard {
        let (start, end) = widened(offset, len, alignment);
        self.ranges.acquire(start, end, Hold::Exclusive).await
    }

    async fn write_emulated(
        &self,
        io: &Io,
        offset: u64,
        len: usize,
        buffer: Buffer,
        (alignment, durable): (u64, bool),
    ) -> Result<Buffer, DiskError> {
        let _held = self.hold_alone(offset, len as u64, alignment).await;
        let (start, end) = widened(offset, len as u64, alignment);
        let (skip, span, unit) = (
            narrow(offset - start)?,
            narrow(end - start)?,
            narrow(alignment)?,
        );
        if skip == 0 && span == len {
            return self.write_plain(io, offset, len, buffer, durable).await;
        }
        let mut wide = Buffer::zeroed(span);
        if skip != 0 || span == unit {
            let head = self
                .read_plain(io, start, unit, Buffer::zeroed(unit))
                .await?;
            wide[..unit].copy_from_slice(&head[..unit]);
        }
        if skip + len != span && span > unit {
            let last = end - alignment;
            let tail = self
                .read_plain(io, last, unit, Buffer::zeroed(unit))
                .await?;
            wide[span - unit..].copy_from_slice(&tail[..unit]);
        }
        wide[skip..skip + len].copy_from_slice(&buffer[..len]);
        self.write_plain(io, start, span, wide, durable).await?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening() {
        assert_eq!(widened(512, 512, 4096), (0, 4096));
        assert_eq!(widened(4096, 4096, 4096), (4096, 8192));
        assert_eq!(widened(3584, 1024, 4096), (0, 8192));
    }
}

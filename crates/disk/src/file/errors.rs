//! The one place where the system's error numbers become [`DiskError`].

use std::io;

use rustix::io::Errno;

use crate::request::DiskError;

/// What an operation at `offset` failed with, in the disk's words.
pub(crate) fn translate(error: &io::Error, offset: u64) -> DiskError {
    let Some(errno) = error.raw_os_error() else {
        return match error.kind() {
            io::ErrorKind::WriteZero => DiskError::NoSpace,
            io::ErrorKind::UnexpectedEof => DiskError::Gone,
            _ => DiskError::Io {
                errno: Errno::IO.raw_os_error(),
            },
        };
    };
    match Errno::from_raw_os_error(errno) {
        // A file-size limit is a lack of space to whoever writes into a device.
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => DiskError::NoSpace,
        Errno::IO | Errno::BADMSG | Errno::NODATA | Errno::REMOTEIO | Errno::ILSEQ => {
            DiskError::Medium { offset }
        }
        Errno::NODEV | Errno::NXIO | Errno::STALE | Errno::NOTCONN | Errno::SHUTDOWN => {
            DiskError::Gone
        }
        Errno::ROFS | Errno::ACCESS | Errno::PERM => DiskError::ReadOnly,
        Errno::BUSY | Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS => DiskError::Busy,
        Errno::OPNOTSUPP | Errno::NOSYS => DiskError::Unsupported,
        _ => DiskError::Io { errno },
    }
}

/// Whether the file system or driver cannot do the operation at all.
pub(crate) fn unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let of = |errno: Errno| translate(&io::Error::from(errno), 7);
        assert_eq!(of(Errno::NOSPC), DiskError::NoSpace);
        assert_eq!(of(Errno::FBIG), DiskError::NoSpace);
        assert_eq!(of(Errno::IO), DiskError::Medium { offset: 7 });
        assert_eq!(of(Errno::NODEV), DiskError::Gone);
        assert_eq!(of(Errno::ROFS), DiskError::ReadOnly);
        assert_eq!(of(Errno::NOMEM), DiskError::Busy);
        assert_eq!(of(Errno::OPNOTSUPP), DiskError::Unsupported);
        assert_eq!(
            of(Errno::INVAL),
            DiskError::Io {
                errno: Errno::INVAL.raw_os_error()
            }
        );
        assert!(unsupported(&io::Error::from(Errno::OPNOTSUPP)));
        assert!(!unsupported(&io::Error::from(Errno::NOSPC)));
    }
}

//! What can fail on the control plane: opening, creating, growing, changing the mode, and the
//! document beside a device. The data path has the small closed [`crate::DiskError`] instead.

use std::io;
use std::path::PathBuf;

use crate::beside::BesideError;
use crate::request::CacheMode;

/// Why a device could not be opened, made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is nothing at the path.
    #[error("{path} does not exist; create the image first, or correct the path")]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// The path names something of another kind.
    #[error("{path} is {found}, not {wanted}; correct the path or the kind of the device")]
    WrongKind {
        /// The path given.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What this kind of device needs.
        wanted: &'static str,
    },
    /// What was opened is a file that may not be served. Nothing of it was read or changed.
    #[error("{path} is not served: {reason}")]
    Refused {
        /// The path given.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The system refused to open it.
    #[error("cannot open {path}; check that the service's user may use it")]
    Open {
        /// The path given.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another service, or another device of this one, has it open; or a process that was killed, or
    /// a shard that was given up, left a request to the kernel that has not ended. The kernel does
    /// not say which.
    #[error(
        "{path} is in use by another device or program, or I/O of an earlier run of the service has \
         not ended on it; stop that, or wait for the disk, then load the device"
    )]
    Locked {
        /// The path given.
        path: PathBuf,
    },
    /// A question about an open file or device was not answered.
    #[error("cannot learn {what} of {path}")]
    Inspect {
        /// The path given.
        path: PathBuf,
        /// What was asked.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The image file is shorter than the settings say; it is never grown silently.
    #[error(
        "{path} holds {have} bytes but the settings say {want}; restore the file, or correct the \
         size (a shorter file means that data is missing)"
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        have: u64,
        /// The size in the settings in bytes.
        want: u64,
    },
    /// The image file is longer than the settings say, by a part of a block.
    #[error(
        "{path} holds {have} bytes but the settings say {want}, and the difference is no multiple \
         of the block size; this is probably not the file that was meant"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        have: u64,
        /// The size in the settings in bytes.
        want: u64,
    },
    /// The block size cannot be used.
    #[error("block size {block_size} cannot be used: {reason}")]
    BlockSize {
        /// The block size in bytes.
        block_size: u32,
        /// Why not.
        reason: &'static str,
    },
    /// The size cannot be used.
    #[error("size {size} cannot be used: {reason}")]
    Size {
        /// The size in bytes.
        size: u64,
        /// Why not.
        reason: &'static str,
    },
    /// A file of that name is there already; nothing was changed.
    #[error("{path} already exists and is left as it is; choose another path, or use that file")]
    Exists {
        /// The path given.
        path: PathBuf,
    },
    /// The document of an image that is no more lies where the new image's would; nothing was
    /// changed. Made beside it, a new image would have the old one's identity and reservations.
    #[error(
        "{document} is left over from an earlier image {path}, whose identity and reservations it \
         holds; remove {document} to make a new image, or put the earlier image back and use that"
    )]
    Leftover {
        /// The image that was to be made.
        path: PathBuf,
        /// The document that is in the way.
        document: PathBuf,
    },
    /// What the path leads to now is another file than the one to be removed; nothing was removed.
    #[error(
        "the file at {path} is not the one that the device uses, so it is left as it is; look at \
         what came to be there, and remove the device's own file by hand"
    )]
    Replaced {
        /// The path given.
        path: PathBuf,
    },
    /// An image or its document could not be removed; a repeated removal goes on from there.
    #[error("cannot remove {path}; it is there still")]
    Remove {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It was removed, but its directory could not be made stable. What was to go after it is there
    /// still; a repeated removal goes on with that.
    #[error(
        "{path} is removed, but that may not outlive a power failure, for its directory could not \
         be made stable; look at the disk under it"
    )]
    RemovedUnstable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is not enough space; nothing was left behind.
    #[error(
        "no space for {path}: {need} bytes are needed; free some space or choose a smaller size"
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Bytes that were to be reserved.
        need: u64,
    },
    /// The caller cancelled; nothing was left behind.
    #[error("creating {path} was cancelled; nothing was left behind")]
    Cancelled {
        /// The file.
        path: PathBuf,
    },
    /// A step of making a file failed; nothing was left behind.
    #[error("cannot create {path}: {step} failed")]
    Create {
        /// The file.
        path: PathBuf,
        /// The step.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The device would become smaller.
    #[error("{what} has {have} bytes and cannot shrink to {want}")]
    Shrink {
        /// The device.
        what: String,
        /// Present size in bytes.
        have: u64,
        /// Size asked for in bytes.
        want: u64,
    },
    /// A block device has not got the size asked for.
    #[error("{path} has {have} bytes, not {want}; enlarge the disk or volume first")]
    NotGrown {
        /// The device node.
        path: PathBuf,
        /// Present size in bytes.
        have: u64,
        /// Size asked for in bytes.
        want: u64,
    },
    /// Growing failed; the size is as before.
    #[error("cannot grow {path}; its size is as before")]
    Grow {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// This kind of device cannot do it.
    #[error("{what} cannot {verb}")]
    Unsupported {
        /// The device.
        what: String,
        /// What was asked.
        verb: &'static str,
    },
    /// The cache mode cannot be promised here.
    #[error("{path} cannot work in cache mode {mode}: {reason}")]
    Mode {
        /// The file or device.
        path: PathBuf,
        /// The mode asked for.
        mode: CacheMode,
        /// Why not.
        reason: &'static str,
    },
    /// Operations of the old cache mode, or making them stable, did not end within the bound. The
    /// old mode stays in force, and so does its promise.
    #[error(
        "{path}: the cache mode is as before, because operations under way were not stable within \
         {seconds} s; the disk is very busy or stuck. Repeat the change when it is less so"
    )]
    Stuck {
        /// The file or device.
        path: PathBuf,
        /// The bound in seconds.
        seconds: u64,
    },
    /// Whoever asked for another cache mode had given up before it could take effect.
    #[error("the cache mode of {what} is as before: the change was given up before it took effect")]
    GivenUp {
        /// The device.
        what: String,
    },
    /// Data could not be made stable. What was written since the last good flush may be lost.
    #[error(
        "{path}: making data stable failed; treat what was written since the last successful flush \
         as lost, then open the device again"
    )]
    Sync {
        /// The file or device.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is no optical image.
    #[error("{path} is no ISO 9660 or UDF image: no volume descriptor was found from sector 16 on")]
    NotOptical {
        /// The file.
        path: PathBuf,
    },
    /// Memory for the device's tables could not be had.
    #[error("not enough memory for the tables of {what}")]
    Memory {
        /// The device.
        what: String,
    },
    /// A block device has no identity of its own, so what lies beside it has no key.
    #[error(
        "{path} tells neither a world-wide name nor a serial number and has no name under \
         /dev/disk/by-id; give the virtual disk a serial number, or use a volume that has one"
    )]
    NoIdentity {
        /// The device node.
        path: PathBuf,
    },
    /// The document beside the device.
    #[error(transparent)]
    Beside(#[from] BesideError),
}

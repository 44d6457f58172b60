//! Every bound of the settings in one place.

use std::time::Duration;

/// Longest settings document, in bytes: 256 targets with 256 LUNs each fit with room to spare.
pub const DOCUMENT_BYTES: u64 = 8 * 1024 * 1024;

/// Longest file of a generation: the document with its header.
pub const GENERATION_BYTES: u64 = DOCUMENT_BYTES + 16 * 1024;

/// Generations kept; the oldest go when a new one is active. On disk at most
/// `GENERATIONS * GENERATION_BYTES` (400 MiB), usually some 100 KiB.
pub const GENERATIONS: usize = 50;

/// Problems told of one document; more of them are counted.
pub const PROBLEMS: usize = 20;

/// Longest name of who made a change, in bytes.
pub const WHO_BYTES: usize = 128;

/// Longest reason of a change, in bytes.
pub const WHY_BYTES: usize = 512;

/// Longest label of a host, in bytes.
pub const HOST_NAME_BYTES: usize = 64;

/// Longest name of a group of the system, in bytes.
pub const GROUP_BYTES: usize = 32;

/// Longest spin before a shard sleeps, in microseconds.
pub const SPIN_US: u32 = 10_000;

/// Time for finding a short diff; past it the diff is correct but may be longer than need be.
pub const DIFF_TIME: Duration = Duration::from_millis(500);

/// Secrets in the store.
pub const SECRETS: usize = 4096;

/// Longest name of a secret, in bytes.
pub const SECRET_NAME_BYTES: usize = 128;

/// Shortest CHAP secret, in bytes: 96 bits, the least the standard allows without IPsec.
pub const SECRET_BYTES_MIN: usize = 12;

/// Longest CHAP secret that Windows and ESXi take, in bytes.
pub const SECRET_BYTES_ADVISED: usize = 16;

/// Longest CHAP secret, in bytes: what a text value of a login may hold.
pub const SECRET_BYTES_MAX: usize = 255;

/// Length of a secret made here, in letters and digits: 95 bits of chance, and every initiator
/// takes it.
pub const SECRET_GENERATED: usize = 16;

/// Longest file of secrets, in bytes; an escaped secret may be six times its length.
pub const SECRETS_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// Shortest passphrase of an export, in characters.
pub const PASSPHRASE_CHARS: usize = 12;

/// PBKDF2-HMAC-SHA256 rounds of an export.
pub const EXPORT_ROUNDS: u32 = 600_000;

/// Fewest rounds that an import accepts: fewer is no protection, and none of ours.
pub const IMPORT_ROUNDS_MIN: u32 = 100_000;

/// Most rounds that an import works for (some seconds).
pub const IMPORT_ROUNDS_MAX: u32 = 10_000_000;

const _: () = {
    assert!(SECRET_BYTES_MIN <= SECRET_GENERATED);
    assert!(SECRET_GENERATED <= SECRET_BYTES_ADVISED);
    assert!(SECRET_BYTES_ADVISED <= SECRET_BYTES_MAX);
    assert!(IMPORT_ROUNDS_MIN <= EXPORT_ROUNDS && EXPORT_ROUNDS <= IMPORT_ROUNDS_MAX);
    assert!(
        (SECRETS * (SECRET_NAME_BYTES + 6 * SECRET_BYTES_MAX + 8)) as u64 <= SECRETS_FILE_BYTES
    );
};

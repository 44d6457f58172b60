//! Aligned, owned buffers, and a bounded pool of them.
//!
//! A buffer is always initialized: its memory is zeroed when it is allocated, and what a pool hands
//! out again holds what its earlier user left. So reading one is never undefined, but sending what
//! one has not filled would disclose old contents.

#![expect(
    unsafe_code,
    reason = "aligned memory comes from the global allocator as raw pointers"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::limits::{CLASS_COUNT, CLASS_MAX, CLASS_MIN};

/// Alignment of every buffer in bytes: what direct I/O asks for on any disk in use.
pub const ALIGNMENT: usize = CLASS_MIN;

/// An owned, always initialized, 4 KiB-aligned block of bytes. Goes back to its pool on drop.
pub struct Buffer {
    memory: Memory,
    len: usize,
    home: Option<Arc<Inner>>,
}

impl Buffer {
    /// A zeroed buffer of `len` bytes outside any pool.
    pub fn zeroed(len: usize) -> Self {
        let capacity = len.max(1).next_multiple_of(ALIGNMENT);
        Self {
            memory: Memory::zeroed(capacity),
            len,
            home: None,
        }
    }

    /// Length in bytes: what was asked for. The allocation may be larger.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Shortens to `len` bytes; a `len` that is longer than now does nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes it shareable without a copy.
    pub fn share(self) -> SharedBuffer {
        SharedBuffer(Arc::new(self))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.bytes(self.len)
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.memory.bytes_mut(len)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Shows the length only: contents are an initiator's data.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(std::mem::take(&mut self.memory));
        }
    }
}

/// A buffer that several sends may refer to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedBuffer(Arc<Buffer>);

impl SharedBuffer {
    /// The buffer itself when this is the last reference, else the reference back.
    ///
    /// # Errors
    /// `Err` holds the reference that was given, when others remain.
    pub fn try_unique(self) -> Result<Buffer, Self> {
        Arc::try_unwrap(self.0).map_err(Self)
    }
}

impl Deref for SharedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for SharedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Buffer> for SharedBuffer {
    fn from(buffer: Buffer) -> Self {
        buffer.share()
    }
}

/// How much a pool may have out at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolLimits {
    /// Bytes out at once, over all sizes and counted in whole size classes; past it `take` refuses.
    pub bytes_max: usize,
    /// Bytes kept idle for reuse; what comes back beyond is freed.
    pub idle_bytes_max: usize,
}

/// A bounded pool with power-of-two size classes from 4 KiB to 16 MiB. A clone is the same pool.
///
/// Taking and giving back cost one uncontended lock of a size class; a pool is meant to belong to
/// one shard, but its buffers may be dropped on any thread.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

impl Pool {
    /// An empty pool; memory is allocated when it is first asked for.
    pub fn new(limits: PoolLimits) -> Self {
        Self(Arc::new(Inner {
            limits,
            bytes_out: AtomicUsize::new(0),
            bytes_idle: AtomicUsize::new(0),
            classes: Default::default(),
        }))
    }

    /// A buffer of `len` bytes, or `None` when `bytes_max` would be passed or `len` is over 16 MiB.
    /// Contents are initialized but may be what an earlier user left: the caller must not send
    /// what it has not filled.
    pub fn take(&self, len: usize) -> Option<Buffer> {
        let class = class_of(len)?;
        let capacity = CLASS_MIN << class;
        if !self.0.reserve(capacity) {
            return None;
        }
        let reused = self.0.classes[class].lock().pop();
        let memory = if let Some(memory) = reused {
            self.0.bytes_idle.fetch_sub(capacity, Ordering::AcqRel);
            memory
        } else {
            Memory::zeroed(capacity)
        };
        Some(Buffer {
            memory,
            len,
            home: Some(Arc::clone(&self.0)),
        })
    }

    /// Bytes out now, in whole size classes.
    pub fn bytes_out(&self) -> usize {
        self.0.bytes_out.load(Ordering::Acquire)
    }

    /// Bytes kept idle for reuse now.
    pub fn bytes_idle(&self) -> usize {
        self.0.bytes_idle.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limits", &self.0.limits)
            .field("bytes_out", &self.bytes_out())
            .field("bytes_idle", &self.bytes_idle())
            .finish()
    }
}

/// What the buffers of a pool share with it.
struct Inner {
    limits: PoolLimits,
    bytes_out: AtomicUsize,
    bytes_idle: AtomicUsize,
    classes: [Mutex<Vec<Memory>>; CLASS_COUNT],
}

impl Inner {
    /// Counts `bytes` as out unless that would pass the limit.
    fn reserve(&self, bytes: usize) -> bool {
        add_within(&self.bytes_out, bytes, self.limits.bytes_max)
    }

    fn give_back(&self, memory: Memory) {
        let capacity = memory.capacity;
        // Idle room is claimed before the memory becomes visible in its class, so that a `take`
        // that finds it can always subtract it.
        if add_within(&self.bytes_idle, capacity, self.limits.idle_bytes_max)
            && let Some(class) = class_of(capacity)
        {
            self.classes[class].lock().push(memory);
        }
        self.bytes_out.fetch_sub(capacity, Ordering::AcqRel);
    }
}

/// Adds unless the sum would pass `limit`; whether it did.
fn add_within(counter: &AtomicUsize, bytes: usize, limit: usize) -> bool {
    let add = |now: usize| now.checked_add(bytes).filter(|&sum| sum <= limit);
    counter
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
        .is_ok()
}

/// The smallest size class that holds `len` bytes.
fn class_of(len: usize) -> Option<usize> {
    if len > CLASS_MAX {
        return None;
    }
    let capacity = len.max(CLASS_MIN).next_power_of_two();
    Some((capacity / CLASS_MIN).trailing_zeros() as usize)
}

/// One aligned allocation; `capacity` zero stands for none.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: the allocation is owned by this value alone and has no ties to a thread.
unsafe impl Send for Memory {}
// SAFETY: through a shared reference the bytes can only be read.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates `capacity` zero bytes; `capacity` is a positive multiple of [`ALIGNMENT`].
    fn zeroed(capacity: usize) -> Self {
        assert!(
            capacity > 0 && capacity.is_multiple_of(ALIGNMENT),
            "capacity {capacity}"
        );
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero, by the assertion above.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self { start, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        match Layout::from_size_align(capacity, ALIGNMENT) {
            Ok(layout) => layout,
            Err(_) => panic!("a buffer of {capacity} bytes does not fit the address space"),
        }
    }

    fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.capacity);
        // SAFETY: `start` is valid for `capacity` initialized bytes (zeroed at allocation), the
        // range is inside them by the assertion, and `&self` keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), len) }
    }

    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.capacity);
        // SAFETY: as in `bytes`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), len) }
    }
}

impl Default for Memory {
    /// No memory.
    fn default() -> Self {
        Self {
            start: NonNull::dangling(),
            capacity: 0,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(bytes_max: usize, idle_bytes_max: usize) -> Pool {
        Pool::new(PoolLimits {
            bytes_max,
            idle_bytes_max,
        })
    }

    #[test]
    fn buffers_are_aligned_zeroed_and_of_the_asked_length() {
        for len in [0, 1, 511, 4096, 4097, 70_000] {
            let buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.is_empty(), len == 0);
            assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
            assert!(buffer.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn truncate_only_shortens() {
        let mut buffer = Buffer::zeroed(100);
        buffer.truncate(200);
        assert_eq!(buffer.len(), 100);
        buffer.truncate(3);
        assert_eq!(&buffer[..], &[0; 3]);
    }

    #[test]
    fn size_classes_cover_their_lengths() {
        assert_eq!(class_of(0), Some(0));
        assert_eq!(class_of(CLASS_MIN), Some(0));
        assert_eq!(class_of(CLASS_MIN + 1), Some(1));
        assert_eq!(class_of(CLASS_MAX), Some(CLASS_COUNT - 1));
        assert_eq!(class_of(CLASS_MAX + 1), None);
    }

    #[test]
    fn a_pool_refuses_past_its_limit_and_takes_back() {
        let pool = pool(3 * 4096, 3 * 4096);
        let first = pool.take(1).expect("within the limit");
        let second = pool.take(8192).expect("within the limit");
        assert_eq!(pool.bytes_out(), 3 * 4096);
        assert!(pool.take(1).is_none());
        drop(second);
        assert_eq!((pool.bytes_out(), pool.bytes_idle()), (4096, 8192));
        assert!(pool.take(1).is_some());
        drop(first);
        assert_eq!(pool.bytes_out(), 0);
    }

    #[test]
    fn reuse_gives_the_same_memory() {
        let pool = pool(1 << 20, 1 << 20);
        let mut buffer = pool.take(10_000).expect("within the limit");
        buffer.fill(0xa5);
        let place = buffer.as_ptr();
        drop(buffer);
        let again = pool.take(16_000).expect("within the limit");
        assert_eq!(again.as_ptr(), place);
        assert_eq!(again[0], 0xa5);
        assert_eq!(pool.bytes_idle(), 0);
    }

    #[test]
    fn idle_memory_is_bounded() {
        let pool = pool(1 << 20, 4096);
        let both = (pool.take(4096), pool.take(4096));
        assert!(both.0.is_some() && both.1.is_some());
        drop(both);
        assert_eq!((pool.bytes_out(), pool.bytes_idle()), (0, 4096));
    }

    #[test]
    fn too_long_for_a_class_is_refused() {
        let pool = pool(usize::MAX, 0);
        assert!(pool.take(CLASS_MAX + 1).is_none());
        assert_eq!(pool.bytes_out(), 0);
    }

    #[test]
    fn a_shared_buffer_is_unique_again_at_the_last_reference() {
        let pool = pool(1 << 20, 1 << 20);
        let mut buffer = pool.take(8).expect("within the limit");
        buffer.copy_from_slice(b"contents");
        let first = buffer.share();
        let second = first.clone();
        let first = first.try_unique().expect_err("a second reference exists");
        drop(second);
        let buffer = first.try_unique().expect("the last reference");
        assert_eq!(&buffer[..], b"contents");
    }

    #[test]
    fn buffers_may_come_back_from_other_threads() {
        let pool = pool(64 * 4096, 8 * 4096);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..1000usize {
                        let held: Vec<_> = (0..8)
                            .filter_map(|n| pool.take((round * 7 + n) % 8192))
                            .collect();
                        assert!(pool.bytes_out() <= 64 * 4096);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(pool.bytes_out(), 0);
        assert!(pool.bytes_idle() <= 8 * 4096);
    }
}

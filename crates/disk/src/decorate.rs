//! What decorators have in common.

/// The methods of [`crate::Disk`] that a decorator leaves to its `inner` disk: all but `execute`.
macro_rules! as_inner {
    () => {
        fn geometry(&self) -> $crate::request::Geometry {
            self.inner.geometry()
        }

        fn features(&self) -> $crate::request::Features {
            self.inner.features()
        }

        fn cache_mode(&self) -> $crate::request::CacheMode {
            self.inner.cache_mode()
        }

        fn notes(&self) -> Vec<String> {
            self.inner.notes()
        }

        fn broken(&self) -> Option<$crate::request::DiskError> {
            self.inner.broken()
        }

        fn file(&self) -> Option<$crate::FileId> {
            self.inner.file()
        }

        fn sync_ahead(
            &self,
            mode: $crate::request::CacheMode,
        ) -> Result<(), $crate::error::DeviceError> {
            self.inner.sync_ahead(mode)
        }

        fn set_cache_mode(
            &self,
            mode: $crate::request::CacheMode,
            wanted: &$crate::Wanted,
        ) -> Result<(), $crate::error::DeviceError> {
            self.inner.set_cache_mode(mode, wanted)
        }

        fn grow(
            &self,
            bytes: Option<u64>,
        ) -> Result<$crate::request::Geometry, $crate::error::DeviceError> {
            self.inner.grow(bytes)
        }

        fn flush_blocking(&self) -> Result<(), $crate::error::DeviceError> {
            self.inner.flush_blocking()
        }
    };
}
pub(crate) use as_inner;

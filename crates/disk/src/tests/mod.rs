//! Tests over real files and devices.
//!
//! Some need root (mounts, loop devices). Without it they fail and say so, unless
//! `SANCTUM_TEST_WITHOUT_ROOT=1` is set: a skip is always somebody's decision, never an accident.

#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes and counts of tests are small"
)]

mod block;
mod claim;
mod concurrency;
mod create;
mod image;
mod iso;
mod model;
mod space;

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::backing::Provisioning;
use crate::create::create_image;
use crate::file::FileDisk;
use crate::image::{Spec, open as open_image};
use crate::request::CacheMode;

pub(crate) const MODES: [CacheMode; 3] = [
    CacheMode::None,
    CacheMode::WriteThrough,
    CacheMode::WriteBack,
];

/// Whether what needs root can be tested.
pub(crate) fn root(what: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let allowed = std::env::var_os("SANCTUM_TEST_WITHOUT_ROOT").is_some();
    assert!(
        allowed,
        "{what} needs root; set SANCTUM_TEST_WITHOUT_ROOT=1 to leave it out"
    );
    eprintln!("SKIPPED: {what} needs root");
    false
}

/// Runs a program that must succeed; gives what it prints.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A mounted file system of its own, gone with the value.
pub(crate) struct Mounted {
    directory: TempDir,
    loop_device: Option<Loop>,
}

impl Mounted {
    pub(crate) fn tmpfs(bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let path = directory.path().to_str().unwrap();
        tool("mount", &["-t", "tmpfs", "-o", &size, "sanctum-test", path]);
        Self {
            directory,
            loop_device: None,
        }
    }

    /// ext4 over a loop device with sectors of a size.
    pub(crate) fn ext4(bytes: u64, sector: u32) -> Self {
        let device = Loop::over_new_file(bytes, sector);
        let node = device.node().to_str().unwrap().to_owned();
        tool("mkfs.ext4", &["-q", "-b", "4096", "-m", "0", &node]);
        let directory = tempfile::tempdir().unwrap();
        tool(
            "mount",
            &["-t", "ext4", &node, directory.path().to_str().unwrap()],
        );
        Self {
            directory,
            loop_device: Some(device),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        tool(
            "umount",
            &["--lazy", self.directory.path().to_str().unwrap()],
        );
        drop(self.loop_device.take());
    }
}

/// A loop device, detached with the value.
pub(crate) struct Loop {
    node: PathBuf,
    /// Where its file lies, if it is the loop's own.
    _directory: Option<TempDir>,
}

impl Loop {
    pub(crate) fn over(file: &Path, sector: u32) -> Self {
        let sector = sector.to_string();
        let arguments = [
            "--find",
            "--show",
            "--sector-size",
            &sector,
            file.to_str().unwrap(),
        ];
        Self {
            node: tool("losetup", &arguments).into(),
            _directory: None,
        }
    }

    pub(crate) fn over_new_file(bytes: u64, sector: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("loop.img");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        let mut device = Self::over(&file, sector);
        device._directory = Some(directory);
        device
    }

    pub(crate) fn node(&self) -> &Path {
        &self.node
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        tool("losetup", &["--detach", self.node.to_str().unwrap()]);
    }
}

/// How to open the image under test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) provisioning: Provisioning,
    pub(crate) block_size: u32,
    pub(crate) size: u64,
    pub(crate) alignment: Option<u32>,
}

impl Shape {
    pub(crate) const fn thin(size: u64) -> Self {
        Self {
            provisioning: Provisioning::Thin,
            block_size: 512,
            size,
            alignment: None,
        }
    }

    pub(crate) const fn preallocated(size: u64) -> Self {
        Self {
            provisioning: Provisioning::Preallocated,
            ..Self::thin(size)
        }
    }

    pub(crate) fn create(self, path: &Path) {
        create_image(path, self.size, self.provisioning, &mut |_, _| true).unwrap();
    }

    pub(crate) fn open(self, path: &Path, mode: CacheMode) -> FileDisk {
        self.try_open(path, mode).unwrap()
    }

    pub(crate) fn try_open(
        self,
        path: &Path,
        mode: CacheMode,
    ) -> Result<FileDisk, crate::DeviceError> {
        open_image(&Spec {
            path,
            size: self.size,
            provisioning: self.provisioning,
            block_size: self.block_size,
            read_only: false,
            mode,
            direct_alignment: self.alignment,
        })
    }
}

/// Bytes of disk space a file takes.
pub(crate) fn space_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}

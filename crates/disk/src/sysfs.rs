//! What the kernel tells about a block device under /sys/dev/block.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use crate::limits::SYSFS_BYTES_MAX;

/// The entry of a block device: the whole disk's, with the partition's beside it.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    /// Directory of the whole disk.
    disk: PathBuf,
    /// Partition number, where the device is one.
    partition: Option<String>,
}

impl Queue {
    /// The entry of a device number, where there is one (file systems over several devices, and
    /// containers without /sys, have none).
    pub(crate) fn under(device: u64) -> Option<Self> {
        Self::at(Path::new("/sys/dev/block"), device)
    }

    fn at(root: &Path, device: u64) -> Option<Self> {
        let link = root.join(format!("{}:{}", major(device), minor(device)));
        let entry = std::fs::canonicalize(link).ok()?;
        match text(&entry.join("partition")) {
            None => Some(Self {
                disk: entry,
                partition: None,
            }),
            Some(number) => Some(Self {
                disk: entry.parent()?.to_path_buf(),
                partition: Some(number),
            }),
        }
    }

    /// Text of an attribute of the whole disk, trimmed; `None` when absent or empty.
    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        text(&self.disk.join(name))
    }

    pub(crate) fn partition(&self) -> Option<&str> {
        self.partition.as_deref()
    }

    fn number(&self, name: &str) -> u64 {
        self.attribute(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    pub(crate) fn rotational(&self) -> bool {
        self.number("queue/rotational") == 1
    }

    /// Whether the drive keeps acknowledged writes in memory; yes when it does not say.
    pub(crate) fn write_back(&self) -> bool {
        self.attribute("queue/write_cache")
            .is_none_or(|text| text != "write through")
    }

    /// Unit in bytes in which the drive gives space back while promising zeros; `None`: it cannot.
    pub(crate) fn unmap_granularity(&self) -> Option<u32> {
        let able = self.number("queue/discard_max_bytes") > 0
            && self.number("queue/write_zeroes_max_bytes") > 0;
        let granularity = u32::try_from(self.number("queue/discard_granularity")).ok()?;
        (able && granularity > 0).then_some(granularity)
    }
}

fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(SYSFS_BYTES_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    let text = String::from_utf8_lossy(&bytes)
        .trim_matches(['\0', ' ', '\n', '\t'])
        .to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_told_from_disks() {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("devices/sdx");
        std::fs::create_dir_all(disk.join("sdx3")).unwrap();
        std::fs::create_dir_all(disk.join("queue")).unwrap();
        std::fs::write(disk.join("sdx3/partition"), "3\n").unwrap();
        std::fs::write(disk.join("wwid"), "naa.5000 \n").unwrap();
        std::fs::write(disk.join("queue/write_cache"), "write through\n").unwrap();
        for (name, value) in [
            ("discard_max_bytes", "4096"),
            ("write_zeroes_max_bytes", "4096"),
            ("discard_granularity", "512"),
            ("rotational", "1"),
        ] {
            std::fs::write(disk.join("queue").join(name), value).unwrap();
        }
        std::os::unix::fs::symlink(&disk, root.path().join("8:0")).unwrap();
        std::os::unix::fs::symlink(disk.join("sdx3"), root.path().join("8:3")).unwrap();
        let number = |minor| rustix::fs::makedev(8, minor);
        let whole = Queue::at(root.path(), number(0)).unwrap();
        assert_eq!(whole.partition(), None);
        assert_eq!(whole.unmap_granularity(), Some(512));
        let part = Queue::at(root.path(), number(3)).unwrap();
        assert_eq!(part.partition(), Some("3"));
        assert_eq!(part.attribute("wwid").as_deref(), Some("naa.5000"));
        assert!(!part.write_back() && part.rotational());
        assert!(Queue::at(root.path(), number(9)).is_none());
    }
}

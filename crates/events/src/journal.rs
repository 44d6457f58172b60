//! The two files that keep events over a restart.
//!
//! One event as JSON a line. A line that cannot be read (cut by a kill or a full disk, damaged) is
//! skipped and counted, never a reason not to start.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::event::Event;
use crate::limits;

const CURRENT: &str = "events.jsonl";
const OLDER: &str = "events.1.jsonl";

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is not there and cannot be made.
    #[error("cannot make the directory {} for events; check that its parent exists and is writable", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of events is there and cannot be read, so numbers could not go on from it.
    #[error("cannot read the events in {}; make it readable for the service, or move it away", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread that writes them cannot be had.
    #[error("cannot start the thread that writes events")]
    Writer(#[source] io::Error),
}

/// Where lines go. Real: [`Files`]; tests bring one that fails.
pub(crate) trait Medium: fmt::Debug + Send {
    /// Appends whole lines, each with its line feed; after a failure none of them counts as
    /// written.
    fn append(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Makes what was appended stable.
    fn sync(&mut self) -> io::Result<()>;
}

/// `events.jsonl` and `events.1.jsonl`.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    rotate_bytes: u64,
    /// Opened at the first append, so that a full disk is no reason not to start.
    file: Option<Appending>,
}

#[derive(Debug)]
struct Appending {
    file: File,
    len: u64,
    /// The file does not end in a line feed; the next append begins with one.
    torn: bool,
}

/// What the files held.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Events with growing numbers, oldest first, at most [`limits::MEMORY_EVENTS`].
    pub(crate) events: Vec<Event>,
    /// Lines that could not be read.
    pub(crate) skipped: u64,
}

impl Files {
    /// Opens the directory, made with mode 0700 unless it is there, and reads what it holds.
    pub(crate) fn open(
        directory: &Path,
        rotate_bytes: u64,
        capacity: usize,
    ) -> Result<(Self, Restored), OpenError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(|source| OpenError::Directory {
            path: directory.to_owned(),
            source,
        })?;
        let mut reading = Reading::new(capacity);
        for name in [OLDER, CURRENT] {
            let path = directory.join(name);
            match File::open(&path).and_then(|file| reading.file(file)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(OpenError::Read { path, source }),
            }
        }
        let files = Self {
            directory: directory.to_owned(),
            rotate_bytes: rotate_bytes.clamp(limits::LINE_BYTES as u64, limits::ROTATE_BYTES),
            file: None,
        };
        Ok((files, reading.finish()))
    }

    fn appending(&mut self) -> io::Result<&mut Appending> {
        let appending = match self.file.take() {
            Some(appending) => appending,
            None => Appending::open(&self.directory.join(CURRENT))?,
        };
        Ok(self.file.insert(appending))
    }
}

impl Medium for Files {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let rotate_bytes = self.rotate_bytes;
        let more = lines.len() as u64;
        let len = self.appending()?.len;
        if len > 0 && len + more > rotate_bytes {
            fs::rename(self.directory.join(CURRENT), self.directory.join(OLDER))?;
            self.file = None;
        }
        self.appending()?.append(lines)
    }

    fn sync(&mut self) -> io::Result<()> {
        match &self.file {
            Some(appending) => appending.file.sync_data(),
            None => Ok(()),
        }
    }
}

impl Appending {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let len = file.metadata()?.len();
        let torn = len > 0 && !ends_in_line_feed(&file, len)?;
        Ok(Self { file, len, torn })
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let begun = if self.torn {
            self.file.write_all(b"\n")
        } else {
            Ok(())
        };
        match begun.and_then(|()| self.file.write_all(lines)) {
            Ok(()) => {
                self.len += lines.len() as u64 + u64::from(self.torn);
                self.torn = false;
                Ok(())
            }
            Err(error) => {
                // Half a line may be there. Where it cannot be cut off, it becomes a line of its
                // own that the next start skips.
                if self.file.set_len(self.len).is_err() {
                    self.torn = true;
                    self.len = self.file.metadata().map_or(self.len, |data| data.len());
                }
                Err(error)
            }
        }
    }
}

fn ends_in_line_feed(file: &File, len: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut last = [0];
    file.read_exact_at(&mut last, len - 1)?;
    Ok(last == *b"\n")
}

/// Collects the newest events of a sequence of files.
struct Reading {
    events: std::collections::VecDeque<Event>,
    capacity: usize,
    last_id: u64,
    skipped: u64,
}

impl Reading {
    fn new(capacity: usize) -> Self {
        Self {
            events: std::collections::VecDeque::new(),
            capacity: capacity.clamp(1, limits::MEMORY_EVENTS),
            last_id: 0,
            skipped: 0,
        }
    }

    fn file(&mut self, file: File) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let most = limits::LINE_BYTES as u64;
            let read = reader.by_ref().take(most).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            if line.last() != Some(&b'\n') && read == limits::LINE_BYTES {
                // Longer than any line of ours: damage. Leave the rest of it out, too.
                self.skipped += 1;
                reader.skip_until(b'\n')?;
                continue;
            }
            self.line(&line);
        }
    }

    fn line(&mut self, line: &[u8]) {
        match serde_json::from_slice::<Event>(line) {
            Ok(event) if event.id > self.last_id && event.id < u64::MAX / 2 => {
                self.last_id = event.id;
                if self.events.len() == self.capacity {
                    self.events.pop_front();
                }
                self.events.push_back(event);
            }
            Ok(_) | Err(_) => self.skipped += u64::from(!line.trim_ascii().is_empty()),
        }
    }

    fn finish(self) -> Restored {
        Restored {
            events: self.events.into(),
            skipped: self.skipped,
        }
    }
}

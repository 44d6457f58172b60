//! The resident memory of a process, sampled while a load runs.

use serde::Serialize;

/// Samples of a process's resident set.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    samples: Vec<u64>,
}

/// Medians of the first and last quarter of the samples, in KiB.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// First quarter.
    pub first_kib: u64,
    /// Last quarter.
    pub last_kib: u64,
}

/// Samples kept; with one a second an hour and a half. Later ones take every other's place.
const SAMPLES_MAX: usize = 5400;

impl Watch {
    /// Of a process.
    pub const fn new(pid: u32) -> Self {
        Self {
            pid,
            samples: Vec::new(),
        }
    }

    /// Takes a sample; a process that is gone gives none.
    pub fn sample(&mut self) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let resident = status.ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        if self.samples.len() >= SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.samples.extend(resident);
    }

    /// What it came to.
    pub fn memory(&self) -> Option<Memory> {
        let quarter = (self.samples.len() / 4).max(1);
        let first = self.samples.get(..quarter)?;
        let last = self.samples.get(self.samples.len() - quarter..)?;
        Some(Memory {
            first_kib: median(first),
            last_kib: median(last),
        })
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

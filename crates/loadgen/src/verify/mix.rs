//! How often each kind of command is chosen.

use std::str::FromStr;

/// Weights; a kind with 0 is never chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mix {
    /// READ.
    pub read: u32,
    /// WRITE.
    pub write: u32,
    /// UNMAP.
    pub unmap: u32,
    /// SYNCHRONIZE CACHE.
    pub flush: u32,
    /// A counter is read, then stepped by COMPARE AND WRITE.
    pub swap: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            read: 43,
            write: 42,
            unmap: 3,
            flush: 2,
            swap: 10,
        }
    }
}

/// A kind of command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Choice {
    Read,
    Write,
    Unmap,
    Flush,
    Swap,
}

impl Mix {
    const fn weights(self) -> [(Choice, u32); 5] {
        [
            (Choice::Read, self.read),
            (Choice::Write, self.write),
            (Choice::Unmap, self.unmap),
            (Choice::Flush, self.flush),
            (Choice::Swap, self.swap),
        ]
    }

    /// Sum of the weights.
    fn total(self) -> u64 {
        let weights = self.weights();
        weights.iter().map(|(_, weight)| u64::from(*weight)).sum()
    }

    pub(super) fn choose(self, rng: &mut fastrand::Rng) -> Choice {
        let mut left = rng.u64(..self.total().max(1));
        for (choice, weight) in self.weights() {
            match left.checked_sub(u64::from(weight)) {
                None => return choice,
                Some(rest) => left = rest,
            }
        }
        Choice::Read
    }
}

impl FromStr for Mix {
    type Err = String;

    /// Reads `read=50,write=40,unmap=2,flush=4,caw=4`; what is not named has weight 0.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Self {
            read: 0,
            write: 0,
            unmap: 0,
            flush: 0,
            swap: 0,
        };
        for part in text.split(',') {
            let (name, weight) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not KIND=WEIGHT"))?;
            let weight = weight
                .parse()
                .map_err(|_| format!("`{weight}` is not a weight"))?;
            match name.trim() {
                "read" => mix.read = weight,
                "write" => mix.write = weight,
                "unmap" => mix.unmap = weight,
                "flush" => mix.flush = weight,
                "caw" => mix.swap = weight,
                other => {
                    return Err(format!(
                        "no kind `{other}`; there are read, write, unmap, flush, caw"
                    ));
                }
            }
        }
        if mix.total() == 0 {
            return Err("all weights are 0".to_owned());
        }
        Ok(mix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_as_often_as_they_weigh() {
        let mix: Mix = "read=3,write=1,caw=0".parse().unwrap();
        let mut rng = fastrand::Rng::with_seed(5);
        let mut reads = 0;
        for _ in 0..4000 {
            match mix.choose(&mut rng) {
                Choice::Read => reads += 1,
                Choice::Write => {}
                other => panic!("{other:?} has no weight"),
            }
        }
        assert!((2800..3200).contains(&reads), "{reads}");
    }

    #[test]
    fn mistakes_are_told() {
        for (text, word) in [
            ("read", "KIND"),
            ("read=x", "weight"),
            ("trim=1", "trim"),
            ("read=0", "all"),
        ] {
            let error = text.parse::<Mix>().unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}

//! Blocks that all initiators increment by COMPARE AND WRITE.
//!
//! Each step from one value to the next may succeed for one initiator only: two successes from the
//! same value are a lost increment, seen at once. In the end every value below the last was reached
//! by somebody's success, or by a command whose end is unknown.

use std::collections::HashSet;

use super::VerifyError;
use crate::block::{self, BYTES};
use crate::limits::COUNTERS;
use crate::model::End;

/// Counters belong to nobody.
const OWNER: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Counter {
    /// Acknowledged value: it can only be this or more.
    floor: u64,
    /// Steps somebody was told to have made.
    made: HashSet<u64>,
    /// Steps that may have been made.
    unknown: HashSet<u64>,
    /// Value found at the start, once known.
    first: Option<u64>,
    last: u64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Counters(Vec<Counter>);

impl Counters {
    /// Fresh ones begin at zero; adopted ones at what is found first.
    pub(super) fn new(adopt: bool) -> Self {
        let first = (!adopt).then_some(0);
        Self(
            (0..COUNTERS)
                .map(|_| Counter {
                    first,
                    ..Counter::default()
                })
                .collect(),
        )
    }

    fn of(&mut self, counter: u64) -> &mut Counter {
        let place = usize::try_from(counter).unwrap_or(0) % self.0.len();
        &mut self.0[place]
    }

    /// What a look that starts now may find at least.
    pub(super) fn floor(&mut self, counter: u64) -> u64 {
        self.of(counter).floor
    }

    /// A look has ended; the value found.
    pub(super) fn looked(
        &mut self,
        counter: u64,
        floor: u64,
        data: &[u8],
    ) -> Result<u64, VerifyError> {
        let wrong = |what: String| VerifyError::Counter { counter, what };
        let found = block::sequence_of(data.get(..BYTES).unwrap_or(&[0; BYTES]), OWNER, counter)
            .map_err(|error| wrong(error.to_string()))?;
        if found < floor {
            return Err(wrong(format!(
                "{found} was read after {floor} was acknowledged"
            )));
        }
        let state = self.of(counter);
        state.first.get_or_insert(found);
        state.last = state.last.max(found);
        Ok(found)
    }

    /// Data-out of a step from `from` to the next value: what is compared, then what is written.
    pub(super) fn data(counter: u64, from: u64) -> Vec<u8> {
        let mut data = vec![0; 2 * BYTES];
        let (old, new) = data.split_at_mut(BYTES);
        block::fill(old, OWNER, counter, from);
        block::fill(new, OWNER, counter, from + 1);
        data
    }

    /// A step has ended.
    pub(super) fn swapped(&mut self, counter: u64, from: u64, end: End) -> Result<(), VerifyError> {
        let state = self.of(counter);
        match end {
            End::Refused => {}
            End::Unknown => {
                state.unknown.insert(from);
            }
            End::Good => {
                if !state.made.insert(from) {
                    let what = format!("two increments of {from} succeeded: one is lost");
                    return Err(VerifyError::Counter { counter, what });
                }
                state.floor = state.floor.max(from + 1);
            }
        }
        Ok(())
    }

    /// Everything has been looked at for the last time.
    pub(super) fn settle(&self) -> Result<(), VerifyError> {
        for (counter, state) in (0..).zip(&self.0) {
            let wrong = |what: String| Err(VerifyError::Counter { counter, what });
            if state.last < state.floor {
                return wrong(format!(
                    "{} is there, {} was acknowledged",
                    state.last, state.floor
                ));
            }
            for step in state.first.unwrap_or(0)..state.last {
                if !state.made.contains(&step) && !state.unknown.contains(&step) {
                    return wrong(format!("nobody made the step from {step}"));
                }
            }
        }
        Ok(())
    }
}

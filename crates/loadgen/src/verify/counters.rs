//! Blocks that all initiators increment by COMPARE AND WRITE.
//!
//! Each step from one value to the next may succeed for one initiator only: two successes from the
//! same value are a lost increment, seen at once. In the end every value below the last was reached
//! by somebody's success, or by a command whose end is unknown. So the sum of what succeeded is
//! what the counters show, but for steps of unknown end.

use std::collections::BTreeSet;

use super::VerifyError;
use crate::block::{self, BYTES};
use crate::limits::{COUNTERS, STEPS_MAX};
use crate::model::End;

/// Counters belong to nobody.
const OWNER: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Counter {
    /// Acknowledged value: it can only be this or more.
    floor: u64,
    /// Every step below is accounted for; unknown until a counter that is adopted was read.
    base: Option<u64>,
    /// Steps somebody was told to have made.
    made: BTreeSet<u64>,
    /// Steps that may have been made.
    unknown: BTreeSet<u64>,
    /// Highest value seen.
    last: u64,
}

impl Counter {
    /// Sums up the steps below `to`, so that memory is bounded. They are so far behind that nothing
    /// of them can be in flight any more.
    fn fold(&mut self, to: u64) -> Result<(), u64> {
        let base = self.base.unwrap_or(to).min(to);
        for step in base..to {
            if !self.made.contains(&step) && !self.unknown.contains(&step) {
                return Err(step);
            }
        }
        self.base = self.base.map(|base| base.max(to));
        self.made = self.made.split_off(&to);
        self.unknown = self.unknown.split_off(&to);
        Ok(())
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Counters(Vec<Counter>);

impl Counters {
    /// Fresh ones begin at zero; adopted ones at what is found first.
    pub(super) fn new(adopt: bool) -> Self {
        let base = (!adopt).then_some(0);
        let fresh = || Counter {
            base,
            ..Counter::default()
        };
        Self((0..COUNTERS).map(|_| fresh()).collect())
    }

    fn of(&mut self, counter: u64) -> &mut Counter {
        let place = usize::try_from(counter).unwrap_or(0) % self.0.len();
        &mut self.0[place]
    }

    /// What a look that starts now may find at least.
    pub(super) fn floor(&mut self, counter: u64) -> u64 {
        self.of(counter).floor
    }

    /// A look that started at this floor has ended; the value found.
    pub(super) fn looked(
        &mut self,
        counter: u64,
        floor: u64,
        data: &[u8],
    ) -> Result<u64, VerifyError> {
        let wrong = |what: String| VerifyError::Counter { counter, what };
        let block = data
            .get(..BYTES)
            .ok_or_else(|| wrong(format!("{} bytes came", data.len())))?;
        let found =
            block::sequence_of(block, OWNER, counter).map_err(|error| wrong(error.to_string()))?;
        if found < floor {
            return Err(wrong(format!(
                "{found} was read after {floor} was acknowledged"
            )));
        }
        let state = self.of(counter);
        state.base.get_or_insert(found);
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
        let wrong = |what: String| Err(VerifyError::Counter { counter, what });
        match end {
            End::Refused => {}
            End::Unknown => {
                state.unknown.insert(from);
            }
            End::Good => {
                if state.base.is_some_and(|base| from < base) || !state.made.insert(from) {
                    return wrong(format!("two increments of {from} succeeded: one is lost"));
                }
                state.floor = state.floor.max(from + 1);
            }
        }
        if state.made.len() + state.unknown.len() > 2 * STEPS_MAX {
            let keep = u64::try_from(STEPS_MAX).unwrap_or(u64::MAX);
            let to = state.floor.saturating_sub(keep);
            if let Err(step) = state.fold(to) {
                return wrong(format!("nobody made the step from {step}"));
            }
        }
        Ok(())
    }

    /// Everything has been looked at for the last time.
    pub(super) fn settle(&mut self) -> Result<(), VerifyError> {
        for (counter, state) in (0..).zip(&mut self.0) {
            let wrong = |what: String| Err(VerifyError::Counter { counter, what });
            if state.last < state.floor {
                let (last, floor) = (state.last, state.floor);
                return wrong(format!("{last} is there, {floor} was acknowledged"));
            }
            if let Err(step) = state.fold(state.last) {
                return wrong(format!("nobody made the step from {step}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(counter: u64, value: u64) -> Vec<u8> {
        Counters::data(counter, value)[..BYTES].to_vec()
    }

    fn step(counters: &mut Counters, from: u64) {
        let floor = counters.floor(0);
        counters.looked(0, floor, &value(0, from)).unwrap();
        counters.swapped(0, from, End::Good).unwrap();
    }

    fn said(error: &VerifyError) -> String {
        error.to_string()
    }

    #[test]
    fn steps_that_add_up_are_fine_and_memory_is_bounded() {
        let mut counters = Counters::new(false);
        let last = 5 * STEPS_MAX as u64;
        for from in 0..last {
            if from % 7 == 3 {
                counters.swapped(0, from, End::Unknown).unwrap();
            } else {
                step(&mut counters, from);
            }
            let state = counters.of(0);
            assert!(state.made.len() + state.unknown.len() <= 2 * STEPS_MAX);
        }
        counters.looked(0, last, &value(0, last)).unwrap();
        counters.settle().unwrap();
    }

    #[test]
    fn two_successes_from_one_value_are_a_lost_increment() {
        let mut counters = Counters::new(false);
        step(&mut counters, 0);
        step(&mut counters, 1);
        let error = counters.swapped(0, 1, End::Good).unwrap_err();
        assert!(said(&error).contains("one is lost"));
    }

    #[test]
    fn a_value_that_goes_back_is_noticed() {
        let mut counters = Counters::new(false);
        step(&mut counters, 0);
        step(&mut counters, 1);
        let floor = counters.floor(0);
        let error = counters.looked(0, floor, &value(0, 1)).unwrap_err();
        assert!(said(&error).contains("1 was read after 2"));
        // A look that began before the second step was acknowledged may see either.
        counters.looked(0, 1, &value(0, 1)).unwrap();
        let error = counters.settle().unwrap_err();
        assert!(said(&error).contains("2 was acknowledged"));
    }

    #[test]
    fn a_step_that_nobody_made_is_noticed() {
        let mut counters = Counters::new(false);
        step(&mut counters, 0);
        counters.looked(0, 1, &value(0, 2)).unwrap();
        assert!(said(&counters.settle().unwrap_err()).contains("step from 1"));
        counters.swapped(0, 1, End::Unknown).unwrap();
        counters.settle().unwrap();
    }

    #[test]
    fn an_adopted_counter_goes_on_from_what_is_found() {
        let mut counters = Counters::new(true);
        step(&mut counters, 70);
        counters.looked(0, 71, &value(0, 71)).unwrap();
        counters.settle().unwrap();
    }
}

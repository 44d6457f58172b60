//! The newest events in memory, and questions to them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Severity};
use crate::limits;

/// Which events a query wants. Everything unset: the newest [`limits::QUERY_DEFAULT`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only events with a greater number.
    pub since_id: Option<u64>,
    /// Only events of this severity and above.
    pub severity_min: Option<Severity>,
    /// Only events of this code.
    pub code: Option<String>,
    /// Only events about this subject, whole and exact.
    pub subject: Option<String>,
    /// At most this many; [`limits::QUERY_DEFAULT`] unless given, never more than
    /// [`limits::MEMORY_EVENTS`].
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether an event passes, the limit aside.
    pub fn matches(&self, event: &Event) -> bool {
        self.since_id.is_none_or(|id| event.id > id)
            && self
                .severity_min
                .is_none_or(|least| event.severity >= least)
            && self.code.as_ref().is_none_or(|code| *code == event.code)
            && self
                .subject
                .as_ref()
                .is_none_or(|subject| *subject == event.subject)
    }

    fn most(&self) -> usize {
        self.limit
            .unwrap_or(limits::QUERY_DEFAULT)
            .min(limits::MEMORY_EVENTS)
    }
}

/// The newest events, oldest first; numbers grow but may have gaps after damage on disk.
#[derive(Debug)]
pub(crate) struct Ring {
    events: VecDeque<Event>,
    capacity: usize,
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, limits::MEMORY_EVENTS);
        Self {
            events: VecDeque::new(),
            capacity,
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        debug_assert!(self.events.back().is_none_or(|last| last.id < event.id));
        if self.events.len() == self.capacity {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.events.back().map_or(0, |event| event.id)
    }

    pub(crate) fn oldest_id(&self) -> Option<u64> {
        self.events.front().map(|event| event.id)
    }

    /// Events with a number above `id`, oldest first.
    pub(crate) fn after(&self, id: u64) -> impl Iterator<Item = &Event> {
        let start = self.events.partition_point(|event| event.id <= id);
        self.events.range(start..)
    }

    /// With `since_id`, the first ones after it, so that a reader can page on; without, the newest.
    /// Always oldest first.
    pub(crate) fn query(&self, filter: &Filter) -> Vec<Event> {
        if let Some(id) = filter.since_id {
            return self
                .after(id)
                .filter(|event| filter.matches(event))
                .take(filter.most())
                .cloned()
                .collect();
        }
        let mut found: Vec<Event> = self
            .events
            .iter()
            .rev()
            .filter(|event| filter.matches(event))
            .take(filter.most())
            .cloned()
            .collect();
        found.reverse();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Draft;
    use jiff::Timestamp;

    fn ring(capacity: usize, events: u64) -> Ring {
        let mut ring = Ring::new(capacity);
        for id in 1..=events {
            let severity = if id % 2 == 0 {
                Severity::Error
            } else {
                Severity::Info
            };
            let draft = Draft::new(severity, "code", &format!("s{}", id % 3), "m");
            ring.push(draft.into_event(id, Timestamp::UNIX_EPOCH));
        }
        ring
    }

    fn ids(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.id).collect()
    }

    #[test]
    fn the_oldest_go_first() {
        let ring = ring(4, 10);
        assert_eq!(ids(&ring.query(&Filter::default())), [7, 8, 9, 10]);
        assert_eq!(ring.oldest_id(), Some(7));
        assert_eq!(ring.last_id(), 10);
    }

    #[test]
    fn a_limit_takes_the_newest_or_the_next() {
        let ring = ring(100, 10);
        let newest = Filter {
            limit: Some(3),
            ..Filter::default()
        };
        assert_eq!(ids(&ring.query(&newest)), [8, 9, 10]);
        let next = Filter {
            since_id: Some(4),
            limit: Some(3),
            ..Filter::default()
        };
        assert_eq!(ids(&ring.query(&next)), [5, 6, 7]);
    }

    #[test]
    fn conditions_hold_together() {
        let ring = ring(100, 12);
        let filter = Filter {
            severity_min: Some(Severity::Warning),
            subject: Some("s0".to_owned()),
            code: Some("code".to_owned()),
            ..Filter::default()
        };
        assert_eq!(ids(&ring.query(&filter)), [6, 12]);
        let other = Filter {
            code: Some("other".to_owned()),
            ..Filter::default()
        };
        assert!(ring.query(&other).is_empty());
    }
}

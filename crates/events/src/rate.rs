//! Token buckets for events that an outsider can provoke.
//!
//! Two buckets stand before such an event: one of its code and subject, one of its code alone
//! (subjects can be made up: an initiator chooses its name). What does not pass is counted, and the
//! count becomes an event of its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::event::{Draft, Severity};
use crate::limits;

/// Code of the event that sums up suppressed ones.
pub(crate) const SUMMARY_CODE: &str = "events-suppressed";

/// Stands for the subjects that are counted together.
const OTHERS: &str = "(several)";

/// Tokens, each worth one event; `level` is in units of time, so that no rounding loses any.
#[derive(Debug)]
struct Bucket {
    level: Duration,
    refilled: Duration,
    suppressed: u64,
    first_suppressed: Duration,
    severity: Severity,
}

impl Bucket {
    fn full(burst: u32, refill: Duration, now: Duration) -> Self {
        Self {
            level: refill * burst,
            refilled: now,
            suppressed: 0,
            first_suppressed: now,
            severity: Severity::Info,
        }
    }

    fn fill(&mut self, burst: u32, refill: Duration, now: Duration) {
        let gained = now.saturating_sub(self.refilled);
        self.level = (self.level + gained).min(refill * burst);
        self.refilled = now;
    }

    fn count(&mut self, severity: Severity, now: Duration) {
        if self.suppressed == 0 {
            self.first_suppressed = now;
            self.severity = severity;
        }
        self.suppressed += 1;
        self.severity = self.severity.max(severity);
    }
}

/// Answer to whether an event may be recorded.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Record it; what was suppressed before it (at most two summaries) comes first.
    Pass(Vec<Draft>),
    /// Counted instead.
    Suppressed,
}

/// All buckets. At most [`limits::BUCKETS`] of a subject and as many of a code.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    subjects: HashMap<(String, String), Bucket>,
    codes: HashMap<String, Bucket>,
}

impl RateLimit {
    /// Asks for one event at `now`.
    ///
    /// The code's bucket is asked first, so that made-up subjects make no buckets once it is empty;
    /// an event that its own subject's bucket holds back takes nothing from the code's.
    pub(crate) fn ask(&mut self, draft: &Draft, now: Duration) -> Verdict {
        let key = own_or_shared(&self.codes, draft.code.clone(), || OTHERS.to_owned());
        let code = self
            .codes
            .entry(key)
            .or_insert_with(|| Bucket::full(limits::CODE_BURST, limits::CODE_REFILL, now));
        code.fill(limits::CODE_BURST, limits::CODE_REFILL, now);
        if code.level < limits::CODE_REFILL {
            code.count(draft.severity, now);
            return Verdict::Suppressed;
        }

        let key = (draft.code.clone(), draft.subject.clone());
        let key = own_or_shared(&self.subjects, key, || {
            (draft.code.clone(), OTHERS.to_owned())
        });
        let subject = self
            .subjects
            .entry(key)
            .or_insert_with(|| Bucket::full(limits::SUBJECT_BURST, limits::SUBJECT_REFILL, now));
        subject.fill(limits::SUBJECT_BURST, limits::SUBJECT_REFILL, now);
        if subject.level < limits::SUBJECT_REFILL {
            subject.count(draft.severity, now);
            return Verdict::Suppressed;
        }

        code.level -= limits::CODE_REFILL;
        subject.level -= limits::SUBJECT_REFILL;
        let summaries = [
            summarize(code, &draft.code, OTHERS, now),
            summarize(subject, &draft.code, &draft.subject, now),
        ];
        Verdict::Pass(summaries.into_iter().flatten().collect())
    }

    /// Summaries that are due at `now`; forgets buckets that have nothing to say any more.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Draft> {
        let mut due = Vec::new();
        let waited = |bucket: &Bucket| {
            bucket.suppressed > 0
                && now.saturating_sub(bucket.first_suppressed) >= limits::SUMMARY_AFTER
        };
        for ((code, subject), bucket) in &mut self.subjects {
            if waited(bucket) {
                due.extend(summarize(bucket, code, subject, now));
            }
        }
        for (code, bucket) in &mut self.codes {
            if waited(bucket) {
                due.extend(summarize(bucket, code, OTHERS, now));
            }
        }
        self.subjects.retain(|_, bucket| {
            bucket.fill(limits::SUBJECT_BURST, limits::SUBJECT_REFILL, now);
            bucket.suppressed > 0 || bucket.level < limits::SUBJECT_REFILL * limits::SUBJECT_BURST
        });
        self.codes.retain(|_, bucket| {
            bucket.fill(limits::CODE_BURST, limits::CODE_REFILL, now);
            bucket.suppressed > 0 || bucket.level < limits::CODE_REFILL * limits::CODE_BURST
        });
        due.sort_by(|a, b| (&a.subject, &a.message).cmp(&(&b.subject, &b.message)));
        due
    }
}

/// A draft's own bucket; where the table is full and has none yet, the one that the others share.
fn own_or_shared<K: Eq + Hash>(
    table: &HashMap<K, Bucket>,
    own: K,
    shared: impl FnOnce() -> K,
) -> K {
    if table.len() < limits::BUCKETS || table.contains_key(&own) {
        own
    } else {
        shared()
    }
}

/// The event that tells of a bucket's suppressed ones, if there are any; counting starts anew.
fn summarize(bucket: &mut Bucket, code: &str, subject: &str, now: Duration) -> Option<Draft> {
    let count = std::mem::take(&mut bucket.suppressed);
    if count == 0 {
        return None;
    }
    let seconds = now.saturating_sub(bucket.first_suppressed).as_secs().max(1);
    let message = format!(
        "suppressed {count} more `{code}` {} within {seconds} s",
        if count == 1 { "event" } else { "events" }
    );
    Some(
        Draft::new(bucket.severity, SUMMARY_CODE, subject, &message)
            .cause("events that an outsider can provoke are held to a rate"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(subject: &str) -> Draft {
        Draft::warning("login-refused", subject, "refused").provoked()
    }

    fn passes(limit: &mut RateLimit, subject: &str, now: Duration) -> bool {
        matches!(limit.ask(&draft(subject), now), Verdict::Pass(_))
    }

    #[test]
    fn a_burst_passes_then_one_per_refill_with_the_count() {
        let mut limit = RateLimit::default();
        let start = Duration::from_secs(100);
        let passed = (0..50).filter(|_| passes(&mut limit, "a", start)).count();
        assert_eq!(passed, limits::SUBJECT_BURST as usize);
        assert!(!passes(&mut limit, "a", start + limits::SUBJECT_REFILL / 2));
        match limit.ask(&draft("a"), start + limits::SUBJECT_REFILL) {
            Verdict::Pass(summaries) => {
                let [summary] = &summaries[..] else {
                    panic!("{summaries:?}")
                };
                assert_eq!(summary.code, SUMMARY_CODE);
                assert_eq!(summary.subject, "a");
                assert_eq!(summary.severity, Severity::Warning);
                assert_eq!(
                    summary.message,
                    "suppressed 41 more `login-refused` events within 10 s"
                );
            }
            Verdict::Suppressed => panic!("a token was due"),
        }
        assert!(!passes(&mut limit, "a", start + limits::SUBJECT_REFILL));
    }

    #[test]
    fn made_up_subjects_meet_the_bucket_of_the_code() {
        let mut limit = RateLimit::default();
        let now = Duration::from_secs(1);
        let passed = (0..100_000)
            .filter(|n| passes(&mut limit, &format!("iqn.{n}"), now))
            .count();
        assert_eq!(passed, limits::CODE_BURST as usize);
        assert!(limit.subjects.len() <= limits::BUCKETS + 1);
        let due = limit.due(now + limits::SUMMARY_AFTER);
        let counted: u64 = due
            .iter()
            .filter_map(|draft| draft.message.split(' ').nth(1))
            .filter_map(|count| count.parse::<u64>().ok())
            .sum();
        assert_eq!(counted + passed as u64, 100_000);
    }

    #[test]
    fn quiet_buckets_are_forgotten_after_their_summary() {
        let mut limit = RateLimit::default();
        let now = Duration::from_secs(1);
        for _ in 0..12 {
            let _ = limit.ask(&draft("a"), now);
        }
        assert!(limit.due(now + limits::SUMMARY_AFTER / 2).is_empty());
        let due = limit.due(now + limits::SUMMARY_AFTER);
        assert_eq!(due.len(), 1);
        assert!(due[0].message.starts_with("suppressed 2 more"));
        assert!(limit.due(now + limits::SUMMARY_AFTER * 10).is_empty());
        assert!(limit.subjects.is_empty());
        assert!(limit.codes.is_empty());
    }

    #[test]
    fn another_subject_is_not_held_up() {
        let mut limit = RateLimit::default();
        let now = Duration::from_secs(1);
        for _ in 0..50 {
            let _ = limit.ask(&draft("a"), now);
        }
        assert!(passes(&mut limit, "b", now));
    }
}

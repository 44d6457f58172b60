//! Reads how many cases passed, failed and were skipped in what test programs print.

use std::fmt;
use std::ops::AddAssign;

/// Figures of a rung, or of all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// One check that held or did not.
    pub(crate) fn one(held: bool) -> Self {
        Self {
            passed: u64::from(held),
            failed: u64::from(!held),
            skipped: 0,
        }
    }

    /// Whether nothing was counted.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// How a program tells its figures.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// Only its exit code: one check.
    ExitCode,
    /// nextest's `Summary [ 1.2s] 45 tests run: 44 passed, 1 failed, 2 skipped`; the last one
    /// counts.
    Nextest,
    /// libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …`; all are summed.
    Libtest,
    /// Our own closing line `N passed, N failed, N skipped`; the last one counts.
    Closing,
}

/// Collects figures from lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter {
    style: Style,
    counts: Counts,
}

impl Counter {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            style,
            counts: Counts::default(),
        }
    }

    /// Looks at a line.
    pub(crate) fn line(&mut self, line: &str) {
        let plain = without_colour(line);
        let plain = plain.trim();
        match self.style {
            Style::ExitCode => {}
            Style::Nextest => {
                if let Some((_, figures)) = plain.split_once("run: ")
                    && plain.starts_with("Summary")
                {
                    self.counts = figures_in(figures);
                }
            }
            Style::Libtest => {
                if let Some((_, figures)) = plain.split_once("test result: ") {
                    self.counts += figures_in(figures);
                }
            }
            Style::Closing => {
                let found = figures_in(plain);
                if found.to_string() == plain {
                    self.counts = found;
                }
            }
        }
    }

    /// The figures once the program ended. A failure that no figure shows counts as one.
    pub(crate) fn end(self, success: bool) -> Counts {
        let mut counts = self.counts;
        if matches!(self.style, Style::ExitCode) {
            return Counts::one(success);
        }
        if !success && counts.failed == 0 {
            counts.failed = 1;
        }
        counts
    }
}

/// `44 passed (2 slow), 1 failed, 2 skipped` and its like, whatever stands between.
fn figures_in(text: &str) -> Counts {
    let mut counts = Counts::default();
    let words: Vec<&str> = text.split_whitespace().collect();
    for pair in words.windows(2) {
        let Ok(number) = pair[0].trim_start_matches('(').parse::<u64>() else {
            continue;
        };
        match pair[1].trim_end_matches([',', ';', ')', '.']) {
            "passed" => counts.passed += number,
            "failed" | "timed" | "errored" => counts.failed += number,
            "skipped" | "ignored" => counts.skipped += number,
            _ => {}
        }
    }
    counts
}

/// The text without terminal colour sequences.
fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        if letter == '\u{1b}' {
            for inner in rest.by_ref() {
                if inner.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(style: Style, lines: &[&str], success: bool) -> Counts {
        let mut counter = Counter::new(style);
        for line in lines {
            counter.line(line);
        }
        counter.end(success)
    }

    #[test]
    fn nextest() {
        let lines = [
            "     Summary [   1.203s] 47 tests run: 44 passed (2 slow), 1 failed, 2 timed out, 3 skipped",
        ];
        assert_eq!(
            count(Style::Nextest, &lines, false),
            Counts {
                passed: 44,
                failed: 3,
                skipped: 3
            }
        );
        let coloured = [
            "\u{1b}[32;1m     Summary\u{1b}[0m [   0.5s] \u{1b}[1m2\u{1b}[0m tests run: \u{1b}[1m2\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, \u{1b}[1m0\u{1b}[0m \u{1b}[33;1mskipped\u{1b}[0m",
        ];
        assert_eq!(
            count(Style::Nextest, &coloured, true),
            Counts {
                passed: 2,
                failed: 0,
                skipped: 0
            }
        );
    }

    #[test]
    fn libtest_sums() {
        let line = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(
            count(Style::Libtest, &[line, line], true),
            Counts {
                passed: 6,
                failed: 0,
                skipped: 2
            }
        );
    }

    #[test]
    fn the_last_closing_line_counts_and_others_do_not() {
        let lines = [
            "1 passed, 0 failed, 0 skipped",
            "suite x: 9 passed, 0 failed, 0 skipped",
            "5 passed, 1 failed, 2 skipped",
        ];
        assert_eq!(
            count(Style::Closing, &lines, false),
            Counts {
                passed: 5,
                failed: 1,
                skipped: 2
            }
        );
    }

    #[test]
    fn a_crash_without_figures_is_a_failure() {
        assert_eq!(
            count(Style::Closing, &["Traceback"], false),
            Counts {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
        assert_eq!(count(Style::ExitCode, &[], false), Counts::one(false));
    }
}

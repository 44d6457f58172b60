"""Runs `iscsi-test-cu` test by test, reads what really ran, and compares it with a checked-in expectation.

The program counts a skipped test as passed. Here a test that says `[SKIPPED]` or `Skipping test` anywhere is
skipped, with its reason, and how many assertions ran before that is kept. Each test runs in a process of its
own with a time bound, in every configuration it needs; a test passes when it passed in one configuration and
failed in none.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness import ports
from harness.model import MIB, Account, Authentication, Device, Lun, Target
from harness.runner import Tally
from harness.server import Server

PROGRAM = "iscsi-test-cu"
EXPECTATIONS = Path(__file__).parent / "expected"
BOUND_SECONDS = 60.0

# The first pattern that is found gives the reason.
_SKIP = (re.compile(r"\[SKIPPED\]\s*(.*)", re.IGNORECASE), re.compile(r"(.*Skipping test.*)", re.IGNORECASE))
_FAIL = (re.compile(r"CU_(?:FAIL|ASSERT)\w*\((.*)\)"), re.compile(r"\[FAILED\]\s*(.*)"))
_SUMMARY = re.compile(r"^\s+tests\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", re.MULTILINE)
_ASSERTS = re.compile(r"^\s+asserts\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", re.MULTILINE)


#: (configuration or "*", test pattern) -> why the program of Debian's 1.19 cannot pass it against a right target.
DEFECTS = {
    (
        "*",
        "iSCSITMF.LUNResetSimpleAsync",
    ): "asserts on the callback's variable before the callback ran (moved upstream later); no target passes",
    (
        "thin",
        "GetLBAStatus.UnmapSingle",
    ): "asks for LBA i+1 and wants i+8 where a physical block holds 8 logical ones; runs in flat and blocks-4096",
    ("multipath", "GetLBAStatus.UnmapSingle"): "as in thin",
    ("blocks-4096", "ProutReserve.Access*"): "sends 512 bytes for a block of 4096; runs in thin",
    (
        "blocks-4096",
        "ExtendedCopy.Simple",
    ): "writes 2048 blocks of 4096 at once, over the MAXIMUM TRANSFER LENGTH that is told",
}


def defect(configuration: str, test: str) -> str | None:
    """Why a test is not run in a configuration, if it is not."""
    for (where, pattern), reason in DEFECTS.items():
        if where in ("*", configuration) and fnmatch.fnmatchcase(test, pattern):
            return f"defect of {PROGRAM}: {reason}"
    return None


@dataclass(frozen=True)
class Configuration:
    """A LUN and how the program reaches it."""

    name: str
    device: Device
    lun_read_only: bool = False
    account: Account | None = None
    paths: int = 1
    #: Suites that run here; none: all.
    suites: tuple[str, ...] = ()


def configurations() -> list[Configuration]:
    """The configurations that together let every test run that the target can run."""
    size = 100 * MIB
    account = Account("conformance", "a-secret-of-20-bytes")
    return [
        Configuration("thin", Device("thin", size)),
        Configuration("multipath", Device("paths", size), paths=2),
        Configuration("blocks-4096", Device("large", size, block_size=4096)),
        Configuration("flat", Device("flat", size, physical_blocks=False), suites=("GetLBAStatus",)),
        Configuration(
            "removable",
            Device("removable", size, removable=True),
            suites=("PreventAllow", "StartStopUnit", "NoMedia", "Mandatory"),
        ),
        Configuration("read-only", Device("fixed", size), lun_read_only=True, suites=("ReadOnly", "Mandatory")),
        Configuration(
            "chap", Device("guarded", size), account=account, suites=("Mandatory", "Inquiry", "Read10", "iSCSITMF")
        ),
    ]


@dataclass
class Outcome:
    """What one test did in one configuration."""

    test: str
    verdict: str
    reason: str = ""
    asserts: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    """All outcomes of one configuration."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, verdict: str) -> int:
        """How many tests ended so."""
        return sum(outcome.verdict == verdict for outcome in self.outcomes)


def all_tests() -> list[str]:
    """`SUITE.TEST` for each test the installed program has."""
    done = subprocess.run([PROGRAM, "-l"], capture_output=True, text=True, timeout=30, check=False)
    names = [line.strip() for line in done.stdout.splitlines()]
    return [name.removeprefix("ALL.") for name in names if name.startswith("ALL.") and name.count(".") == 2]


def read_output(test: str, text: str) -> Outcome:
    """The verdict in the program's output."""
    summary = _SUMMARY.search(text)
    if summary is None:
        return Outcome(test, "failed", "the program ended without its summary")
    ran, failed = int(summary.group(2)), int(summary.group(4))
    if ran == 0:
        return Outcome(test, "failed", "the program did not find the test")
    counted = _ASSERTS.search(text)
    asserts = int(counted.group(2)) if counted else 0
    if failed:
        return Outcome(test, "failed", _first(_FAIL, text), asserts)
    if any(pattern.search(text) for pattern in _SKIP):
        return Outcome(test, "skipped", _first(_SKIP, text), asserts)
    return Outcome(test, "passed", "", asserts)


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> str:
    for pattern in patterns:
        found = pattern.search(text)
        if found is not None:
            return " ".join(found.group(1).split())[:160]
    return "no reason given"


def run_test(test: str, urls: list[str]) -> Outcome:
    """One test in a process of its own."""
    begin = time.monotonic()
    command = [PROGRAM, "--dataloss", "--allow-sanitize", "-v", "-t", f"ALL.{test}", *urls]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BOUND_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        outcome = read_output(test, done.stdout.decode(errors="replace"))
        if done.returncode < 0:
            outcome = Outcome(test, "failed", f"the program died of signal {-done.returncode}")
    except subprocess.TimeoutExpired:
        outcome = Outcome(test, "failed", f"hung: over {BOUND_SECONDS:g} s")
    outcome.seconds = time.monotonic() - begin
    return outcome


def run_configuration(server: Server, configuration: Configuration, tests: list[str]) -> Run:
    """All tests of one configuration, on a fresh target."""
    accounts = (configuration.account,) if configuration.account else ()
    name = ports.iqn(configuration.name)
    target = Target(
        name,
        (Lun(1, configuration.device, configuration.lun_read_only),),
        authentication=Authentication(accounts),
    )
    account = configuration.account
    credentials = f"{account.user}%{account.secret}@" if account else ""
    run = Run(configuration.name)
    with server.serving(target):
        urls = [server.url(name, 1, credentials)] * configuration.paths
        for test in tests:
            if configuration.suites and test.split(".")[0] not in configuration.suites:
                continue
            reason = defect(configuration.name, test)
            run.outcomes.append(Outcome(test, "skipped", reason) if reason else run_test(test, urls))
            server.ensure_running()
    return run


def merge(runs: list[Run], tests: list[str]) -> dict[str, str]:
    """One verdict per test over all configurations."""
    verdicts: dict[str, str] = {}
    for test in tests:
        seen = {outcome.verdict for run in runs for outcome in run.outcomes if outcome.test == test}
        verdicts[test] = "failed" if "failed" in seen else "passed" if "passed" in seen else "skipped"
    return verdicts


# -- expectation --


def expectation_path(kind: str) -> Path:
    """The checked-in file for a kind of server."""
    return EXPECTATIONS / f"{kind}.txt"


def render(kind: str, runs: list[Run], total: int) -> str:
    """The expectation as text: what is not listed passes. Failures of our own are never expected, so never written."""
    kept = ("skipped",) if kind == "sanctum" else ("skipped", "failed")
    lines = [
        "# What iscsi-test-cu does not pass here, and why. Everything that is not listed must pass.",
        "# configuration test verdict reason; written by `tests/run.py libiscsi --update`.",
        f"total {total}",
    ]
    for run in runs:
        for outcome in run.outcomes:
            if outcome.verdict in kept:
                lines.append(f"{run.name} {outcome.test} {outcome.verdict} {outcome.reason}".rstrip())
    return "\n".join(lines) + "\n"


def read_expectation(kind: str) -> tuple[int, dict[tuple[str, str], str]]:
    """Total, and (configuration, test) -> verdict for what does not pass."""
    total, rows = 0, {}
    for line in expectation_path(kind).read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        words = line.split()
        if words[0] == "total":
            total = int(words[1])
        else:
            rows[(words[0], words[1])] = words[2]
    return total, rows


def differences(kind: str, runs: list[Run], total: int) -> list[str]:
    """Where the run and the expectation part."""
    if not expectation_path(kind).exists():
        return [f"no expectation {expectation_path(kind)}; write it with --update"]
    wanted_total, wanted = read_expectation(kind)
    found = [] if wanted_total == total else [f"the program has {total} tests, expected {wanted_total}"]
    for run in runs:
        for outcome in run.outcomes:
            expected = wanted.get((run.name, outcome.test), "passed")
            if outcome.verdict != expected:
                found.append(f"{run.name} {outcome.test}: {outcome.verdict}, expected {expected}  {outcome.reason}")
    return found


# -- report --


def print_tables(runs: list[Run], verdicts: dict[str, str]) -> None:
    """Per configuration, per suite, then what did not pass."""
    print(f"{'configuration':<16}{'passed':>8}{'failed':>8}{'skipped':>9}{'asserts':>9}{'seconds':>9}")
    for run in runs:
        asserts = sum(outcome.asserts for outcome in run.outcomes)
        seconds = sum(outcome.seconds for outcome in run.outcomes)
        figures = f"{run.count('passed'):>8}{run.count('failed'):>8}{run.count('skipped'):>9}"
        print(f"{run.name:<16}{figures}{asserts:>9}{seconds:>9.1f}")
    suites: dict[str, Counter[str]] = {}
    for test, verdict in verdicts.items():
        suites.setdefault(test.split(".")[0], Counter())[verdict] += 1
    print(f"\n{'suite':<24}{'passed':>8}{'failed':>8}{'skipped':>9}")
    for suite, counts in suites.items():
        print(f"{suite:<24}{counts['passed']:>8}{counts['failed']:>8}{counts['skipped']:>9}")
    for run in runs:
        for outcome in run.outcomes:
            if outcome.verdict == "failed":
                print(f"failed   {run.name} {outcome.test}  {outcome.reason}")


def conform(server: Server, update: bool = False, only: str | None = None) -> Tally:
    """The whole suite against one server."""
    tests = all_tests()
    chosen = [test for test in tests if only is None or only in test]
    runs = []
    for configuration in configurations():
        server.ensure_running()
        runs.append(run_configuration(server, configuration, chosen))
    verdicts = merge(runs, chosen)
    print_tables(runs, verdicts)
    counts = Counter(verdicts.values())
    tally = Tally(counts["passed"], counts["failed"], counts["skipped"])
    if update:
        EXPECTATIONS.mkdir(exist_ok=True)
        expectation_path(server.kind).write_text(render(server.kind, runs, len(tests)))
    elif only is None:
        parted = differences(server.kind, runs, len(tests))
        for line in parted:
            print(f"differs  {line}")
        unexplained = [line for line in parted if ": failed" not in line]
        tally.failed += len(unexplained)
    print(f"\n{PROGRAM} against {server.kind}: {tally.line()}", flush=True)
    return tally


def compare_with(server: Server) -> None:
    """Prints the figures of another target in the first configuration, for scale."""
    run = run_configuration(server, configurations()[0], all_tests())
    figures = Tally(run.count("passed"), run.count("failed"), run.count("skipped"))
    print(f"for scale, {PROGRAM} against {server.kind}, one configuration: {figures.line()}", flush=True)

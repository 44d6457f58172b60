#!/usr/bin/env python3
"""Runs the foreign-peer suites: `tests/run.py [options] SUITE...`.

Suites: `wire` (our own Python initiator), `libiscsi` (its conformance program), `qemu_tools` (iscsi-ls, qemu-img),
`guest` (a Linux guest with open-iscsi under QEMU), `soak` (our load generator, verifying). The closing line counts
cases.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness.runner import Tally, run_module, stderr  # noqa: E402
from harness.server import Server  # noqa: E402
from harness.tgt import TgtServer  # noqa: E402

HERE = Path(__file__).resolve().parent
SUITES = ("wire", "libiscsi", "qemu_tools", "guest", "soak")


def make_server(options: argparse.Namespace, directory: Path) -> Server:
    """The server under test."""
    if options.server == "tgt":
        return TgtServer(directory)
    from harness.sanctum import SanctumServer

    return SanctumServer(directory, Path(options.bin_dir), driver=options.driver)


def modules_of(suite: str) -> list[str]:
    """The modules with cases of a suite, in order of name."""
    return [f"{suite}.{path.stem}" for path in sorted((HERE / suite).glob("test_*.py"))]


def run_suite(suite: str, options: argparse.Namespace, directory: Path) -> Tally:
    """One suite with a server of its own."""
    server = make_server(options, directory / f"server-{suite}")
    tally = Tally()
    try:
        server.start()
        if suite == "libiscsi":
            from libiscsi.conformance import conform

            tally = conform(server, options.update, options.only)
            if options.scale and TgtServer.available():
                scale(directory)
            return tally
        for module in modules_of(suite) * options.repeat:
            importlib.import_module(module)
            tally.add(run_module(module, server, directory, options.only))
    finally:
        server.stop()
    return tally


def scale(directory: Path) -> None:
    """tgt's figures on the same machine; they are printed and count nothing."""
    from libiscsi.conformance import compare_with

    server = TgtServer(directory / "server-tgt")
    try:
        server.start()
        compare_with(server)
    finally:
        server.stop()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"any of {', '.join(SUITES)}; none: all")
    parser.add_argument("--server", choices=("sanctum", "tgt"), default="sanctum", help="server under test")
    parser.add_argument(
        "--bin-dir", default=str(HERE.parent / "target" / "debug"), help="where sanctumd and sanctum are"
    )
    parser.add_argument("--driver", default=None, help="force an I/O driver of sanctumd (uring, epoll)")
    parser.add_argument("--only", default=None, metavar="TEXT", help="only cases whose name holds TEXT")
    parser.add_argument("--update", action="store_true", help="write the expectation instead of comparing")
    parser.add_argument("--scale", action="store_true", help="libiscsi: run tgt too and print its figures beside ours")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run the chosen cases N times")
    parser.add_argument("--keep", action="store_true", help="keep the working directory")
    options = parser.parse_args(arguments)
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs what was asked for; 1 when something failed."""
    options = parse(arguments)
    directory = Path(tempfile.mkdtemp(prefix="sanctum-tests-"))
    total = Tally()
    try:
        for suite in options.suites or SUITES:
            total.add(run_suite(suite, options, directory))
    finally:
        if options.keep or total.failed:
            stderr(f"working directory kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    print(total.line(), flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())

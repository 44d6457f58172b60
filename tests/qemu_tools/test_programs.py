"""iscsi-ls, iscsi-inq, iscsi-perf, qemu-img and qemu-io against the server, with contents compared (acceptance 1)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from harness import ports
from harness.model import MIB, Account, Authentication, Device, Lun, Target
from harness.runner import Context, case, expect, expect_equal
from wire.support import disk, serve, simple


def run(*words: str | Path, seconds: float = 60.0) -> str:
    """A program's output; it must succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}: exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def _image(path: Path, size: int) -> None:
    """A raw image with data at both ends and holes between."""
    with path.open("wb") as image:
        image.write(os.urandom(MIB))
        image.seek(size // 2)
        image.write(os.urandom(300_000))
        image.seek(size - 4096)
        image.write(os.urandom(4096))


@case(seconds=60)
def test_iscsi_ls_shows_targets_and_luns(context: Context) -> None:
    """`iscsi-ls -s` walks from the portal to each LUN with its size."""
    target = disk(context, size=64 * MIB)
    seen = run("iscsi-ls", "-s", f"iscsi://{context.server.host}:{context.server.port}")
    expect(target.name in seen, f"the target: {seen}")
    expect(
        "DIRECT_ACCESS" in seen and "Size:63M" in seen, f"the LUN with its size (it names the last whole MiB): {seen}"
    )


@case(seconds=60)
def test_iscsi_inq_reads_every_page(context: Context) -> None:
    """The pages that the target lists can be read."""
    target = disk(context)
    url = context.server.url(target.name, 1)
    expect("Vendor" in run("iscsi-inq", url), "standard INQUIRY")
    run("iscsi-inq", "-e", "1", "-c", "0x83", url)


@case(seconds=120)
def test_qemu_img_converts_there_and_back(context: Context) -> None:
    """An image written to a LUN by qemu-img is the same when compared and when read back, through a restart."""
    size = 64 * MIB
    target = disk(context, size=size)
    url = context.server.url(target.name, 1)
    source, back = context.directory / "source.raw", context.directory / "back.raw"
    _image(source, size)
    info = run("qemu-img", "info", "--output=json", url)
    expect(str(size) in info, f"the size in {info}")
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, url, seconds=100)
    expect("identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, url), "compared")
    context.server.stop()
    context.server.restart()
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", url, back)
    expect(source.read_bytes() == back.read_bytes(), "read back after a restart")


@case(seconds=60)
def test_qemu_io_writes_zeroes_and_discards(context: Context) -> None:
    """Patterns, zeroes and discards of qemu-io hold what they promise."""
    target = disk(context)
    url = context.server.url(target.name, 1)
    script = ["write -P 0x5a 0 1M", "write -z 256k 128k", "discard 512k 128k", "flush",
              "read -P 0x5a 0 256k", "read -P 0 256k 128k", "read -P 0x5a 384k 128k", "read -P 0x5a 640k 384k"]  # fmt: skip
    words = [part for line in script for part in ("-c", line)]
    seen = run("qemu-io", "-f", "raw", *words, url)
    expect("verification failed" not in seen.lower(), seen)


@case(seconds=60)
def test_iscsi_perf_runs(context: Context) -> None:
    """Ten thousand reads at depth 32 without an error; the figure is printed, not judged."""
    target = disk(context)
    done = subprocess.run(
        ["timeout", "--signal=INT", "3", "iscsi-perf", "-m", "32", "-b", "8", "-r", context.server.url(target.name, 1)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    expect("error" not in done.stderr.lower(), done.stderr)
    figures = [line for line in done.stdout.replace("\r", "\n").splitlines() if "iops" in line.lower()]
    expect(figures, f"figures: {done.stdout[-300:]!r}")
    context.note(" ".join(figures[-1].split()))


@case(seconds=60, needs=("chap-md5",))
def test_programs_with_chap(context: Context) -> None:
    """URL credentials log in; without them the program fails."""
    account = Account("qemu", "secret-of-qemu-16")
    target = serve(context, simple("tools", authentication=Authentication((account,))))
    url = context.server.url(target.name, 1, f"{account.user}%{account.secret}@")
    run("iscsi-inq", url)
    done = subprocess.run(
        ["iscsi-inq", context.server.url(target.name, 1)], capture_output=True, timeout=30, check=False
    )
    expect(done.returncode != 0, "no credentials, and yet")


@case(seconds=60)
def test_two_luns_side_by_side(context: Context) -> None:
    """Two LUNs of one target keep their contents apart."""
    luns = tuple(Lun(number, Device(ports.unique("side"))) for number in (1, 2))
    target = serve(context, Target(ports.iqn("side"), luns))
    for number in (1, 2):
        run("qemu-io", "-f", "raw", "-c", f"write -P {number} 0 4M", context.server.url(target.name, number))
    for number in (1, 2):
        seen = run("qemu-io", "-f", "raw", "-c", f"read -P {number} 0 4M", context.server.url(target.name, number))
        expect_equal("Pattern verification failed" in seen, False, f"contents of LUN {number}")

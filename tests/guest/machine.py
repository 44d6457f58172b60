"""One guest: starts QEMU, reads its lines as they come, runs commands in it. Every wait is bounded."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from guest.kernel import Kernel
from harness import wait

#: The host as a guest sees it in QEMU's user network.
HOST = "10.0.2.2"


@dataclass(frozen=True)
class Done:
    """How a command in the guest ended."""

    code: int
    output: str

    def good(self) -> str:
        """The output when it succeeded; fails otherwise."""
        assert self.code == 0, f"ended with {self.code}: {self.output}"
        return self.output


class Guest:
    """A running guest with its command channel."""

    def __init__(self, kernel: Kernel, initrd: Path, directory: Path, name: str) -> None:
        self.name = name
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.console = directory / f"{name}-console.log"
        self.channel_path = directory / f"{name}.sock"
        self.numbers = itertools.count(1)
        self.partial = b""
        self.lines: list[str] = []
        self.tail: list[str] = []
        # A listener made before QEMU starts, so that QEMU connects and no byte is lost.
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.channel_path))
        self.listener.listen(1)
        self.process = subprocess.Popen(
            self._command(kernel, initrd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(directory / f"{name}-qemu.log").open("ab"),
            start_new_session=True,
        )
        self.channel: socket.socket | None = None

    def _command(self, kernel: Kernel, initrd: Path) -> list[str]:
        return [
            "qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2",
            "-smp", "1", "-m", "320", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-serial", f"file:{self.console}",
            "-chardev", f"socket,id=c0,path={self.channel_path}", "-serial", "chardev:c0",
            "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=",
            "-kernel", str(kernel.image), "-initrd", str(initrd),
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on",
        ]  # fmt: skip

    # -- lines --

    def attach(self, seconds: float) -> None:
        """Takes QEMU's connection and waits until the guest serves commands."""
        self.listener.settimeout(seconds)
        try:
            self.channel, _ = self.listener.accept()
        except TimeoutError:
            raise AssertionError(f"{self.name}: QEMU did not come up: {self._qemu_log()}") from None
        self.await_line("READY", lambda line: line == "READY", seconds)

    def _qemu_log(self) -> str:
        return (self.directory / f"{self.name}-qemu.log").read_text(errors="replace")[-1000:]

    def poll(self, seconds: float) -> bool:
        """Reads what came, waiting up to `seconds`; whether anything came."""
        assert self.channel is not None
        ready, _, _ = select.select([self.channel], [], [], seconds)
        if not ready:
            return False
        piece = self.channel.recv(65536)
        if not piece:
            raise AssertionError(f"{self.name}: the guest ended:\n{self.console_tail()}")
        self.partial += piece
        *whole, self.partial = self.partial.split(b"\n")
        for raw in whole:
            line = raw.decode(errors="replace").rstrip("\r")
            if line:
                self.lines.append(line)
        return True

    def await_line(self, what: str, wanted: Callable[[str], bool], seconds: float) -> str:
        """Takes the first line for which `wanted` holds; others stay for later waits."""
        deadline = time.monotonic() + seconds
        checked = 0
        while True:
            for index in range(checked, len(self.lines)):
                if wanted(self.lines[index]):
                    return self.lines.pop(index)
            checked = len(self.lines)
            left = deadline - time.monotonic()
            if left <= 0:
                raise wait.TimedOut(f"{self.name}: no {what} within {seconds:g} s\n{self.console_tail()}")
            self.poll(min(left, 1.0))

    def take(self, prefix: str) -> list[str]:
        """All lines so far that start with `prefix`, removed."""
        while self.poll(0):
            pass
        found = [line for line in self.lines if line.startswith(prefix)]
        self.lines = [line for line in self.lines if not line.startswith(prefix)]
        return found

    # -- commands --

    def send(self, command: str) -> str:
        """Sends a command; returns its id for `finish`."""
        assert self.channel is not None and "\n" not in command
        number = f"c{next(self.numbers)}"
        self.channel.sendall(f"{number} {command}\n".encode())
        return number

    def finish(self, number: str, seconds: float = 60.0) -> Done:
        """How a command ended."""
        prefix, ending = f"{number} ", f"END {number} "
        last = self.await_line(f"end of {number}", lambda line: line.startswith(ending), seconds)
        output = [line.removeprefix(prefix) for line in self.lines if line.startswith(prefix)]
        self.lines = [line for line in self.lines if not line.startswith(prefix)]
        return Done(int(last.removeprefix(ending)), "\n".join(output))

    def run(self, command: str, seconds: float = 60.0) -> Done:
        """Runs a shell command in the guest."""
        return self.finish(self.send(command), seconds)

    def background(self, command: str) -> None:
        """Starts a command that writes its own lines to the channel and leaves the prompt free."""
        self.run(f"{command} >/dev/null 2>/tmp/background.err &").good()

    def until(self, condition: str, seconds: int = 20) -> None:
        """Waits until a shell condition holds in the guest."""
        steps = seconds * 20
        loop = f"i=0; until {condition}; do i=$((i+1)); [ $i -lt {steps} ] || exit 1; usleep 50000; done"
        done = self.run(loop, seconds + 40)
        assert done.code == 0, f"{self.name}: not within {seconds} s: {condition}"

    # -- iSCSI --

    def start_initiator(self) -> None:
        """Runs iscsid and waits until iscsiadm reaches it."""
        self.run("iscsid -f -d 2 -c /etc/iscsi/iscsid.conf >/dev/ttyS0 2>&1 &").good()
        self.until("iscsiadm -m session >/tmp/s 2>&1 || grep -q 'No active' /tmp/s")

    def log_in(self, target: str, port: int, settings: dict[str, str] | None = None, seconds: float = 40.0) -> Done:
        """Makes a node record without discovery (the target names an address that the guest cannot reach), logs in."""
        node = f"iscsiadm -m node -T {target} -p {HOST}:{port}"
        self.run(f"{node} -o new").good()
        for name, value in (settings or {}).items():
            self.run(f"{node} -o update -n {name} -v {value}").good()
        return self.run(f"{node} --login", seconds)

    def log_out(self, target: str, port: int) -> Done:
        """Logs out and forgets the node."""
        node = f"iscsiadm -m node -T {target} -p {HOST}:{port}"
        return self.run(f"{node} --logout && {node} -o delete")

    def device(self, node: str = "/dev/sda", seconds: int = 20) -> str:
        """Waits for a device node."""
        self.until(f"[ -b {node} ]", seconds)
        return node

    def node_of(self, lun: int) -> str:
        """Waits for the device node of a LUN; there is one session."""
        block = f"/sys/class/scsi_device/*:{lun}/device/block"
        self.until(f"[ -d {block} ]")
        node = f"/dev/{self.run(f'ls {block}').good().strip()}"
        return self.device(node)

    def kernel_complaints(self) -> list[str]:
        """Kernel messages about failed I/O."""
        text = self.run("dmesg").good().lower()
        words = ("i/o error", "critical", "buffer i/o", "ext4-fs error", "remounting", "offlined", "rejecting i/o")
        return [line for line in text.splitlines() if any(word in line for word in words)]

    # -- end --

    def console_tail(self) -> str:
        """The end of the kernel's console."""
        if not self.console.exists():
            return "(no console)"
        return "\n".join(self.console.read_text(errors="replace").splitlines()[-15:])

    def close(self) -> None:
        """Ends the guest at once."""
        if self.channel is not None:
            self.channel.close()
        self.listener.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.channel_path.unlink(missing_ok=True)


@contextlib.contextmanager
def booted(kernel: Kernel, initrds: list[Path], directory: Path, seconds: float = 90.0) -> Iterator[list[Guest]]:
    """Boots a guest for each initramfs, at once; ends them on the way out."""
    guests: list[Guest] = []
    try:
        for index, initrd in enumerate(initrds):
            guests.append(Guest(kernel, initrd, directory, f"guest{index}-{os.getpid()}"))
        for guest in guests:
            guest.attach(seconds)
        yield guests
    finally:
        for guest in guests:
            guest.close()
        for initrd in initrds:  # some 25 MB each, and `prove` boots a hundred
            initrd.unlink(missing_ok=True)

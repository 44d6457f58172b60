#!/usr/bin/env python3
"""Writes the seed corpora under fuzz/corpus from what our own initiator would send.

Run it again after a harness changed its input; what fuzzing found is added by hand, under a name that says what it was.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from initiator import chap, scsi  # noqa: E402
from initiator import pdu as wire  # noqa: E402
from initiator import reservations as pr  # noqa: E402
from initiator.login import DEFAULTS  # noqa: E402
from initiator.pdu import FINAL, Pdu, encode_keys  # noqa: E402

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
_FIRST = [
    ("InitiatorName", "iqn.2026-11.test:seed"),
    ("TargetName", "iqn.2026-11.test:fuzz"),
    ("SessionType", "Normal"),
]
#: Fixed in the harness.
_CHALLENGE, _IDENTIFIER, _SECRET = b"\x5a" * 16, 7, b"secret-of-16-byt"


def save(target: str, name: str, data: bytes) -> None:
    """Writes one seed."""
    directory = CORPUS / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data)


class Stream:
    """The bytes of one connection, sequence numbers kept."""

    def __init__(self, digests: bool = False) -> None:
        self.bytes = b""
        self.cmd_sn = 1
        self.itt = 0
        self.digests = digests

    def login(self, csg: int, nsg: int, transit: bool, keys: list[tuple[str, str]], more: bool = False) -> Stream:
        """A login request."""
        pdu = Pdu(data=encode_keys(keys))
        pdu.bhs[0] = 0x43
        pdu.bhs[1] = (0x80 | nsg if transit else 0) | (0x40 if more else 0) | csg << 2
        pdu.bhs[8:14] = b"\x80\0\0\0\0\1"
        pdu.put(24, self.cmd_sn)
        self.bytes += pdu.encode()
        return self

    def operational(self) -> Stream:
        """The negotiation that opens the full feature phase."""
        keys = dict(DEFAULTS)
        if self.digests:
            keys["HeaderDigest"] = keys["DataDigest"] = "CRC32C"
        return self.login(1, 3, True, list(keys.items()))

    def send(self, pdu: Pdu) -> Stream:
        """A PDU of the full feature phase."""
        pdu.put(24, self.cmd_sn)
        if not pdu.bhs[0] & wire.IMMEDIATE:
            self.cmd_sn += 1
        self.bytes += pdu.encode(self.digests, self.digests)
        return self

    def command(self, cdb: bytes, out: bytes = b"", expect_in: int = 0, immediate: bool = True) -> Stream:
        """A SCSI command, with its data immediate or in one Data-Out per R2T (whose tag is a guess)."""
        self.itt += 1
        flags = FINAL | (0x20 if out else 0) | (0x40 if expect_in else 0) | 1
        pdu = wire.request(wire.SCSI_COMMAND, flags, self.itt, 0, out if immediate else b"")
        pdu.put(20, len(out) or expect_in)
        pdu.bhs[32:48] = cdb[:16].ljust(16, b"\0")
        self.send(pdu)
        if out and not immediate:
            for tag in range(4):
                data = wire.request(wire.DATA_OUT, FINAL, self.itt, 0, out)
                data.put(20, tag)
                self.bytes += data.encode(self.digests, self.digests)
        return self

    def seed(self, choices: int = 0) -> bytes:
        """The harness's input."""
        return bytes((choices,)) + self.bytes


def pdus() -> None:
    """Byte streams of connections."""

    def opened(digests: bool = False) -> Stream:
        return Stream(digests).login(0, 1, True, [*_FIRST, ("AuthMethod", "None")]).operational()

    save("pdu", "login", opened().seed())
    save("pdu", "login-straight", Stream().login(1, 3, True, [*_FIRST, *DEFAULTS.items()]).seed())
    stream = Stream().login(0, 0, False, _FIRST[:1], more=True).login(0, 1, True, [*_FIRST[1:], ("AuthMethod", "None")])
    save("pdu", "login-in-pieces", stream.operational().seed(1))
    proof = chap.spell(chap.digest(5, _IDENTIFIER, _SECRET, _CHALLENGE))
    stream = Stream().login(0, 1, False, [*_FIRST, ("AuthMethod", "CHAP")]).login(0, 0, False, [("CHAP_A", "5")])
    stream.login(0, 1, True, [("CHAP_N", "joe"), ("CHAP_R", proof)]).operational().command(scsi.test_unit_ready())
    save("pdu", "login-chap", stream.seed(4))
    stream = opened().command(scsi.inquiry(), expect_in=255).command(scsi.read10(0, 8), expect_in=4096)
    stream.command(scsi.write10(0, 1), out=b"w" * 512).command(scsi.write10(0, 1), out=b"v" * 512, immediate=False)
    save("pdu", "commands", stream.seed(2))
    save(
        "pdu",
        "commands-digests",
        opened(True).command(scsi.write10(0, 1), out=b"d" * 512).command(scsi.read10(0, 1), expect_in=512).seed(3),
    )
    stream = opened()
    for function in range(1, 9):
        stream.itt += 1
        stream.send(wire.request(wire.TASK_MANAGEMENT, FINAL | function, stream.itt, 0, immediate=True))
    save("pdu", "task-management", stream.seed())
    stream = opened().send(wire.request(wire.NOP_OUT, FINAL, 9, data=b"ping", immediate=True))
    stream.send(wire.request(wire.TEXT, FINAL, 10, data=encode_keys([("SendTargets", "")])))
    stream.send(wire.request(wire.TEXT, 0x40, 11)).send(wire.request(wire.SNACK, FINAL | 1, 12))
    save("pdu", "text-nop-logout", stream.send(wire.request(wire.LOGOUT, FINAL, 13, immediate=True)).seed())
    discovery = [_FIRST[0], ("SessionType", "Discovery"), ("AuthMethod", "None")]
    stream = Stream().login(0, 1, True, discovery).login(1, 3, True, [("MaxRecvDataSegmentLength", "8192")])
    save(
        "pdu",
        "discovery",
        stream.send(wire.request(wire.TEXT, FINAL, 1, data=encode_keys([("SendTargets", "All")]))).seed(),
    )
    long = wire.request(wire.SCSI_COMMAND, FINAL | 1, 1, 0)
    long.ahs = b"\x00\x11\x01\x00" + bytes(16)
    save("pdu", "ahs", opened().send(long).seed())


def texts() -> None:
    """Text segments."""
    save("text", "login", encode_keys([*_FIRST, ("AuthMethod", "CHAP,None")]))
    save("text", "operational", encode_keys(list(DEFAULTS.items())))
    save("text", "no-equals", b"novalue\0")
    save("text", "no-end", b"SendTargets=All")
    save("text", "empty-value", b"SendTargets=\0")
    save("text", "vendor", b"X-org.example.key=a,b,c\0Y#1=2~3\0")
    save("text", "number", b"0x7fffffff")
    save("text", "name", b"eui.02004567A425678D")


def chaps() -> None:
    """CHAP values."""
    for number in (5, 6, 7, 8):
        proof = chap.digest(number, _IDENTIFIER, _SECRET, _CHALLENGE)
        save("chap", f"hex-{number}", chap.spell(proof).encode())
        save("chap", f"base64-{number}", chap.spell(proof, "base64").encode())
    save("chap", "odd-digits", b"0xabc")
    save("chap", "bad-base64", b"0b=A==")
    save("chap", "list", b"5,7,8,999,banana")
    save("chap", "identifier", b"255")


def record(cdb: bytes, out: bytes = b"", choices: int = 4) -> bytes:
    """One command of the cdb harness."""
    return bytes((choices,)) + cdb[:16].ljust(16, b"\0") + struct.pack(">H", len(out)) + out


def cdbs() -> None:
    """Sequences of commands."""
    ready = record(scsi.test_unit_ready()) * 2
    pages = b"".join(record(scsi.inquiry(255, page)) for page in (0, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2))
    save("cdb", "inquiry", b"\x02" + ready + record(scsi.inquiry()) + pages)
    modes = b"".join(record(scsi.mode_sense6(page)) for page in (1, 2, 8, 0xA, 0x1C, 0x3F))
    save(
        "cdb",
        "mode",
        b"\x02" + ready + modes + record(scsi.mode_select6(16), bytes((0, 0, 0, 0, 0x0A, 0x0A)) + bytes(10)),
    )
    io = record(scsi.write10(0, 2), b"w" * 1024) + record(scsi.read10(0, 2)) + record(scsi.write16(62, 2), b"x" * 1024)
    io += record(scsi.synchronize_cache10()) + record(scsi.compare_and_write(0, 1), b"w" * 512 + b"n" * 512)
    save("cdb", "reads-writes", b"\x02" + ready + io + record(scsi.read10(63, 2)))
    listing = scsi.unmap_list([(0, 8), (32, 16)])
    thin = record(scsi.unmap(len(listing)), listing) + record(scsi.write_same16(0, 64, unmap=True), bytes(512))
    thin += record(scsi.get_lba_status(0)) + record(scsi.write_same16(8, 8), b"s" * 512)
    save("cdb", "thin", b"\x02" + ready + thin)
    ids = pr.transport_id("iqn.2026-11.test:1", b"\x80\0\0\0\0\1")
    spec = pr.out_list(0, 5, flags=8) + struct.pack(">I", len(ids)) + ids
    move = struct.pack(">QQBBHI", 1, 2, 0, 0, 1, len(ids)) + ids
    steps = record(pr.out_cdb(6, 0, 24), pr.out_list(0, 1)) + record(pr.out_cdb(1, 5, 24), pr.out_list(1, 0))
    steps += record(pr.out_cdb(7, 0, len(move)), move) + record(pr.out_cdb(0, 0, len(spec)), spec)
    steps += record(pr.out_cdb(6, 0, 24), pr.out_list(0, 9), 5) + record(pr.out_cdb(5, 1, 24), pr.out_list(9, 2), 5)
    steps += b"".join(record(struct.pack(">BBBBBBBHB", 0x5E, action, 0, 0, 0, 0, 0, 255, 0)) for action in range(4))
    save("cdb", "reservations", b"\x02" + ready + record(scsi.test_unit_ready(), choices=5) * 2 + steps)
    media = record(scsi.start_stop(False, True)) + record(scsi.test_unit_ready()) + record(scsi.start_stop(True, True))
    save("cdb", "media", b"\x09" + ready + record(bytes((0x1E, 0, 0, 0, 1, 0))) + media)
    optical = b"".join(
        record(bytes((opcode,)).ljust(10, b"\xff")) for opcode in (0x43, 0x46, 0x4A, 0x51, 0x52, 0xAD, 0x23)
    )
    save("cdb", "optical", b"\x01" + ready + record(scsi.read10(0, 1)) + optical)
    tables = b"".join(record(scsi.report_supported_opcodes(option, 0x5F, 1, 512)) for option in range(4))
    save(
        "cdb",
        "tables",
        b"\x06" + ready + tables + record(scsi.report_luns()) + record(scsi.report_target_port_groups()),
    )


def documents() -> None:
    """Settings documents."""
    head = 'version = 1\n\n[service]\nname = "san1"\n'
    portal = '\n[[iscsi.portal]]\nname = "storage"\naddress = "192.0.2.1"\n'
    device = '\n[[iscsi.device]]\nname = "disk1"\nkind = "image"\npath = "/srv/disk1.img"\nsize = 10737418240\n'
    target = (
        '\n[[iscsi.target]]\nname = "iqn.2026-11.example:disk1"\n[[iscsi.target.lun]]\nnumber = 0\ndevice = "disk1"\n'
    )
    rule = '[[iscsi.target.access]]\ninitiator = "iqn.*"\nnetwork = "10.0.0.0/8"\naction = "read-only"\n'
    save("settings", "smallest", b"version = 1\n")
    save("settings", "whole", (head + portal + device + target + rule).encode())
    save("settings", "unknown-key", (head + "banana = 1\n").encode())
    save("settings", "syntax", (head + "[[iscsi.target]\n").encode())
    save("settings", "wrong-type", (head + '\n[[iscsi.portal]]\nname = 1\naddress = "x"\nport = 99999\n').encode())
    ram = '\n[[iscsi.device]]\nname = "ram"\nkind = "ram"\nsize = 1048576\nblock_size = 4096\ncache = "write-back"\n'
    chaps = '\n[[iscsi.chap]]\nuser = "joe"\nsecret = "joe"\n\n[iscsi.discovery]\naccounts = ["joe"]\nalgorithms = ["sha3-256"]\n'
    save("settings", "ram-chap", (head + ram + chaps).encode())
    save("settings", "not-text", b"\xff\xfe\x00version = 1\n")


if __name__ == "__main__":
    for make in (pdus, texts, chaps, cdbs, documents):
        make()

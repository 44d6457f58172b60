"""A session of one connection: commands, task management, text, NOP, logout."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from types import TracebackType

from initiator import pdu as wire
from initiator.connection import Connection
from initiator.login import Login, Options
from initiator.pdu import FINAL, NO_TAG, Pdu
from initiator.scsi import Result, parse_sense

# Task management functions.
ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, LUN_RESET, WARM_RESET, COLD_RESET, REASSIGN = range(1, 9)
# Task attributes.
SIMPLE, ORDERED, HEAD_OF_QUEUE = 1, 2, 3


class Rejected(AssertionError):
    """The target sent a Reject where none was expected."""

    def __init__(self, pdu: Pdu) -> None:
        super().__init__(f"reject with reason {pdu.bhs[2]:#x}")
        self.reason = pdu.bhs[2]


@dataclass
class Pending:
    """A command under way."""

    itt: int
    expected_in: int
    out: bytes
    cmd_sn: int = 0
    incoming: bytearray = field(default_factory=bytearray)
    result: Result | None = None
    r2ts: int = 0
    next_data_sn: int = 0
    #: R2Ts are answered at once, unless a test wants to hold the data back.
    hold: bool = False
    held: list[Pdu] = field(default_factory=list)


class Session:
    """A logged-in session. Use as a context manager: it logs out on the way out and closes."""

    def __init__(
        self, host: str, port: int, options: Options, seconds: float = 10.0, source: str | None = None
    ) -> None:
        self.options = options
        #: The LUN that commands go to unless told otherwise.
        self.lun = 1
        self.connection = Connection(host, port, seconds, source)
        try:
            outcome = Login(self.connection, options).run()
        except BaseException:
            self.connection.close()
            raise
        self.keys = outcome.keys
        self.tsih = outcome.tsih
        self.chap_algorithm = outcome.chap_algorithm
        self.cmd_sn = outcome.cmd_sn
        self.exp_stat_sn = outcome.exp_stat_sn
        self.max_cmd_sn = outcome.max_cmd_sn
        self.connection.header_digest = self.keys.get("HeaderDigest") == "CRC32C"
        self.connection.data_digest = self.keys.get("DataDigest") == "CRC32C"
        self.next_tag = 1
        self.pending: dict[int, Pending] = {}
        self.answers: dict[int, Pdu] = {}
        self.rejects: list[Pdu] = []
        self.asyncs: list[Pdu] = []
        self.pings = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.logout()
        except OSError:
            pass
        finally:
            self.connection.close()

    def number(self, key: str) -> int:
        """A negotiated number."""
        return int(self.keys[key])

    # -- sequence numbers --

    def tag(self) -> int:
        """A fresh initiator task tag."""
        value = self.next_tag
        self.next_tag += 1
        return value

    def stamp(self, pdu: Pdu) -> Pdu:
        """Fills in CmdSN and ExpStatSN; CmdSN goes up unless the PDU is immediate."""
        pdu.put(24, self.cmd_sn)
        pdu.put(28, self.exp_stat_sn)
        if not pdu.bhs[0] & wire.IMMEDIATE:
            self.cmd_sn = (self.cmd_sn + 1) & 0xFFFFFFFF
        return pdu

    def note_numbers(self, pdu: Pdu) -> None:
        """Takes StatSN and the command window from a target's PDU."""
        carries_status = pdu.opcode not in (wire.R2T, wire.DATA_IN) or (pdu.opcode == wire.DATA_IN and pdu.flags & 1)
        if pdu.opcode == wire.NOP_IN and pdu.itt == NO_TAG:
            carries_status = False
        if carries_status:
            stat_sn = pdu.u32(24)
            assert stat_sn == self.exp_stat_sn, (
                f"StatSN {stat_sn}, expected {self.exp_stat_sn} (opcode {pdu.opcode:#x})"
            )
            self.exp_stat_sn = (stat_sn + 1) & 0xFFFFFFFF
        max_cmd_sn = pdu.u32(32)
        if ((max_cmd_sn - self.max_cmd_sn) & 0xFFFFFFFF) < 0x80000000:
            self.max_cmd_sn = max_cmd_sn

    def window(self) -> int:
        """How many commands may still be sent."""
        return (self.max_cmd_sn - self.cmd_sn + 1) & 0xFFFFFFFF

    # -- commands --

    def start(
        self,
        cdb: bytes,
        lun: int | None = None,
        out: bytes = b"",
        expect_in: int = 0,
        attribute: int = SIMPLE,
        edtl: int | None = None,
        immediate_data: int | None = None,
        hold: bool = False,
        ahs: bytes = b"",
    ) -> Pending:
        """Sends a command with what data may go unasked; `wait` collects it."""
        lun = self.lun if lun is None else lun
        itt = self.tag()
        length = edtl if edtl is not None else (len(out) or expect_in)
        first = self._unasked(len(out)) if immediate_data is None else immediate_data
        burst = min(self.number("FirstBurstLength"), len(out)) if self.keys["InitialR2T"] == "No" else first
        unsolicited = immediate_data is None and burst > first
        flags = (0x20 if out else 0) | (0x40 if expect_in else 0) | attribute | (0 if unsolicited else FINAL)
        pdu = wire.request(wire.SCSI_COMMAND, flags, itt, lun, out[:first])
        pdu.ahs = ahs
        pdu.put(20, length)
        pdu.bhs[32:48] = cdb[:16] + b"\0" * (16 - len(cdb[:16]))
        task = Pending(itt, expect_in, out, self.cmd_sn, hold=hold)
        self.pending[itt] = task
        self.connection.send(self.stamp(pdu))
        if unsolicited:
            self._send_data(task, NO_TAG, lun, first, burst)
        return task

    def _unasked(self, length: int) -> int:
        if self.keys["ImmediateData"] != "Yes":
            return 0
        return min(length, self.number("FirstBurstLength"), self.number("MaxRecvDataSegmentLength"))

    def _send_data(self, task: Pending, ttt: int, lun: int, begin: int, end: int) -> None:
        segment = self.number("MaxRecvDataSegmentLength")
        data_sn = 0
        while begin < end:
            stop = min(begin + segment, end)
            self.connection.send(self.data_out(task, ttt, lun, begin, stop, data_sn, stop == end))
            begin = stop
            data_sn += 1

    def data_out(self, task: Pending, ttt: int, lun: int, begin: int, end: int, data_sn: int, final: bool) -> Pdu:
        """One Data-Out PDU."""
        pdu = wire.request(wire.DATA_OUT, FINAL if final else 0, task.itt, lun, task.out[begin:end])
        pdu.put(20, ttt).put(28, self.exp_stat_sn).put(36, data_sn).put(40, begin)
        return pdu

    def wait(self, task: Pending, seconds: float | None = None) -> Result:
        """The result of a command."""
        while task.result is None:
            self.pump(seconds)
        del self.pending[task.itt]
        return task.result

    def run(
        self, cdb: bytes, lun: int | None = None, out: bytes = b"", expect_in: int = 0, seconds: float | None = None
    ) -> Result:
        """One command from start to end."""
        return self.wait(self.start(cdb, lun, out, expect_in), seconds)

    def pump(self, seconds: float | None = None) -> Pdu:
        """Reads one PDU and deals with it."""
        pdu = self.connection.receive(seconds)
        self.note_numbers(pdu)
        match pdu.opcode:
            case wire.SCSI_RESPONSE:
                self._finish(pdu)
            case wire.DATA_IN:
                self._data_in(pdu)
            case wire.R2T:
                self._solicited(pdu)
            case wire.NOP_IN if pdu.ttt != NO_TAG:
                self.pings += 1
                self._answer_ping(pdu)
            case wire.REJECT:
                self.rejects.append(pdu)
                raise Rejected(pdu)
            case wire.ASYNC:
                self.asyncs.append(pdu)
            case _:
                self.answers[pdu.itt] = pdu
        return pdu

    def _task(self, pdu: Pdu) -> Pending:
        assert pdu.itt in self.pending, f"opcode {pdu.opcode:#x} for a task {pdu.itt:#x} that is not under way"
        return self.pending[pdu.itt]

    @staticmethod
    def _residual(pdu: Pdu) -> int:
        count = pdu.u32(44)
        if pdu.flags & 2:
            return count
        return -count if pdu.flags & 4 else 0

    def _finish(self, pdu: Pdu) -> None:
        task = self._task(pdu)
        sense = None
        if len(pdu.data) >= 2:
            length = int.from_bytes(pdu.data[:2], "big")
            sense = parse_sense(pdu.data[2 : 2 + length])
        data = bytes(task.incoming)
        task.result = Result(pdu.bhs[3], data, sense, self._residual(pdu), pdu.bhs[2])

    def _data_in(self, pdu: Pdu) -> None:
        task = self._task(pdu)
        offset = pdu.u32(40)
        data_sn = pdu.u32(36)
        assert data_sn == task.next_data_sn, f"DataSN {data_sn}, expected {task.next_data_sn}"
        assert offset == len(task.incoming), f"Data-In at {offset}, expected {len(task.incoming)}"
        assert len(pdu.data) <= int(self.options.keys.get("MaxRecvDataSegmentLength", "262144")), (
            "Data-In over our limit"
        )
        task.next_data_sn += 1
        task.incoming += pdu.data
        assert len(task.incoming) <= task.expected_in, "more Data-In than the command may bring"
        if pdu.flags & 1:
            assert pdu.flags & FINAL, "status in a Data-In that is not final"
            task.result = Result(pdu.bhs[3], bytes(task.incoming), None, self._residual(pdu))

    def _solicited(self, pdu: Pdu) -> None:
        task = self._task(pdu)
        assert pdu.u32(36) == task.r2ts, f"R2TSN {pdu.u32(36)}, expected {task.r2ts}"
        task.r2ts += 1
        length = pdu.u32(44)
        assert 0 < length <= self.number("MaxBurstLength"), f"R2T asks for {length}"
        if task.hold:
            task.held.append(pdu)
        else:
            self.supply(task, pdu)

    def supply(self, task: Pending, r2t: Pdu) -> None:
        """Answers an R2T with its data."""
        begin, length = r2t.u32(40), r2t.u32(44)
        assert begin + length <= len(task.out), f"R2T for {begin}+{length} of {len(task.out)} bytes"
        self._send_data(task, r2t.ttt, wire.decode_lun(bytes(r2t.bhs[8:16])), begin, begin + length)

    def _answer_ping(self, pdu: Pdu) -> None:
        answer = wire.request(wire.NOP_OUT, FINAL, NO_TAG, immediate=True)
        answer.bhs[8:16] = pdu.bhs[8:16]
        answer.put(20, pdu.ttt)
        self.connection.send(self.stamp(answer))

    # -- the rest of the full feature phase --

    def await_answer(self, itt: int, seconds: float | None = None) -> Pdu:
        """The answer to a request that is no SCSI command."""
        while itt not in self.answers:
            self.pump(seconds)
        return self.answers.pop(itt)

    def manage(
        self, function: int, lun: int | None = None, task: Pending | None = None, seconds: float | None = None
    ) -> int:
        """A task management function; returns the response code (0: complete)."""
        return self.await_answer(self.start_manage(function, lun, task), seconds).bhs[2]

    def start_manage(
        self, function: int, lun: int | None = None, task: Pending | None = None, reference: int | None = None
    ) -> int:
        """Sends a task management function, returns its tag. RefCmdSN is the task's own unless given."""
        if reference is None and task is not None:
            reference = task.cmd_sn
        itt = self.tag()
        where = self.lun if lun is None else lun
        pdu = wire.request(wire.TASK_MANAGEMENT, FINAL | function, itt, where, immediate=True)
        pdu.put(20, task.itt if task else NO_TAG)
        pdu.put(32, (self.cmd_sn - 1) & 0xFFFFFFFF if reference is None else reference)
        self.connection.send(self.stamp(pdu))
        return itt

    def ping(self, payload: bytes = b"", seconds: float | None = None) -> bytes:
        """A NOP-Out that asks for an answer; returns the echoed data."""
        itt = self.tag()
        pdu = wire.request(wire.NOP_OUT, FINAL, itt, data=payload, immediate=True)
        self.connection.send(self.stamp(pdu))
        return self.await_answer(itt, seconds).data

    def text(self, keys: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """A text request; continuations of the answer are joined."""
        itt = self.tag()
        pdu = wire.request(wire.TEXT, FINAL, itt, data=wire.encode_keys(keys))
        self.connection.send(self.stamp(pdu))
        collected = b""
        while True:
            answer = self.await_answer(itt)
            collected += answer.data
            if answer.flags & FINAL:
                return wire.decode_keys(collected)
            more = wire.request(wire.TEXT, FINAL, itt)
            more.put(20, answer.ttt)
            self.connection.send(self.stamp(more))

    def logout(self, reason: int = 0) -> int:
        """Closes the session; returns the response code."""
        itt = self.tag()
        pdu = wire.request(wire.LOGOUT, FINAL | reason, itt, immediate=True)
        pdu.bhs[8:16] = bytes(8)
        pdu.put(20, self.options.cid << 16)
        self.connection.send(self.stamp(pdu))
        return self.await_answer(itt).bhs[2]


def discover(host: str, port: int, options: Options, which: str = "All") -> dict[str, list[str]]:
    """A discovery session with one SendTargets; target name -> addresses."""
    options.session_type = "Discovery"
    found: dict[str, list[str]] = {}
    with Session(host, port, options) as session:
        current: list[str] = []
        for key, value in session.text([("SendTargets", which)]):
            if key == "TargetName":
                current = found.setdefault(value, [])
            elif key == "TargetAddress":
                current.append(value)
    return found


def rejected_itt(pdu: Pdu) -> int:
    """The task tag in the header that a Reject quotes."""
    return int(struct.unpack_from(">I", pdu.data, 16)[0])

"""The login phase: security and operational negotiation, with every step open to a test."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field

from initiator import chap
from initiator.chap import Credentials
from initiator.connection import Connection
from initiator.pdu import LOGIN, LOGIN_RESPONSE, REJECT, Pdu, decode_keys, encode_keys

SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3

STATUS = {
    0x0000: "success",
    0x0101: "target moved temporarily",
    0x0102: "target moved permanently",
    0x0200: "initiator error",
    0x0201: "authentication failure",
    0x0202: "authorization failure",
    0x0203: "not found",
    0x0204: "target removed",
    0x0205: "unsupported version",
    0x0206: "too many connections",
    0x0207: "missing parameter",
    0x0208: "can't include in session",
    0x0209: "session type not supported",
    0x020A: "session does not exist",
    0x020B: "invalid during login",
    0x0300: "target error",
    0x0301: "service unavailable",
    0x0302: "out of resources",
}


class LoginFailed(Exception):
    """The target refused, with its status class and detail as one number."""

    def __init__(self, status: int, step: str = "") -> None:
        super().__init__(f"login refused with {status:#06x} ({STATUS.get(status, 'unknown')}) {step}")
        self.status = status


class WrongProof(AssertionError):
    """The target's own CHAP response was not right."""


@dataclass
class Options:
    """How to log in."""

    initiator: str
    target: str | None = None
    isid: bytes = b"\x80\0\0\0\0\x01"
    tsih: int = 0
    cid: int = 0
    session_type: str = "Normal"
    credentials: Credentials | None = None
    #: Operational keys offered; later ones win over `DEFAULTS`.
    keys: dict[str, str] = field(default_factory=dict)
    alias: str | None = None


DEFAULTS = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "MaxConnections": "1",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "262144",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "MaxOutstandingR2T": "8",
    "DefaultTime2Wait": "0",
    "DefaultTime2Retain": "0",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
}

#: Keys that only a normal session negotiates.
_NORMAL_ONLY = {
    "MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T",
    "DataPDUInOrder", "DataSequenceInOrder",
}  # fmt: skip


@dataclass
class Outcome:
    """What a login brought."""

    keys: dict[str, str]
    tsih: int
    exp_stat_sn: int
    cmd_sn: int
    max_cmd_sn: int
    chap_algorithm: int | None = None


class Login:
    """One login on a connection. `run` does it properly; `step` sends one request and returns the answer."""

    def __init__(self, connection: Connection, options: Options) -> None:
        self.connection = connection
        self.options = options
        self.itt = struct.unpack(">I", os.urandom(4))[0] & 0x7FFFFFFF
        self.cmd_sn = 1
        self.exp_stat_sn = 0
        self.answered: dict[str, str] = {}
        self.last: Pdu | None = None
        self.algorithm: int | None = None

    def request(self, csg: int, nsg: int, transit: bool, data: bytes, more: bool = False) -> Pdu:
        """A login request PDU."""
        options = self.options
        pdu = Pdu(data=data)
        pdu.bhs[0] = 0x40 | LOGIN
        pdu.bhs[1] = (0x80 if transit else 0) | (0x40 if more else 0) | (csg << 2) | (nsg if transit else 0)
        pdu.bhs[8:14] = options.isid
        pdu.bhs[14:16] = options.tsih.to_bytes(2, "big")
        pdu.put(16, self.itt)
        pdu.bhs[20:22] = options.cid.to_bytes(2, "big")
        pdu.put(24, self.cmd_sn)
        pdu.put(28, self.exp_stat_sn)
        return pdu

    def step(self, csg: int, nsg: int, transit: bool, keys: list[tuple[str, str]]) -> dict[str, str]:
        """Sends keys, returns the target's (continuations joined). Raises `LoginFailed` on a refusal."""
        self.connection.send(self.request(csg, nsg, transit, encode_keys(keys)))
        return self.answer(csg)

    def answer(self, csg: int) -> dict[str, str]:
        """Reads the answer to a request, asking on while the target says that more comes."""
        text = b""
        while True:
            pdu = self.connection.receive()
            if pdu.opcode == REJECT:
                raise LoginFailed(0x0200, f"by a reject with reason {pdu.bhs[2]:#x}")
            assert pdu.opcode == LOGIN_RESPONSE, f"opcode {pdu.opcode:#x} in login"
            self.last = pdu
            status = int.from_bytes(pdu.bhs[36:38], "big")
            if status:
                raise LoginFailed(status, f"in stage {csg}")
            assert pdu.itt == self.itt, "login response with another task tag"
            self.exp_stat_sn = (pdu.u32(24) + 1) & 0xFFFFFFFF
            text += pdu.data
            if not pdu.flags & 0x40:
                break
            self.connection.send(self.request(csg, 0, False, b""))
        keys = dict(decode_keys(text))
        self.answered.update(keys)
        return keys

    def transited(self) -> bool:
        """Whether the last answer moved to the next stage."""
        assert self.last is not None
        return bool(self.last.flags & 0x80)

    def first_keys(self) -> list[tuple[str, str]]:
        """The keys that open a login."""
        options = self.options
        keys = [("InitiatorName", options.initiator)]
        if options.alias:
            keys.append(("InitiatorAlias", options.alias))
        if options.target is not None:
            keys.append(("TargetName", options.target))
        keys.append(("SessionType", options.session_type))
        return keys

    def run(self) -> Outcome:
        """The whole login."""
        offered = "CHAP,None" if self.options.credentials else "None"
        keys = [*self.first_keys(), ("AuthMethod", offered)]
        answer = self.step(SECURITY, OPERATIONAL, self.options.credentials is None, keys)
        method = answer.get("AuthMethod")
        if method == "CHAP":
            self.prove()
        elif not self.transited():
            self.step(SECURITY, OPERATIONAL, True, [])
        self.negotiate()
        return self.outcome()

    def prove(self) -> None:
        """The CHAP exchange."""
        credentials = self.options.credentials
        assert credentials is not None
        offered = ",".join(str(number) for number in credentials.algorithms)
        answer = self.step(SECURITY, 0, False, [("CHAP_A", offered)])
        self.algorithm = int(answer["CHAP_A"])
        assert self.algorithm in credentials.algorithms, f"target chose CHAP_A={self.algorithm}, offered {offered}"
        challenge = chap.read(answer["CHAP_C"])
        identifier = int(answer["CHAP_I"], 0)
        proof = chap.digest(self.algorithm, identifier, credentials.secret.encode(), challenge)
        keys = [("CHAP_N", credentials.user), ("CHAP_R", chap.spell(proof, credentials.spelling))]
        mine = os.urandom(16)
        mine_id = os.urandom(1)[0]
        if credentials.mutual_secret is not None:
            keys += [("CHAP_I", str(mine_id)), ("CHAP_C", chap.spell(mine, credentials.spelling))]
        answer = self.step(SECURITY, OPERATIONAL, True, keys)
        if credentials.mutual_secret is not None:
            wanted = chap.digest(self.algorithm, mine_id, credentials.mutual_secret.encode(), mine)
            if "CHAP_R" not in answer or chap.read(answer["CHAP_R"]) != wanted:
                raise WrongProof(f"target's proof is wrong or missing: {answer}")
            if credentials.mutual_user is not None and answer.get("CHAP_N") != credentials.mutual_user:
                raise WrongProof(f"target calls itself {answer.get('CHAP_N')!r}")
        if not self.transited():
            self.step(SECURITY, OPERATIONAL, True, [])

    def offer(self) -> dict[str, str]:
        """The operational keys that are offered."""
        keys = {**DEFAULTS, **self.options.keys}
        if self.options.session_type == "Discovery":
            keys = {key: value for key, value in keys.items() if key not in _NORMAL_ONLY}
        return keys

    def negotiate(self) -> None:
        """Operational negotiation up to the full feature phase."""
        self.step(OPERATIONAL, FULL_FEATURE, True, list(self.offer().items()))
        for _ in range(4):
            if self.transited():
                return
            self.step(OPERATIONAL, FULL_FEATURE, True, [])
        raise AssertionError("target never went on to the full feature phase")

    def outcome(self) -> Outcome:
        """The figures of a finished login."""
        assert self.last is not None
        last = self.last
        return Outcome(
            keys=self.settled(),
            tsih=int.from_bytes(last.bhs[14:16], "big"),
            exp_stat_sn=self.exp_stat_sn,
            cmd_sn=self.cmd_sn,
            max_cmd_sn=last.u32(32),
            chap_algorithm=self.algorithm,
        )

    def settled(self) -> dict[str, str]:
        """Each key's result: the answer where one came, else what was offered."""
        keys = {**self.offer(), **self.answered}
        # Declarations: the target's own MaxRecvDataSegmentLength limits what we send.
        keys["MaxRecvDataSegmentLength"] = self.answered.get("MaxRecvDataSegmentLength", "8192")
        return keys

"""CHAP's arithmetic: hashes under their assigned numbers, hexadecimal and base64 values."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

ALGORITHMS = {"md5": 5, "sha1": 6, "sha256": 7, "sha3-256": 8}
_HASHES = {5: "md5", 6: "sha1", 7: "sha256", 8: "sha3_256"}


@dataclass(frozen=True)
class Credentials:
    """What an initiator knows: its own account, and the target's when it wants proof of it."""

    user: str
    secret: str
    mutual_user: str | None = None
    mutual_secret: str | None = None
    #: Numbers offered in CHAP_A, best first.
    algorithms: tuple[int, ...] = (5,)
    #: "hex" or "base64": how the response is spelt.
    spelling: str = "hex"


def digest(algorithm: int, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """The response to a challenge (RFC 1994, with other hashes under RFC 7143's rules)."""
    return hashlib.new(_HASHES[algorithm], bytes((identifier,)) + secret + challenge).digest()


def spell(value: bytes, spelling: str = "hex") -> str:
    """A binary value as text."""
    if spelling == "base64":
        return "0b" + base64.b64encode(value).decode()
    return "0x" + value.hex()


def read(text: str) -> bytes:
    """A binary value from its text."""
    if text[:2].lower() == "0b":
        return base64.b64decode(text[2:])
    if text[:2].lower() == "0x":
        digits = text[2:]
        return bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
    raise ValueError(f"neither 0x nor 0b: {text!r}")

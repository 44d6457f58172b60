"""One TCP connection: whole PDUs in and out, raw bytes for malice, every wait bounded."""

from __future__ import annotations

import socket
import struct
import time

from initiator.crc32c import crc32c
from initiator.pdu import BHS, Pdu


class Closed(ConnectionError):
    """The target closed or reset the connection."""


class Silent(TimeoutError):
    """Nothing came within the bound."""


class DigestMismatch(AssertionError):
    """The target sent a wrong digest."""


class Connection:
    """A byte stream cut into PDUs."""

    def __init__(self, host: str, port: int, seconds: float = 10.0, source: str | None = None) -> None:
        self.seconds = seconds
        self.header_digest = False
        self.data_digest = False
        self._buffer = bytearray()
        origin = (source, 0) if source else None
        self.socket = socket.create_connection((host, port), timeout=seconds, source_address=origin)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Ends the connection without a word."""
        self.socket.close()

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, pdu: Pdu) -> None:
        """Sends a PDU with the digests in force."""
        self.send_raw(pdu.encode(self.header_digest, self.data_digest))

    def send_raw(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.socket.settimeout(self.seconds)
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise Silent(f"target took no bytes for {self.seconds:g} s") from None
        except OSError as problem:
            raise Closed(str(problem)) from problem

    def receive(self, seconds: float | None = None) -> Pdu:
        """The next PDU."""
        deadline = time.monotonic() + (self.seconds if seconds is None else seconds)
        header = self._take(BHS, deadline)
        ahs_length = header[4] * 4
        ahs = self._take(ahs_length, deadline)
        if self.header_digest:
            self._check(header + ahs, self._take(4, deadline), "header")
        length = int.from_bytes(header[5:8], "big")
        data = b""
        if length:
            padded = self._take(length + -length % 4, deadline)
            if self.data_digest:
                self._check(padded, self._take(4, deadline), "data")
            data = padded[:length]
        return Pdu(bytearray(header), ahs, data)

    def at_end(self, seconds: float = 5.0) -> bool:
        """Whether the target closes the connection within the bound; PDUs before that are read and dropped."""
        deadline = time.monotonic() + seconds
        try:
            while True:
                self._more(deadline)
                self._buffer.clear()
        except Closed:
            return True
        except Silent:
            return False

    @staticmethod
    def _check(covered: bytes, seen: bytes, what: str) -> None:
        if struct.unpack("<I", seen)[0] != crc32c(covered):
            raise DigestMismatch(f"wrong {what} digest from the target")

    def _take(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) < count:
            self._more(deadline)
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _more(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Silent("nothing from the target within the bound")
        self.socket.settimeout(left)
        try:
            piece = self.socket.recv(1 << 18)
        except TimeoutError:
            raise Silent("nothing from the target within the bound") from None
        except OSError as problem:
            raise Closed(str(problem)) from problem
        if not piece:
            raise Closed("the target closed the connection")
        self._buffer += piece

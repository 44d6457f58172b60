"""What a test asks a server under test to serve, in the settings document's own words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Device:
    """What backs a LUN. `path` is chosen by the server unless given."""

    name: str
    size: int = 32 * MIB
    kind: str = "image"
    block_size: int = 512
    thin: bool = True
    read_only: bool = False
    removable: bool = False
    cache: str = "none"
    path: Path | None = None
    #: Initiators are told of physical blocks larger than the logical ones.
    physical_blocks: bool = True

    def resized(self, size: int) -> Device:
        """The same device with another size."""
        return replace(self, size=size)


@dataclass(frozen=True)
class Lun:
    """A device under a number."""

    number: int
    device: Device
    read_only: bool = False


@dataclass(frozen=True)
class Account:
    """A CHAP user with its secret."""

    user: str
    secret: str


@dataclass(frozen=True)
class Authentication:
    """Who must prove what at login. No accounts: nothing is asked."""

    accounts: tuple[Account, ...] = ()
    mutual: Account | None = None
    mutual_required: bool = False
    algorithms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """Initiator x network x portal -> action, in order."""

    initiator: str = "*"
    network: str | None = None
    portal: str | None = None
    action: str = "allow"
    luns: tuple[tuple[int, int], ...] | None = None
    authentication: Authentication | None = None


@dataclass(frozen=True)
class Target:
    """A target with its LUNs and rules."""

    name: str
    luns: tuple[Lun, ...] = ()
    authentication: Authentication = field(default_factory=Authentication)
    access: tuple[Rule, ...] = (Rule(),)
    allow_multiple: bool = True
    portals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Portal:
    """An address and port that accepts connections."""

    name: str
    address: str
    port: int
    group: int = 1
    enabled: bool = True

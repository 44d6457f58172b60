"""What the guest cases share: kernel, initramfs, log-in settings."""

from __future__ import annotations

import functools
from pathlib import Path

from guest import image, kernel
from guest.kernel import Kernel
from harness import ports
from harness.model import Account
from harness.runner import Context

CACHE = Path(__file__).resolve().parents[2] / "target" / "guest"


@functools.cache
def debian_kernel() -> Kernel:
    """The kernel, downloaded on first use."""
    return kernel.ensure(CACHE / "kernel")


def initramfs(context: Context, count: int = 1) -> list[Path]:
    """An initramfs for each of `count` guests, every one with an initiator name of its own."""
    names = [ports.iqn(f"guest{index}") for index in range(count)]
    return [image.build(debian_kernel(), context.directory, name) for name in names]


def chap_settings(account: Account, mutual: Account | None = None, algorithms: str = "MD5") -> dict[str, str]:
    """open-iscsi's settings for CHAP."""
    settings = {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": account.user,
        "node.session.auth.password": account.secret,
        "node.session.auth.chap_algs": algorithms,
    }
    if mutual is not None:
        settings["node.session.auth.username_in"] = mutual.user
        settings["node.session.auth.password_in"] = mutual.secret
    return settings

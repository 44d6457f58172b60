"""Debian's cloud kernel, unpacked and not installed, and its modules in loading order."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from pathlib import Path

META_PACKAGE = "linux-image-cloud-amd64"


class Kernel:
    """An unpacked kernel package."""

    def __init__(self, root: Path) -> None:
        self.image = next(iter(sorted(root.glob("boot/vmlinuz-*"))))
        self.release = self.image.name.removeprefix("vmlinuz-")
        trees = [root / "lib/modules" / self.release, root / "usr/lib/modules" / self.release]
        self.modules = next(tree for tree in trees if tree.is_dir())
        builtin = (self.modules / "modules.builtin").read_text().splitlines()
        self._builtin = {_canonical(Path(line).name) for line in builtin}
        self._files = {_canonical(path.name): path for path in self.modules.rglob("*.ko*")}

    def load_order(self, wanted: list[str]) -> list[tuple[str, bytes]]:
        """The modules and all they depend on, dependencies first; what is built in is left out."""
        order: list[tuple[str, bytes]] = []
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name in seen or name in self._builtin:
                return
            seen.add(name)
            content = self._read(name)
            found = re.search(rb"\0depends=([^\0]*)\0", content)
            for needed in found.group(1).decode().split(",") if found else []:
                if needed:
                    visit(_canonical(needed))
            order.append((name, content))

        for name in wanted:
            visit(_canonical(name))
        return order

    def _read(self, name: str) -> bytes:
        path = self._files.get(name)
        if path is None:
            raise AssertionError(f"kernel {self.release} has no module {name}")
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data


def _canonical(name: str) -> str:
    return name.split(".ko")[0].replace("-", "_")


def _package() -> str:
    """The package that the meta package stands for today."""
    done = subprocess.run(
        ["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, timeout=60, check=True
    )
    found = re.search(r"Depends: (linux-image-\S+)", done.stdout)
    if found is None:
        raise AssertionError(f"apt knows no {META_PACKAGE}: run apt-get update")
    return found.group(1)


def ensure(cache: Path) -> Kernel:
    """The kernel in `cache`, downloaded first when it is not there."""
    ready = cache / "complete"
    if not ready.exists():
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        subprocess.run(
            ["apt-get", "-o", "APT::Sandbox::User=root", "download", _package()],
            cwd=cache, capture_output=True, timeout=300, check=True,
        )  # fmt: skip
        package = next(cache.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(cache)], timeout=120, check=True)
        package.unlink()
        ready.touch()
    return Kernel(cache)

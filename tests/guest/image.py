"""Packs the initramfs: busybox, kernel modules, open-iscsi, sg3-utils, mkfs, the writer."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from guest.kernel import Kernel
from guest.newc import Archive

HERE = Path(__file__).parent
MODULES = ["virtio_pci", "virtio_net", "sd_mod", "sr_mod", "sg", "iscsi_tcp", "isofs", "udf", "ext4"]
PROGRAMS = ["iscsid", "iscsiadm", "sg_persist", "sg_inq", "sg_readcap", "mkfs.ext4", "e2fsck"]
APPLETS = (
    "sh cat cp cut dd df dmesg echo grep head hostname ifconfig insmod kill ls md5sum mkdir mount mv ps reboot "
    "poweroff printf rm sed seq sha256sum sleep stty sync tail test touch tr true umount usleep wc blockdev"
).split()

_INIT = """#!/bin/sh
# Brings the guest up, starts the agent, and from then on only collects processes that lost their parent.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mkdir -p /run/lock/iscsi /var/lib/iscsi /mnt /tmp
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
ifconfig lo up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
hostname guest
sh /agent &
while :; do wait; sleep 1; done
"""

# A shell of its own, whose only children are those it waits for: busybox's `read` starts over, losing what it has
# read of a line, when a child ends meanwhile. Background jobs of commands become children of process 1.
_AGENT = """# Serves commands, one a line, on the second serial port.
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
echo "READY" >&3
while read -r id line <&3; do
    ( eval "$line" ) </dev/null >/tmp/out.$id 2>&1
    code=$?
    { sed "s/^/$id /" /tmp/out.$id; echo; echo "END $id $code"; } >&3
    rm -f /tmp/out.$id
done
"""

_ISCSID_CONF = """iscsid.startup = /bin/true
node.startup = manual
node.session.timeo.replacement_timeout = 120
node.conn[0].timeo.login_timeout = 15
node.conn[0].timeo.noop_out_interval = 5
node.conn[0].timeo.noop_out_timeout = 5
node.session.initial_login_retry_max = 8
node.session.cmds_max = 128
node.session.queue_depth = 32
node.session.iscsi.InitialR2T = No
node.session.iscsi.ImmediateData = Yes
node.session.iscsi.FirstBurstLength = 262144
node.session.iscsi.MaxBurstLength = 16776192
node.conn[0].iscsi.MaxRecvDataSegmentLength = 262144
node.session.scan = auto
"""


def libraries(program: Path) -> list[Path]:
    """The shared libraries a program needs, with its loader."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=30, check=False)
    return [Path(found) for found in re.findall(r"(/\S+)", done.stdout) if ".so" in found]


def find(program: str) -> Path:
    """Where a program of this machine is."""
    found = shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise AssertionError(f"{program} is not installed: run `cargo xtask test` as root once")
    return Path(found)


def build_writer(directory: Path) -> Path:
    """Compiles the block writer, statically, with the toolchain of the workspace."""
    binary = directory / "writer"
    if not binary.exists():
        command = ["rustc", "--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o", str(binary)]
        subprocess.run([*command, str(HERE / "writer.rs")], timeout=120, check=True)
    return binary


def build(kernel: Kernel, directory: Path, initiator: str) -> Path:
    """Writes an initramfs for a guest with this initiator name."""
    archive = Archive()
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "root", "var/lib/iscsi", "etc/iscsi"):
        archive.directory(name)
    archive.node("dev/console", 5, 1)
    archive.copy(find("busybox"), "bin/busybox")
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "/bin/busybox")
    for program in PROGRAMS:
        path = find(program)
        archive.copy(path, f"sbin/{program}")
        for library in libraries(path):
            archive.copy(library)
    archive.copy(build_writer(directory), "bin/writer")
    order = kernel.load_order(MODULES)
    for name, content in order:
        archive.file(f"modules/{name}.ko", content)
    archive.file("modules/order", "\n".join(name for name, _ in order).encode())
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    archive.file("etc/iscsi/initiatorname.iscsi", f"InitiatorName={initiator}\n".encode())
    archive.file("etc/iscsi/iscsid.conf", _ISCSID_CONF.encode())
    archive.link("etc/mtab", "/proc/mounts")
    archive.file("init", _INIT.encode(), 0o755)
    archive.file("agent", _AGENT.encode())
    path = directory / f"{re.sub(r'[^a-z0-9]+', '-', initiator)}.cpio"
    path.write_bytes(archive.bytes())
    return path

"""A real kernel initiator: Debian's kernel with open-iscsi in a tiny initramfs under QEMU's TCG."""

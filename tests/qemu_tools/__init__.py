"""Programs that people have: iscsi-ls, qemu-img, and what `cargo xtask up` starts."""

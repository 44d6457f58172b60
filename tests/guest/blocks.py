"""The host's side of `writer.rs`: what each slot must hold."""

from __future__ import annotations

import struct

BLOCK = 4096
_MASK = 0xFFFFFFFFFFFFFFFF


def content(seed: int, number: int) -> bytes:
    """Block `number` of a writer."""
    words = [seed, number]
    state = seed ^ (number * 0x9E3779B97F4A7C15 & _MASK)
    for _ in range((BLOCK - 16) // 8):
        state ^= state << 13 & _MASK
        state ^= state >> 7
        state ^= state << 17 & _MASK
        words.append(state)
    return struct.pack(f"<{len(words)}Q", *words)


def check(image: bytes, seed: int, span: int, acknowledged: int, started: int) -> list[str]:
    """Compares the device with the record: blocks up to `acknowledged` were acknowledged, none past `started` began.

    A slot must hold its newest acknowledged block, or a later one that was under way; never an older one, never a
    mixture.
    """
    wrong = []
    for slot in range(min(span, started + 1)):
        held = image[slot * BLOCK : (slot + 1) * BLOCK]
        owner, number = struct.unpack_from("<QQ", held)
        newest = acknowledged - (acknowledged - slot) % span if acknowledged >= slot else None
        if newest is None and not any(held):
            continue
        if owner != seed or number % span != slot:
            wrong.append(f"slot {slot}: holds seed {owner:#x} block {number}, not a block of this slot")
        elif held != content(seed, number):
            wrong.append(f"slot {slot}: block {number} is torn or damaged")
        elif newest is not None and number < newest:
            wrong.append(f"slot {slot}: holds block {number}, but {newest} was acknowledged")
        elif number > started:
            wrong.append(f"slot {slot}: holds block {number}, which was never begun")
    return wrong

"""What zlib takes and saves by the size of a payload: what the default of `compress_above` was chosen by.

    python benches/compression.py

A row is one kind of payload at one size: its encoded bytes, the share that is left, and the microseconds of compressing
and of expanding it, the best of 40 turns.
"""

from __future__ import annotations

import random
import string
import time
import zlib
from collections.abc import Callable
from typing import Any

from raftwork import serde
from raftwork.codecs import LEVEL

SIZES = (256, 512, 1_024, 2_048, 4_096, 16_384, 65_536)
dice = random.Random(7)
WORDS = ["".join(dice.choices(string.ascii_lowercase, k=dice.randint(3, 9))) for _ in range(800)]


def record() -> dict[str, Any]:
    """A customer, as an application would pass it."""
    return {
        "id": dice.randrange(10**9),
        "email": f"{dice.choice(WORDS)}.{dice.choice(WORDS)}@example.org",
        "name": " ".join(dice.choices(WORDS, k=2)),
        "address": {"street": " ".join(dice.choices(WORDS, k=2)), "city": dice.choice(WORDS), "zip": "10115"},
        "amount": dice.random() * 1_000,
        "tags": dice.choices(WORDS[:20], k=3),
    }


def microseconds(call: Callable[[], object], size: int) -> float:
    turns = max(2, 100_000 // size)
    best = float("inf")
    for _ in range(40):
        started = time.perf_counter()
        for _ in range(turns):
            call()
        best = min(best, (time.perf_counter() - started) / turns)
    return best * 1e6


def main() -> None:
    makers: dict[str, Callable[[int], Any]] = {
        "records": lambda size: [record() for _ in range(max(1, size // 170))],
        "text": lambda size: " ".join(dice.choices(WORDS, k=size // 7)),
        "noise": dice.randbytes,
    }
    print(f"{'payload':<9}{'bytes':>8}{'left':>7}{'compress':>10}{'expand':>8}")
    for name, make in makers.items():
        for size in SIZES:
            packed = serde.encode(make(size))
            small = zlib.compress(packed, LEVEL)
            there = microseconds(lambda packed=packed: zlib.compress(packed, LEVEL), size)  # type: ignore[misc]
            back = microseconds(lambda small=small: zlib.decompress(small), size)  # type: ignore[misc]
            print(f"{name:<9}{len(packed):>8,}{len(small) / len(packed):>7.0%}{there:>10.1f}{back:>8.1f}")


if __name__ == "__main__":
    main()

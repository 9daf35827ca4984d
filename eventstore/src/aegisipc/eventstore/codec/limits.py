"""How much a payload may ask of the process that decodes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of decoding; a payload over any of them raises `LimitExceeded`.

    ``max_objects`` bounds the containers and extension values of one payload together: an empty map takes
    one byte on the wire and seventy in memory. ``max_same_hash`` bounds how many members of one set, or
    keys of one map, may share a hash: with more, building it takes quadratic time.
    """

    max_bytes: int = 8 * 1024 * 1024
    max_depth: int = 64
    max_items: int = 1_000_000
    max_objects: int = 1_000_000
    max_number_bytes: int = 64 * 1024
    max_same_hash: int = 64


DEFAULT_LIMITS = Limits()

BODY_LIMITS = Limits(max_bytes=1 << 30)
"""For arguments and results: how large they may be is decided where they are stored."""

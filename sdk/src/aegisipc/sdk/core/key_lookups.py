"""What whoever grants idempotency keys needs, in a group as in a pool: a call's key and payload in short, and
what was read in segments of the index.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.keys import Elsewhere, KeyOwner, key_hash, payload_digest
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.eventstore.references import reference_in

MAX_ANSWERS: Final = 10_000
"""Answers from segments that are remembered."""


class Lookup(NamedTuple):
    """Which of these segments (by their sequences, newest first) tells who has a key, by its hash?"""

    key: bytes
    segments: tuple[int, ...]


class Answers:
    """The latest answers. One is of use as long as the same segments are to be asked."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[tuple[int, ...], KeyOwner | None]] = OrderedDict()

    def remember(self, lookup: Lookup, owner: KeyOwner | None) -> None:
        """Segments were read."""
        self._kept[lookup.key] = (lookup.segments, owner)
        self._kept.move_to_end(lookup.key)
        if len(self._kept) > MAX_ANSWERS:
            self._kept.popitem(last=False)

    def instead_of(self, key: bytes, found: KeyOwner | Elsewhere | None) -> KeyOwner | Elsewhere | None:
        """Return who has a key if what the index `found` is segments that were read already, else that."""
        if isinstance(found, Elsewhere):
            segments, answer = self._kept.get(key, ((), None))
            if segments == tuple(found.segments):
                return answer
        return found


def key_of(call: OpenCall) -> bytes:
    """Return the hash of a call's key."""
    return key_hash(call.key or "")


def digest_of(call: OpenCall) -> bytes:
    """Return the digest of what a call asks for."""
    try:
        reference = reference_in(call.body)
    except MalformedPayload:  # whoever runs the call will find that out
        reference = None
    body = call.body if reference is None else reference.sha256
    return payload_digest(call.method, call.resource, body)

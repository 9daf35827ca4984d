"""Call ids: UUIDv7 (RFC 9562), so an id says when its call was made and can be found by seeking in the log.

Layout, most significant bit first: 48 bits of Unix milliseconds (on the server's clock, as estimated),
version 7, 12 bits of counter, variant, 20 more bits of counter, 42 bits that name the session. The 32-bit
counter goes on counting within a session, so ids of one session are strictly increasing even when its clock
stands still or steps back.
"""

from __future__ import annotations

import hashlib
import uuid

from aegisipc.eventstore.errors import MalformedPayload

type CallId = bytes
"""Sixteen bytes; compare as bytes, show with :func:`format_call_id`."""

SESSION_BITS = 42
_COUNTER_MASK = (1 << 32) - 1
_VERSION = 7 << 76
_VARIANT = 0b10 << 62
_MS_MASK = (1 << 48) - 1


def session_of(incarnation: str) -> int:
    """Return the session in which an incarnation of an instance writes its pen frames: so they tell which run
    of it wrote them.
    """
    return int.from_bytes(hashlib.sha256(incarnation.encode()).digest()) >> (256 - SESSION_BITS)


class CallIds:
    """Makes the ids of one session. Pure: randomness and time come in as arguments."""

    __slots__ = ("_counter", "_last_ms", "_session")

    def __init__(self, session: int) -> None:
        self._session = session & ((1 << SESSION_BITS) - 1)
        self._counter = 0
        self._last_ms = 0

    def next(self, now_ms: int) -> CallId:
        """Return the next id. `now_ms`: Unix time in milliseconds."""
        self._last_ms = max(self._last_ms, now_ms)
        self._counter = counter = (self._counter + 1) & _COUNTER_MASK
        if counter == 0:  # 2^32 ids: go on in the next millisecond, so that ids keep rising
            self._last_ms += 1
        return (
            (self._last_ms & _MS_MASK) << 80
            | _VERSION
            | (counter >> 20) << 64
            | _VARIANT
            | (counter & 0xFFFFF) << SESSION_BITS
            | self._session
        ).to_bytes(16)


def time_of(call_id: CallId) -> int:
    """Return the Unix time in milliseconds at which `call_id` was made (by its maker's estimate of the
    server's clock).
    """
    return int.from_bytes(call_id[:6])


def format_call_id(call_id: CallId) -> str:
    """Return the id in the usual UUID form."""
    return str(uuid.UUID(bytes=call_id))


def parse_call_id(text: str) -> CallId:
    """Read an id from its UUID form.

    Raises:
        MalformedPayload: when it is not a UUID of version 7.
    """
    try:
        value = uuid.UUID(text)
    except (ValueError, AttributeError, TypeError):
        value = None
    if value is None or value.version != 7 or str(value) != text.lower():  # no braces, no urn:, no gaps
        raise MalformedPayload(
            f"cannot read {text!r:.80} as a call id: give a UUID of version 7, as submit() returned it"
        )
    return value.bytes

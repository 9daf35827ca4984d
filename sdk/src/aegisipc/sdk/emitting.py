"""What a handler emits while it runs, gathered for the frame of its outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NoReturn

from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.sdk.errors import EmitLimitExceeded, EmitRefused
from aegisipc.sdk.state import SharedState

MAX_EVENTS: Final = 256
MAX_EMITTED_BYTES: Final = 256 * 1024
"""Of one call, as encoded. All of it travels in one frame, with the outcome."""

ENTRY_BYTES: Final = 32
"""What an entry of a frame takes beside its body, at most."""


class Emitter:
    """The events of one call. Safe to use from several threads; closed by :meth:`end`."""

    __slots__ = ("_bodies", "_has_ended", "_lock", "_size", "_state", "_target")

    def __init__(self, state: SharedState, target: str) -> None:
        self._state = state
        self._target = target
        self._bodies: list[bytes] = []
        self._size = 0
        self._has_ended = False
        self._lock = threading.Lock()

    def emit(self, event: object, name: str | None = None) -> None:
        """Check, encode and keep an event.

        Raises:
            EmitRefused: nothing applies it, it is not valid, or the handler has ended.
            EmitLimitExceeded: there are too many, or too large ones.
        """
        body = self._state.encode(event, name)
        with self._lock:
            if self._has_ended:
                raise EmitRefused(
                    f"cannot emit {type(event).__name__}: the handler of {self._target} has ended, and what "
                    "it emitted went with its outcome; await all it started before it returns"
                )
            size = self._size + len(body)
            if len(self._bodies) >= MAX_EVENTS or size > MAX_EMITTED_BYTES:
                raise EmitLimitExceeded(
                    f"cannot emit another event in one call of {self._target}: the limit is {MAX_EVENTS} "
                    f"events and {MAX_EMITTED_BYTES} bytes; emit one that says it all, or make several calls",
                    limit_events=MAX_EVENTS,
                    limit_bytes=MAX_EMITTED_BYTES,
                )
            self._bodies.append(body)
            self._size = size

    def end(self) -> tuple[bytes, ...]:
        """Take no more; return what was emitted, in order."""
        with self._lock:
            self._has_ended = True
            return tuple(self._bodies)


def refusing(service: str, group: str) -> Callable[[object, str | None], NoReturn]:
    """Return what takes the place of :meth:`Emitter.emit` where no state is shared."""

    def refuse(event: object, name: str | None) -> NoReturn:
        kind = type(event).__name__
        why = (
            "instances of a pool share no state; run the service with resources"
            if group == POOL_GROUP
            else f"its instances share no state; add functions with @{service}.on({kind}), "
            f"@{service}.snapshot and @{service}.restore"
        )
        raise EmitRefused(f"cannot emit {name or kind} in service {service!r}: {why}", event=name or kind)

    return refuse


def size_bytes(body: bytes, emitted: tuple[bytes, ...]) -> int:
    """Return what an outcome and the events that go with it take of a frame."""
    return len(body) + sum(len(event) + ENTRY_BYTES for event in emitted)

"""What a connection reports about itself. Facts, in the order in which they happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from .options import ServerInfo

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Connected:
    """A session is established and every subscription is in force on it. The first has generation 1."""

    generation: int
    server: ServerInfo


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A session ended; requests in flight have failed with ``AckUnknown``. A new one is being made."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReconnectFailed:
    """An attempt to make a new session failed for a reason other than the previous attempt's; it goes
    on.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class SlowConsumer:
    """A subscription's queue is full and messages were dropped: ``dropped`` since it was made."""

    subject: str
    dropped: int


@dataclass(frozen=True, slots=True)
class SubjectRefused:
    """The server refused this user a subject. ``operation`` is ``publish`` or ``subscription``.

    ``subject`` is in lower case: nats-py passes the server's words on that way.
    """

    operation: str
    subject: str


@dataclass(frozen=True, slots=True)
class CallbackFailed:
    """A subscription's callback raised; the subscription goes on with the next message."""

    subject: str
    error: BaseException


type Event = Connected | Disconnected | ReconnectFailed | SlowConsumer | SubjectRefused | CallbackFailed
type EventCallback = Callable[[Event], None]


class Listeners:
    """Callbacks that are told of each event; one that raises is reported and does not disturb the
    others.
    """

    def __init__(self) -> None:
        self._callbacks: dict[object, EventCallback] = {}

    def add(self, callback: EventCallback) -> Callable[[], None]:
        """Register ``callback``; the returned function removes it again (and may be called twice)."""
        key = object()
        self._callbacks[key] = callback

        def remove() -> None:
            self._callbacks.pop(key, None)

        return remove

    def emit(self, event: Event) -> None:
        """Tell every listener, in the order of registration."""
        for callback in list(self._callbacks.values()):
            try:
                callback(event)
            except Exception:  # noqa: BLE001 - a listener's fault must not end the supervision
                _log.exception("event callback failed", nats_event=repr(event))

"""The log: one totally ordered, durable sequence of records. Everything else is a fold of it.

Two implementations pass the same contract suite: :class:`~aegisipc.eventstore.jetstream.JetStreamLog` and,
for the pure core's tests and for simulation, :class:`~aegisipc.eventstore.memory.MemoryLog`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, NamedTuple, Protocol

DEFAULT_TIMEOUT_S = 5.0


class Record(NamedTuple):
    """One stored message. ``seq`` starts at 1; ``timestamp_ns`` is the server's Unix time."""

    seq: int
    subject: str
    payload: bytes
    timestamp_ns: int


class Expect(NamedTuple):
    """Append only if the last record on ``subject`` has sequence ``seq`` (0: none is there).

    ``subject`` is the append's own when it is ``None``; another subject makes that one a fence.
    """

    seq: int
    subject: str | None = None


class Appended(NamedTuple):
    """Where a record was stored; ``duplicate`` when the server had it already under the same record id."""

    seq: int
    duplicate: bool


class Bounds(NamedTuple):
    """What the log holds now. An empty log has ``first_seq == last_seq + 1``; ``now_ns`` is the server's
    clock.
    """

    first_seq: int
    last_seq: int
    now_ns: int


class Start(NamedTuple):
    """Where reading starts: at a sequence, or at the first record not older than a time (Unix ns)."""

    seq: int = 1
    time_ns: int | None = None


BEGINNING: Final = Start()
"""The first record that the log still holds."""


type Deliver = Callable[[Record], None]
"""Takes each record, in order, once. It must not block, and it must not raise: a fold refuses nothing."""


class Following(Protocol):
    """A running ordered subscription to the log."""

    @property
    def position(self) -> int:
        """Sequence of the last record delivered (0: none yet)."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """Why it ended by itself (``deliver`` raised, the log is not the one it was), or ``None``.

        Nothing is delivered after that, ``caught_up`` and ``reached`` raise ``LogFailed``, and it was logged.
        """
        ...

    async def caught_up(self, timeout_s: float) -> None:
        """Wait until everything that was in the log when following started has been delivered.

        Raises:
            AckUnknown: when that took longer than `timeout_s`.
            LogFailed: when following ended by itself; see ``failure``.
        """
        ...

    async def reached(self, seq: int, timeout_s: float) -> None:
        """Wait until the record `seq` (which must match the filter) has been delivered.

        Raises:
            AckUnknown: when that took longer than `timeout_s`.
            LogFailed: when following ended by itself; see ``failure``.
        """
        ...

    async def stop(self) -> None:
        """End it; nothing is delivered afterwards. Idempotent."""
        ...


class Log(Protocol):
    """The operations every log has. Units: seconds for timeouts, bytes for sizes."""

    @property
    def max_record_bytes(self) -> int:
        """Largest payload that :meth:`append` takes."""
        ...

    async def append(
        self,
        subject: str,
        payload: bytes,
        *,
        record_id: str | None = None,
        expect: Expect | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Appended:
        """Store one record durably and return its place.

        A retry with the same `record_id` inside the dedup window is stored once. With `expect`, the append is
        a compare-and-set.

        Raises:
            WrongSequence: `expect` did not hold; nothing was stored by *this* attempt. An earlier attempt of
            the same
                record may have been stored: read the last record of the subject to find out.
            PayloadTooLarge: nothing was sent.
            LogFull: refused by the size limit.
            NotConnected: nothing was sent.
            AckUnknown: it may or may not be stored; append again with the same `record_id`.
            LogMissing, LogFailed: the stream is not there, or its storage failed.
        """
        ...

    async def last(self, subject: str) -> Record | None:
        """Return the last record on `subject` (which may hold wildcards), or ``None``."""
        ...

    async def bounds(self) -> Bounds:
        """Return what the log holds."""
        ...

    def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        """Iterate over what matches any of `subjects` from `start` to the end as of now."""
        ...

    async def follow(
        self, subjects: Sequence[str], deliver: Deliver, *, start: Start = BEGINNING
    ) -> Following:
        """Deliver what matches any of `subjects` from `start` on, and then what is appended, in order, each
        record once.

        It resumes by itself after a lost connection or a server restart, without gaps and without repeats.
        """
        ...

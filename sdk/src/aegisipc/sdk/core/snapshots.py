"""When the holder writes a snapshot of its group, and of which moment.

The state is copied when a frame goes out that leaves nothing unwritten: then it is the state after that
frame. The calls are copied when that frame comes back from the log. Together they are the group at that
record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aegisipc.eventstore.calls import GroupCalls
from aegisipc.eventstore.errors import LimitExceeded
from aegisipc.eventstore.group_snapshots import GroupSnapshot, dump_calls, encode_snapshot
from aegisipc.sdk.core.pen import Pen
from aegisipc.sdk.core.replica import Replica

SNAPSHOT_EVERY: Final = 50_000
"""Outcomes of the group between two snapshots."""


class Snapshots:
    """The snapshots of one member: due after so many entries, whoever wrote the last one."""

    __slots__ = (
        "_blob",
        "_calls",
        "_max_bytes",
        "_payload",
        "_pen",
        "_replica",
        "_since",
        "every",
        "failure",
        "too_large",
    )

    def __init__(
        self, pen: Pen, replica: Replica, calls: Callable[[], GroupCalls], *, max_bytes: int
    ) -> None:
        self._pen = pen
        self._replica = replica
        self._calls = calls
        self.every = SNAPSHOT_EVERY
        self._max_bytes = max_bytes
        self._since = 0
        self._blob: tuple[int, bytes | None] | None = None
        self._payload: bytes | None = None
        self.failure: Exception | None = None
        """By what the latest copy of the state could not be taken. The frames go on without it."""
        self.too_large = 0
        """How many were not written, because they do not fit in a record. The log is read from further back.
        """

    @property
    def is_due(self) -> bool:
        """The next frame after which nothing is unwritten will be the occasion of one."""
        return self._since >= self.every and self._blob is None and self._payload is None

    def on_frame_out(self) -> None:
        """A frame has been made: if it holds all there is, the state now is the state after it."""
        if self._since < self.every or self._blob is not None or self._pen.has_more:
            return
        if self._replica.spoiled is not None:
            return
        try:
            self._blob = (self._pen.number, self._replica.snapshot())
        except Exception as error:  # noqa: BLE001 - the service's own code runs here
            self.failure = error
            self._since = 0

    def on_folded(self, entries: int) -> None:
        """A pen frame of the group was folded."""
        self._since += entries

    def on_own_folded(self, number: int, seq: int, epoch: int) -> None:
        """The own frame `number` was folded, as record `seq`: the calls now are the calls after it."""
        if self._blob is None or number < self._blob[0]:
            return
        copied_at, state = self._blob
        self._blob = None
        if number == copied_at:
            self._since = 0
            payload = encode_snapshot(GroupSnapshot(seq, epoch, dump_calls(self._calls()), state))
            if len(payload) <= self._max_bytes:
                self._payload = payload
            else:
                self.too_large += 1
                self.failure = LimitExceeded(
                    f"cannot write a snapshot of {len(payload)} bytes: a record takes {self._max_bytes}; "
                    "members that start read the log from further back until it fits",
                    size_bytes=len(payload),
                    limit_bytes=self._max_bytes,
                )

    def take_failure(self) -> Exception | None:
        """Return why the latest snapshot could not be taken, once."""
        failure, self.failure = self.failure, None
        return failure

    def on_stored(self) -> None:
        """A snapshot of the group is in the log."""
        self._since = 0

    def take(self) -> bytes | None:
        """Return a snapshot to be written, once."""
        payload, self._payload = self._payload, None
        return payload

    def clear(self) -> None:
        """The pen is someone else's."""
        self._blob = self._payload = None

"""The end of a lane from which its group commit takes frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegisipc.eventstore.errors import AegisError, WrongSequence
from aegisipc.eventstore.group_commit import OutFrame
from aegisipc.eventstore.log import Appended
from aegisipc.sdk.core.lanes import Lane

if TYPE_CHECKING:
    from aegisipc.sdk.dispatch import Dispatcher


class LaneSource:
    """What a lane's group commit asks for frames."""

    def __init__(self, dispatcher: Dispatcher, lane: Lane) -> None:
        self._dispatcher = dispatcher
        self._lane = lane

    def failed(self, error: BaseException) -> None:
        """The group commit ended by a fault of ours."""
        self._dispatcher.lane_failed(self._lane, error)

    def next_frame(self) -> OutFrame | None:
        """Return the next frame."""
        return self._dispatcher.next_frame(self._lane)

    def acked(self, frame: OutFrame, appended: Appended) -> None:
        """The frame is in the log."""
        self._dispatcher.acked(frame.content, appended.seq)

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        """Cannot happen without an expectation."""
        self._dispatcher.gave_up(frame.content, error, maybe_stored=False)
        return None

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:
        """The frame's time is up, or the log cannot take it."""
        self._dispatcher.gave_up(frame.content, error, maybe_stored=maybe_stored)

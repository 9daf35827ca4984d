"""What the holder of a pen writes, on its way into the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from aegisipc.eventstore.errors import AegisError, WrongSequence
from aegisipc.eventstore.group_commit import OutFrame
from aegisipc.eventstore.log import Appended
from aegisipc.eventstore.subjects import DEAD, KEYS, PEN, STATE
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.pen import Written
from aegisipc.sdk.hosts.base import Site, describe
from aegisipc.sdk.hosts.fence import read_fence

_log = structlog.get_logger("aegisipc.instance")

_FOREVER: Final = float("inf")


class PenFrames:
    """The frames of one member, for its group commit. `stored` is told of each that is durable, `wake` when
    there may be something to do, `fail` when it cannot go on.
    """

    def __init__(
        self,
        site: Site,
        member: GroupMember,
        *,
        stored: Callable[[Written, int], None],
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._site, self._member = site, member
        self._stored, self._wake, self._fail = stored, wake, fail
        who = member.identity
        of = {
            PEN: site.subjects.pen,
            DEAD: site.subjects.dead,
            STATE: site.subjects.state,
            KEYS: site.subjects.keys,
        }
        self._subjects = {kind: subject(who.service, who.group, who.instance) for kind, subject in of.items()}

    def next_frame(self) -> OutFrame | None:
        """Return what to write next."""
        written = self._member.next_frame()
        return None if written is None else self._out(written)

    def _out(self, written: Written) -> OutFrame:
        subject = self._subjects[written.kind]
        return OutFrame(subject, written.payload, written.record_id, written.expect, _FOREVER, written)

    def acked(self, frame: OutFrame, appended: Appended) -> None:
        """It is durable."""
        self._stored(frame.content, appended.seq)

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        """The fence moved: is the pen still ours?"""
        who = self._member.identity
        fence_seq, event = await read_fence(self._site.log, self._site.subjects.fence(who.service, who.group))
        again = self._member.on_refused(frame.content, fence_seq, event)
        if again is not None:
            return self._out(again)
        _log.warning(
            "fenced",
            instance=who.instance,
            epoch=frame.content.epoch,
            frames=self._member.fenced_frames,
            now=repr(event),
            error=describe(error),
        )
        self._wake()
        return None

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:
        """The log cannot take the frame at all: go no further on a hole."""
        _log.error(
            "outcomes_not_written",
            error=describe(error),
            maybe_stored=maybe_stored,
            epoch=frame.content.epoch,
        )
        self._member.retire()
        self._fail(error)

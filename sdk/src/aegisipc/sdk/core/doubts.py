"""Calls in doubt, as the holder of the pen knows them, and what ends a doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.events import ErrorInfo, Resolution
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallId
from aegisipc.sdk.core.pen import Pen
from aegisipc.sdk.core.replica import Replica

IN_DOUBT_CODE: Final = "in_doubt"


class Doubts:
    """The calls in doubt. Everything that becomes of them goes through the pen."""

    __slots__ = ("_fresh", "_open", "_pen", "_replica")

    def __init__(self, pen: Pen, replica: Replica) -> None:
        self._pen = pen
        self._replica = replica
        self._open: dict[CallId, OpenCall] = {}
        self._fresh: list[OpenCall] = []

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, call_id: CallId) -> bool:
        return call_id in self._open

    def doubt(self, call: OpenCall, holder: str) -> None:
        """Say that `call`, claimed in an earlier epoch, may have run."""
        self._pen.note(Mark.IN_DOUBT, call, _why(call, holder))
        self.keep(call)

    def keep(self, call: OpenCall) -> None:
        """Look after a call whose doubt is in the log. What its former holder said of it ends the doubt."""
        self._open[call.call_id] = call
        if not self.conclude_from_evidence(call):
            self._fresh.append(call)

    def take_fresh(self) -> list[OpenCall]:
        """Return the doubts that came since the last time, to ask the service about them."""
        fresh = [call for call in self._fresh if call.call_id in self._open]
        self._fresh.clear()
        return fresh

    def conclude_from_evidence(self, call: OpenCall) -> bool:
        """End a doubt by the word of the instance that had claimed the call, if there is one."""
        evidence = call.evidence
        if evidence is None or call.call_id not in self._open:
            return False
        said = Resolution(source="evidence", author=evidence.writer, reason="it had run the call to its end")
        return self.executed(call.call_id, evidence.mark, evidence.body, said, emitted=evidence.emitted)

    def executed(
        self,
        call_id: CallId,
        mark: Mark,
        body: bytes | None,
        resolution: Resolution,
        *,
        emitted: Sequence[bytes] = (),
    ) -> bool:
        """It ran, with this outcome and these events. Returns ``False`` if it is not in doubt here.

        Events that the state does not take fail the call, as they do when a call ends: else every holder
        would meet them anew.
        """
        call = self._open.get(call_id)
        if call is None or (emitted and self._replica.spoiled is not None):
            return False
        del self._open[call_id]
        self._pen.note(Mark.EXECUTED, call, encode(resolution))
        if emitted:
            mark, body = self._replica.conclude(call, mark, body, emitted)
        self._pen.note(mark, call, body)
        return True

    def not_executed(self, call_id: CallId, resolution: Resolution) -> bool:
        """It did not run; once that is in the log, it is as if it had never been claimed. Returns ``False``
        if it is not in doubt here.
        """
        call = self._open.pop(call_id, None)
        if call is None:
            return False
        self._pen.note(Mark.NOT_EXECUTED, call, encode(resolution))
        return True

    def clear(self) -> None:
        """The pen is someone else's."""
        self._open.clear()
        self._fresh.clear()


def _why(call: OpenCall, holder: str) -> bytes:
    return encode(
        ErrorInfo(
            code=IN_DOUBT_CODE,
            message=f"{call.claimed_by} claimed it in epoch {call.claimed_epoch} and lost the pen before it "
            f"had an outcome; found by {holder}",
            details={"claimed_by": call.claimed_by, "claimed_epoch": call.claimed_epoch, "found_by": holder},
        )
    )

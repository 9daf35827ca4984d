"""The points of a call at which somebody dies: how each is reached from outside, and that it is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import StrEnum

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import OUTCOMES, Mark, decode_pen
from aegisipc.eventstore.subjects import CALL, CONCLUSIONS, Place, subjects_of
from tests.battery.scene import Scene
from tests.battery.wire_proxy import AnswerTo, Hold, Seen


class Point(StrEnum):
    """How far a call has come."""

    BEFORE_APPEND = "before append"
    APPENDED = "after append before its ack"
    CLAIMING = "before the claim is stored"
    CLAIMED = "after the claim"
    EFFECT = "after the effect before the outcome"
    CONCLUDED = "after the outcome before its ack"


class Reaching:
    """Keeps a call at one point. Make it before the call is; then :meth:`reached`, and :meth:`drop`.

    The record of a call is not yet at its instance when its writer has not heard of it: otherwise a call
    would be at two points at once.
    """

    def __init__(self, scene: Scene, point: Point) -> None:
        self._scene = scene
        self._point = point
        self._subjects = subjects_of(scene.namespace)
        hold = scene.proxy.hold
        self.held: Hold | None = None
        self._deliveries: Hold | None = None
        if point is Point.BEFORE_APPEND:
            self.held = hold(self._is_call_sent)
        elif point is Point.APPENDED:
            self.held = hold(AnswerTo(self._is_call_sent))
            self._deliveries = hold(self._is_call_delivered)
        elif point is Point.CLAIMING:
            self.held = hold(lambda seen: self._says(seen, {Mark.CLAIMED}))
        elif point is Point.EFFECT:
            self.held = hold(self._is_outcome_sent)
        elif point is Point.CONCLUDED:
            self.held = hold(AnswerTo(self._is_outcome_sent))
        if point is not Point.CLAIMED:
            scene.let_go()

    async def reached(self) -> None:
        """Wait until the call is at the point, and make sure that it is there and no further."""
        if self.held is None:
            await self._scene.until(lambda: self._scene.began, "the handler begins")
        else:
            await self._scene.until(self.held.caught.is_set, str(self._point))
        self._scene.worker = self._worker()
        counted = await self._scene.count()
        found = (
            len(counted.calls),
            sum(counted.claims.values()),
            len(self._scene.effects()),
            sum(len(outcomes) for outcomes in counted.outcomes.values()),
        )
        claims = int(self._scene.is_once)
        assert (
            found
            == {
                Point.BEFORE_APPEND: (0, 0, 0, 0),
                Point.APPENDED: (1, 0, 0, 0),
                Point.CLAIMING: (1, 0, 0, 0),
                Point.CLAIMED: (1, claims, 0, 0),
                Point.EFFECT: (1, claims, 1, 0),
                Point.CONCLUDED: (1, claims, 1, 1),
            }[self._point]
        ), f"calls, claims, effects, outcomes {self._point}: {found}"
        if self._point in (Point.BEFORE_APPEND, Point.APPENDED):
            assert not self._scene.events("caller", "accepted")
        assert not self._scene.events("caller", "ended")

    def _worker(self) -> str:
        """The instance that has the call; if none has it yet, the first one."""
        if self._point is Point.CLAIMED:
            return self._scene.began[0]
        holds = [hold for hold in (self._deliveries, self.held) if hold is not None]
        names = [seen.who.rpartition(":")[2] for hold in holds for seen in hold.seen]
        return next((name for name in names if name in self._scene.instances), "i1")

    def drop(self) -> None:
        """What was kept back is lost; from here on, everything goes its way."""
        self._over(Hold.drop)

    def release(self) -> None:
        """What was kept back goes on."""
        self._over(Hold.release)

    def _over(self, end: Callable[[Hold], None]) -> None:
        if self.held is not None:
            end(self.held)
        if self._deliveries is not None:
            self._deliveries.release()
        self._scene.let_go()

    # -- which messages ---------------------------------------------------------------------------------

    def _place(self, seen: Seen) -> Place | None:
        try:
            return self._subjects.parse(seen.frame.subject)
        except MalformedPayload:
            return None

    def _is_call_sent(self, seen: Seen) -> bool:
        place = self._place(seen)
        return seen.is_to_server and place is not None and place.kind == CALL

    def _is_call_delivered(self, seen: Seen) -> bool:
        place = self._place(seen)
        is_instance = seen.who.startswith(f"aegis:{self._scene.namespace}:")
        return not seen.is_to_server and is_instance and place is not None and place.kind == CALL

    def _is_outcome_sent(self, seen: Seen) -> bool:
        return self._says(seen, OUTCOMES)

    def _says(self, seen: Seen, marks: Collection[Mark]) -> bool:
        """Whether the holder of a pen writes one of these."""
        place = self._place(seen)
        if not seen.is_to_server or place is None or place.kind not in CONCLUSIONS:
            return False
        return any(entry.mark in marks for entry in decode_pen(seen.frame.payload).entries)

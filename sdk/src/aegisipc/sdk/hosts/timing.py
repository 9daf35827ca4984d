"""What a host does by the clock, beside its ticks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aegisipc.sdk.core.flow import FlowMeter, encode_hint
from aegisipc.sdk.core.member import GroupMember
from aegisipc.sdk.core.retries import NEVER_NS

_FLOW_TICKS: Final = 5


class DueTimer:
    """Rings at one moment on the server's clock: ticks are too far between for calls that are to be run again
    after a few milliseconds.
    """

    def __init__(self, now_ns: Callable[[], int], ring: Callable[[], None]) -> None:
        self._now_ns = now_ns
        self._ring = ring
        self._due_ns = NEVER_NS
        self._timer: asyncio.TimerHandle | None = None

    def set(self, due_ns: int) -> None:
        """Ring then, and not when it was to ring before. Cheap if that is the same."""
        if due_ns == self._due_ns:
            return
        self.cancel()
        self._due_ns = due_ns
        if due_ns != NEVER_NS:
            left_s = max(0.0, (due_ns - self._now_ns()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(left_s, self._fire)

    def cancel(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due_ns = None, NEVER_NS

    def _fire(self) -> None:
        self._timer, self._due_ns = None, NEVER_NS
        self._ring()


class FlowTeller:
    """Tells clients how long calls wait at the holder of a pen: a hint. Call :meth:`tick` at every tick."""

    def __init__(self, member: GroupMember, tell: Callable[[bytes], None]) -> None:
        self._member = member
        self._tell = tell
        self._meter = FlowMeter()
        self._ticks = 0

    def tick(self, now_ns: int) -> None:
        """Every few ticks, say what there is to be said."""
        self._ticks += 1
        if self._ticks % _FLOW_TICKS:
            return
        member = self._member
        if not member.is_active:
            self._meter.reset()
            return
        concluded = sum(member.calls.concluded.values())
        hint = self._meter.ask(now_ns, waiting=member.waiting, concluded=concluded)
        if hint is not None:
            self._tell(encode_hint(hint))

"""How long calls wait: what the holder of a pen tells its clients, and which calls these then refuse.

All of it is a hint, beside the log. The holder estimates the wait from what it concluded lately. A client
refuses a call only if its time would certainly be up before its turn came: to accept it would only make all
others wait longer.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import MalformedPayload

WINDOW_NS: Final = 2_000_000_000
"""What was concluded in this time tells the rate."""

RECENT_NS: Final = 500_000_000
"""And so does what was concluded in this time, if that is more: a burst must not refuse what it could serve.
"""

REPEAT_NS: Final = 400_000_000
EXPIRES_NS: Final = 1_000_000_000
"""A hint that is older says nothing any more. It is repeated often enough that one may be lost."""

MIN_WAIT_MS: Final = 50
"""A shorter wait is not worth a word."""

MAX_WAIT_MS: Final = 3_600_000
CERTAINTY: Final = 1.5
"""A wait must be so many times as long as a call's timeout before the call is refused."""

MAX_GROUPS: Final = 1024
_MAX_HINT_BYTES: Final = 256
_MAX_WAITING: Final = 1 << 40
_CHANGED: Final = 0.25
_MAX_SAMPLES: Final = 256


class FlowHint(NamedTuple):
    """So many calls wait for their turn, and the last of them for about so long."""

    waiting: int
    wait_ms: int


NO_WAIT: Final = FlowHint(0, 0)


def encode_hint(hint: FlowHint) -> bytes:
    """Pack a hint."""
    return json.dumps(hint._asdict()).encode()


def decode_hint(payload: bytes) -> FlowHint:
    """Read a hint. What it says beside the two numbers is ignored.

    Raises:
        MalformedPayload: it is none.
    """
    try:
        told = json.loads(payload if len(payload) <= _MAX_HINT_BYTES else b"")
        hint = FlowHint(told["waiting"], told["wait_ms"])
    except (ValueError, TypeError, KeyError) as error:
        raise _no_hint(str(error)) from error
    if type(hint.waiting) is not int or type(hint.wait_ms) is not int:
        raise _no_hint("what it tells are no numbers")
    if not (0 <= hint.waiting <= _MAX_WAITING and 0 <= hint.wait_ms <= MAX_WAIT_MS):
        raise _no_hint("it tells numbers that cannot be")
    return hint


def _no_hint(why: str) -> MalformedPayload:
    return MalformedPayload(f"cannot read a hint of how long calls wait: {why}; ignore it")


class FlowMeter:
    """Estimates, at the holder of a pen, how long a call would wait that is accepted now. Times are
    nanoseconds of any one clock.

    Ask it about every 100 ms while the pen is held; :meth:`reset` it when that ends.
    """

    __slots__ = ("_samples", "_told", "_told_ns")

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=_MAX_SAMPLES)
        """When, and how many calls were concluded until then."""
        self._told = NO_WAIT
        self._told_ns = 0

    def reset(self) -> None:
        """Forget what was: the pen is someone else's."""
        self._samples.clear()
        self._told = NO_WAIT

    def ask(self, now_ns: int, *, waiting: int, concluded: int) -> FlowHint | None:
        """Return what to tell clients now, or ``None``. `waiting` calls wait for their turn, and `concluded`
        is how many have had an outcome so far, of whatever kind.

        What nobody can estimate is not told: nothing came to an end lately, because handlers take long or the
        group is paused. Then calls are accepted, and wait.
        """
        samples = self._samples
        if samples and (now_ns < samples[-1][0] or concluded < samples[-1][1]):
            samples.clear()  # another clock, or another count: begin anew
        samples.append((now_ns, concluded))
        while len(samples) > 2 and samples[1][0] <= now_ns - WINDOW_NS:
            samples.popleft()
        return self._worth_telling(self._estimate(now_ns, waiting), now_ns)

    def _estimate(self, now_ns: int, waiting: int) -> FlowHint | None:
        if not waiting:
            return NO_WAIT
        rate = max(self._per_second(now_ns, WINDOW_NS), self._per_second(now_ns, RECENT_NS))
        if not rate:
            return None
        wait_ms = min(MAX_WAIT_MS, int(waiting * 1000 / rate))
        return FlowHint(min(waiting, _MAX_WAITING), wait_ms) if wait_ms >= MIN_WAIT_MS else NO_WAIT

    def _per_second(self, now_ns: int, within_ns: int) -> float:
        """0 if it cannot be told: too little time has passed, or nothing was concluded."""
        since_ns, before = next(
            ((at, count) for at, count in self._samples if at >= now_ns - within_ns), self._samples[-1]
        )
        elapsed_ns = now_ns - since_ns
        if elapsed_ns < RECENT_NS // 2:
            return 0.0
        return (self._samples[-1][1] - before) * 1e9 / elapsed_ns

    def _worth_telling(self, hint: FlowHint | None, now_ns: int) -> FlowHint | None:
        if hint is None or (hint == NO_WAIT and self._told == NO_WAIT):
            return None
        has_changed = abs(hint.wait_ms - self._told.wait_ms) > _CHANGED * self._told.wait_ms
        if not has_changed and 0 <= now_ns - self._told_ns < REPEAT_NS:
            return None
        self._told, self._told_ns = hint, now_ns
        return hint


class FlowHints:
    """What a client heard of the groups that it calls. Times are nanoseconds of its own clock."""

    __slots__ = ("_heard",)

    def __init__(self) -> None:
        self._heard: dict[tuple[str, str], tuple[FlowHint, int]] = {}

    def heard(self, service: str, group: str, hint: FlowHint, now_ns: int) -> None:
        """Remember a hint, instead of the one before."""
        self._heard.pop((service, group), None)
        if hint == NO_WAIT:
            return
        if len(self._heard) >= MAX_GROUPS:
            del self._heard[next(iter(self._heard))]
        self._heard[service, group] = (hint, now_ns)

    def refusal(
        self, service: str, group: str, timeout_ms: int, now_ns: int, *, own: int | None = None
    ) -> int | None:
        """Return how long a call would wait, in milliseconds, if that is certainly longer than its timeout;
        else ``None``: let it go.

        Clients take turns, so a call waits for all those of its own client that stand before it, but not for
        all those of another. `own` is how many calls of this client are open there, of its priority or a
        higher one: without it, the client is taken to be the only one.
        """
        found = self._heard.get((service, group))
        if found is None:
            return None
        hint, heard_ns = found
        if not 0 <= now_ns - heard_ns < EXPIRES_NS:
            del self._heard[service, group]
            return None
        wait_ms = hint.wait_ms
        if own is not None and own < hint.waiting:
            wait_ms = wait_ms * own // hint.waiting
        return wait_ms if wait_ms > CERTAINTY * timeout_ms else None

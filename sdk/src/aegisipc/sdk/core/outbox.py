"""What a relay of an outbox does next: which entries it sends, which must wait, which it gives up, which it
looks up.

Entries with the same service and resource form a *lane*. A lane's entries go one after another, each when the
one before it was accepted or refused for good, so nothing ever overtakes; lanes do not wait for each other.
A lane whose first entry cannot go now sleeps, longer each time.

An entry is *uncertain* once it may have been sent: from then on only the log can tell whether it was
accepted, so it is never given up without having been looked up there.

Times are nanoseconds, on two clocks: entries expire by the wall clock, which outlives the process and may be
set; lanes sleep by a steady one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum, StrEnum, auto
from heapq import heappop, heappush
from typing import Final, NamedTuple

from aegisipc.eventstore.errors import (
    CodecError,
    InvalidName,
    LogFull,
    NoResponders,
    NotConnected,
    Overloaded,
    PayloadTooLarge,
)
from aegisipc.sdk.errors import CallFailed, NoRoute, ServiceDefinitionError

type LaneKey = tuple[str, str | None]


class Status(StrEnum):
    """Where an entry stands."""

    WAITING = "waiting"
    """It is durable here, and was certainly not sent yet."""
    SENDING = "sending"
    """It is being sent, or was and nobody knows whether it was accepted: its key will tell."""
    ACCEPTED = "accepted"
    """It is a durable call in the log."""
    IN_DOUBT = "in_doubt"
    """It is in the log, and may have run; the doubt is not over yet."""
    SUCCEEDED = "succeeded"
    """It has a result."""
    FAILED = "failed"
    """It has an error as its outcome, or was refused for good before it became a call (no ``call_id``)."""
    EXPIRED = "expired"
    """It was not accepted in time, and never will be."""
    LOST = "lost"
    """It was accepted, and the log no longer holds it: nobody can know its outcome from there."""


UNSENT: Final = frozenset({Status.WAITING, Status.SENDING})
"""Not known to be accepted: these count against the limit of an outbox."""
OPEN: Final = UNSENT | {Status.ACCEPTED, Status.IN_DOUBT}
"""Without a final outcome."""
CLOSED: Final = frozenset(Status) - OPEN


class Verdict(Enum):
    """What an error of a submission means for its entry."""

    REFUSED = auto()
    """It cannot be accepted, now or ever."""
    NOT_NOW = auto()
    """It was certainly not accepted; it may be later."""
    UNKNOWN = auto()
    """It may have been accepted."""


_FOR_GOOD: Final = (
    InvalidName,
    PayloadTooLarge,
    CodecError,
    ServiceDefinitionError,
    CallFailed,
)
_NOT_NOW: Final = (NoRoute, NotConnected, NoResponders, Overloaded, LogFull)


def verdict_of(error: Exception) -> Verdict:
    """Judge an error that a submission raised. What is not known here is retried: the key makes that safe."""
    if isinstance(error, _FOR_GOOD):
        return Verdict.REFUSED
    if isinstance(error, _NOT_NOW):
        return Verdict.NOT_NOW
    return Verdict.UNKNOWN


class Now(NamedTuple):
    """What time it is on the two clocks."""

    steady_ns: int
    wall_ns: int


class Header(NamedTuple):
    """What the plan knows of an entry. ``expires_ns``: it is not to be sent at that time or later."""

    entry_id: int
    lane: LaneKey
    size_bytes: int
    expires_ns: int | None
    is_uncertain: bool

    def is_late(self, wall_ns: int) -> bool:
        """Whether it may not be sent any more."""
        return self.expires_ns is not None and self.expires_ns <= wall_ns


class Send(NamedTuple):
    """Send these entries of a lane, one after another; ``fresh`` are those certainly not sent before."""

    lane: LaneKey
    entry_ids: tuple[int, ...]
    fresh: frozenset[int]


class FindOut(NamedTuple):
    """Its time is up and it may have been accepted: look it up."""

    entry_id: int


class Expire(NamedTuple):
    """Its time is up, and it was certainly not sent."""

    entry_id: int


type Step = Send | FindOut | Expire


class Backoff(NamedTuple):
    """How long to wait after so many failures in a row: doubling up to a bound, each time between a half and
    the whole of that.
    """

    first_ns: int = 50_000_000
    most_ns: int = 5_000_000_000

    def delay_ns(self, failures: int, spread: float) -> int:
        """Return the time to wait after the `failures`-th failure; `spread` is random, from 0 to 1."""
        whole = min(self.most_ns, self.first_ns << min(max(failures - 1, 0), 30))
        return int(whole * (1 + spread) / 2)


class _Lane:
    """``out`` are the entries handed out from its front; while there are any, it is not handed out again."""

    __slots__ = ("failures", "is_queued", "key", "out", "queue")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.queue: deque[int] = deque()
        self.out: set[int] = set()
        self.failures = 0
        self.is_queued = False
        """It is among the ready or the sleeping ones."""


class Plan:
    """All entries that are not known to be accepted, and what is to be done with them."""

    def __init__(
        self,
        *,
        max_run: int = 64,
        max_run_bytes: int = 1 << 20,
        max_lanes: int = 64,
        backoff: Backoff | None = None,
    ) -> None:
        self._max_run = max_run
        self._max_run_bytes = max_run_bytes
        self._max_lanes = max_lanes
        self._backoff = backoff or Backoff()
        self._headers: dict[int, Header] = {}
        self._lanes: dict[LaneKey, _Lane] = {}
        self._ready: list[tuple[int, LaneKey]] = []
        self._sleeping: list[tuple[int, int, LaneKey]] = []
        self._expiries: list[tuple[int, int]] = []
        self._watched: set[int] = set()
        """The entries among the expiries."""
        self._busy = 0

    def __len__(self) -> int:
        return len(self._headers)

    def header(self, entry_id: int) -> Header:
        """Return what is known of an entry that is not done with."""
        return self._headers[entry_id]

    # -- what happens -----------------------------------------------------------------------------------

    def add(self, headers: Iterable[Header]) -> None:
        """Take entries in, in the order of their ids."""
        for header in headers:
            if header.entry_id in self._headers:
                continue
            self._headers[header.entry_id] = header
            lane = self._lanes.get(header.lane)
            if lane is None:
                lane = self._lanes[header.lane] = _Lane(header.lane)
            lane.queue.append(header.entry_id)
            self._watch(header)
            self._make_ready(lane)

    def done(self, entry_id: int) -> None:
        """An entry that was handed out is accepted, refused for good or expired: the lane moves on."""
        header = self._headers.pop(entry_id)
        lane = self._lanes[header.lane]
        lane.failures = 0
        self._leave(lane, {entry_id})

    def blocked(self, entry_id: int, *, is_uncertain: bool, steady_ns: int, spread: float) -> int:
        """An entry that was handed out cannot go now: its lane sleeps. What was handed out behind it comes
        back untouched. Returns how often in a row that has happened to the lane.
        """
        header = self._headers[entry_id]
        if is_uncertain and not header.is_uncertain:
            self._headers[entry_id] = header._replace(is_uncertain=True)
        lane = self._lanes[header.lane]
        lane.failures += 1
        self._leave(lane, set(lane.out), until_ns=steady_ns + self._backoff.delay_ns(lane.failures, spread))
        return lane.failures

    def returned(self, lane_key: LaneKey) -> None:
        """Whatever is still handed out of a lane comes back untouched. Idempotent."""
        lane = self._lanes.get(lane_key)
        if lane is not None:
            self._leave(lane, set(lane.out))

    # -- what to do -------------------------------------------------------------------------------------

    def steps(self, now: Now) -> list[Step]:
        """Return what is to be done now; what it names to be sent or looked up counts as handed out."""
        steps: list[Step] = list(self._expired(now.wall_ns))
        while self._sleeping and self._sleeping[0][0] <= now.steady_ns:
            lane = self._lanes[heappop(self._sleeping)[2]]
            lane.is_queued = False
            self._make_ready(lane)
        while self._ready and self._busy < self._max_lanes:
            lane = self._lanes[heappop(self._ready)[1]]
            lane.is_queued = False
            step = self._step(lane, now.wall_ns)
            if step is not None:
                steps.append(step)
            if step is None or isinstance(step, Expire):
                self._make_ready(lane)  # or forget it, if it is empty
            else:
                lane.out = set(step.entry_ids if isinstance(step, Send) else (step.entry_id,))
                self._busy += 1
        return steps

    def rest_ns(self, now: Now) -> int | None:
        """Return for how long there is nothing to do, unless something happens before; ``None``: for ever."""
        rests = []
        if self._ready and self._busy < self._max_lanes:
            rests.append(0)
        if self._sleeping:
            rests.append(self._sleeping[0][0] - now.steady_ns)
        if self._expiries:
            rests.append(self._expiries[0][0] - now.wall_ns)
        return max(0, min(rests)) if rests else None

    def _expired(self, wall_ns: int) -> Iterable[Expire]:
        """Give up what was certainly not sent in time, wherever in its lane it stands. What is uncertain, or
        handed out now, is looked at when it comes back, or when it is its lane's turn again.
        """
        while self._expiries and self._expiries[0][0] <= wall_ns:
            entry_id = heappop(self._expiries)[1]
            self._watched.discard(entry_id)
            header = self._headers.get(entry_id)
            if header is None or header.is_uncertain or entry_id in self._lanes[header.lane].out:
                continue
            del self._headers[entry_id]
            yield Expire(entry_id)

    def _step(self, lane: _Lane, wall_ns: int) -> Step | None:
        head = self._head(lane)
        if head is None:
            return None
        if head.is_late(wall_ns) and head.is_uncertain:
            return FindOut(head.entry_id)
        if head.is_late(wall_ns):  # its time ran out while it was handed out
            del self._headers[head.entry_id]
            return Expire(head.entry_id)
        run: list[Header] = []
        size = 0
        most = 1 if lane.failures else self._max_run  # the first one shows whether the others can go
        for entry_id in lane.queue:
            header = self._headers.get(entry_id)
            if header is None:
                continue
            size += header.size_bytes
            if header.is_late(wall_ns) or (run and size > self._max_run_bytes) or len(run) >= most:
                break
            run.append(header)
        fresh = frozenset(header.entry_id for header in run if not header.is_uncertain)
        return Send(lane.key, tuple(header.entry_id for header in run), fresh)

    def _head(self, lane: _Lane) -> Header | None:
        while lane.queue:
            header = self._headers.get(lane.queue[0])
            if header is not None:
                return header
            lane.queue.popleft()
        return None

    # -- lanes ------------------------------------------------------------------------------------------

    def _watch(self, header: Header) -> None:
        if header.expires_ns is not None and header.entry_id not in self._watched:
            self._watched.add(header.entry_id)
            heappush(self._expiries, (header.expires_ns, header.entry_id))

    def _leave(self, lane: _Lane, entry_ids: set[int], until_ns: int | None = None) -> None:
        was_out = bool(lane.out)
        lane.out -= entry_ids
        for entry_id in entry_ids:
            header = self._headers.get(entry_id)
            if header is not None and not header.is_uncertain:
                self._watch(header)
        if was_out and not lane.out:
            self._busy -= 1
        if until_ns is None:
            self._make_ready(lane)
        elif not lane.is_queued:
            lane.is_queued = True
            heappush(self._sleeping, (until_ns, lane.queue[0], lane.key))

    def _make_ready(self, lane: _Lane) -> None:
        if lane.is_queued or lane.out:
            return
        head = self._head(lane)
        if head is None:
            del self._lanes[lane.key]
            return
        lane.is_queued = True
        heappush(self._ready, (head.entry_id, lane.key))

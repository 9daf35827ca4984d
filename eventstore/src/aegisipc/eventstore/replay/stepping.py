"""Walking through a history, record by record: forward, backward, and to the next thing of a kind.

::

    stepper = await Stepper.open(source)
    await stepper.forward(10)
    if await stepper.next_where(Jump.DOUBT):
        print(stepper.position, stepper.effect, stepper.changes())

Going back needs the state of before, and a fold goes forward only. So states are kept on the way: some behind
each place to which one went back, close to it first, and some on the way there. However long a log is, a step
back folds few records.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from enum import StrEnum
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore import events as ev
from aegisipc.eventstore.checkpoints import OnSkip
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.frames import Mark, decode_pen
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.replay.differences import Change, diff
from aegisipc.eventstore.replay.filters import ALL, Filters
from aegisipc.eventstore.replay.folding import GAP_MS, board_at, fold_on
from aegisipc.eventstore.replay.points import Extent, Point, extent_of
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.replay.timeline import first_from
from aegisipc.eventstore.replay.views import view_of
from aegisipc.eventstore.subjects import CONCLUSIONS, GROUP_WHO, HA, WATCH_WHO
from aegisipc.eventstore.system import Effect, SystemState
from aegisipc.eventstore.system_snapshots import dump_state, load_state

MAX_KEPT: Final = 32
"""States that are kept for going back; the least recently used one is dropped for a new one."""

MAX_KEPT_BYTES: Final = 128 * 1024 * 1024
"""All of them together."""

KEEP_EVERY: Final = 5_000
"""On the way, a state is kept after so many records, at least."""

_KEEP_EVERY_OPEN: Final = 5
"""And after so many times as many records as calls are open: copying them takes time, too."""

_BEHIND: Final = (4096, 1024, 256, 64, 16)
"""How far behind a place to which one went back states are kept."""

_FAR: Final = 10_000
"""So many records to fold are reason enough to look for a snapshot in the log."""

_WINDOW: Final = 1024
_WIDEN: Final = 8
_MAX_COMPARED: Final = 1000
"""Open calls that are compared one by one, to tell what a step changed."""

_BOARD_S: Final = 10.0


class Jump(StrEnum):
    """What one may look for, forward and backward."""

    PROMOTION = "promotion"
    """The pen of a group changes hands, or nobody holds it any more."""
    DOUBT = "doubt"
    """A call is in doubt."""
    FAILURE = "failure"
    """A call failed, expired, or became a dead letter."""
    SUSPICION = "suspicion"
    """An instance is suspected, or lost."""


_FAILURES: Final = frozenset({Mark.FAILED, Mark.EXPIRED, Mark.DEAD_LETTERED})
_MARKS: Final[Mapping[Jump, frozenset[Mark]]] = {
    Jump.DOUBT: frozenset({Mark.IN_DOUBT}),
    Jump.FAILURE: _FAILURES,
}
_EVENTS: Final[Mapping[Jump, tuple[type[ev.Event], ...]]] = {
    Jump.PROMOTION: (ev.GroupPromoted, ev.GroupVacated),
    Jump.SUSPICION: (ev.InstanceSuspected, ev.InstanceLost),
}


class Stepper:
    """A place in a history: ``state`` is the one after the record ``position``, which is ``record``, and came
    to ``effect``. Both are ``None`` before the first record. It is one before the first record's sequence
    there.
    """

    def __init__(self, source: Source, extent: Extent, filters: Filters, on_skip: OnSkip | None) -> None:
        self.source, self.filters, self.extent = source, filters, extent
        self.state = self._base()
        self.record: Record | None = None
        self.effect: Effect | None = None
        self._on_skip = on_skip
        self._before: dict[str, Any] | None = None
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_bytes = 0

    @classmethod
    async def open(
        cls,
        source: Source,
        point: Point | None = None,
        filters: Filters = ALL,
        *,
        on_skip: OnSkip | None = None,
    ) -> Stepper:
        """Begin at a point, by default at the end of the log. `filters` say what jumps look for, and what of
        the state is shown; steps are those of the whole log. `on_skip` hears of snapshots of no use.

        Raises:
            AegisError: the log cannot be read.
        """
        extent = await extent_of(source)
        stepper = cls(source, extent, filters, on_skip)
        await stepper._arrive(extent.last_seq if point is None else point.seq)
        return stepper

    # -- where it is ----------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The sequence of the last record that is folded."""
        return max(self.state.position, self._first - 1)

    @property
    def at_ns(self) -> int:
        """The server's time there."""
        return self.record.timestamp_ns if self.record is not None else self.extent.first_ns

    @property
    def is_at_end(self) -> bool:
        """There was nothing behind it when that was last looked up."""
        return self.position >= self.extent.last_seq

    @property
    def point(self) -> Point:
        """The place as a point."""
        return Point(self.position, self.at_ns, str(self.position), self.extent)

    async def board(self) -> PulseBoard:
        """Return what was heard up to here.

        Raises:
            AegisError: there are heartbeats, and they cannot be read.
        """
        return await board_at(self.source, self.point, window_s=_BOARD_S)

    def view(self, board: PulseBoard | None = None) -> dict[str, Any]:
        """Return what there is here, as plain data."""
        heard = board if board is not None else PulseBoard(self.source.subjects, gap_ms=GAP_MS)
        return view_of(self.state, heard, self.point, self.filters, max_listed=_MAX_COMPARED)

    def changes(self) -> list[Change]:
        """Return what the record here changed."""
        return diff(self._before, self.view()) if self._before is not None else []

    # -- steps ----------------------------------------------------------------------------------------------

    async def forward(self, count: int = 1) -> int:
        """Go forward by `count` records, or to the end; returns by how many.

        Raises:
            AegisError: the log cannot be read.
        """
        return await self._by(max(0, count))

    async def back(self, count: int = 1) -> int:
        """Go back by `count` records, or to before the first one; returns by how many.

        Raises:
            AegisError: the log cannot be read.
        """
        return -await self._by(-max(0, count))

    async def goto(self, point: Point) -> None:
        """Go to a point.

        Raises:
            AegisError: the log cannot be read.
        """
        await self._look(point.seq)
        await self._arrive(point.seq)

    async def next_where(self, kind: Jump) -> bool:
        """Go to the next record of a kind; without one, stay here and return ``False``.

        Raises:
            AegisError: the log cannot be read.
        """
        await self._look(self.extent.last_seq + 1)
        here, after = self.position, self.position
        while (found := await self._candidate_after(kind, after)) is not None:
            await self._arrive(found)
            if self._is(kind):
                return True
            after = found
        await self._arrive(here)
        return False

    async def previous_where(self, kind: Jump) -> bool:
        """Go back to the last record of a kind before this one; without one, stay and return ``False``.

        Raises:
            AegisError: the log cannot be read.
        """
        here, before = self.position, self.position
        while (found := await self._candidate_before(kind, before)) is not None:
            await self._arrive(found)
            if self._is(kind):
                return True
            before = found
        await self._arrive(here)
        return False

    async def _by(self, count: int) -> int:
        here = self.position
        await self._look(here + count)
        await self._arrive(here + count)
        return self.position - here

    # -- getting there --------------------------------------------------------------------------------------

    @property
    def _first(self) -> int:
        return self.extent.first_seq

    async def _look(self, seq: int) -> None:
        """A log on a server may have grown."""
        if seq > self.extent.last_seq:
            self.extent = await extent_of(self.source)

    async def _arrive(self, seq: int) -> None:
        """Fold up to the record before `seq`, note what there is, and fold that one."""
        seq = max(self._first - 1, min(seq, self.extent.last_seq))
        if seq == self.position and (self.record is not None or seq < self._first):
            return
        if seq < self._first:
            self.state, self.record, self.effect, self._before = self._base(), None, None, None
            return
        if self.position >= seq:
            self.state = await self._rebuilt(seq - 1)
        elif seq - 1 - self.position > _FAR:
            self.state = await self._nearer(self.state, seq - 1)
        await self._fold_to(seq - 1)
        self.record = self.effect = None
        self._before = self.view()
        record = await first_from(self.source.log, [self.source.subjects.everything], Start(seq))
        if record is not None:
            self.record, self.effect = record, self.state.fold(record)

    def _base(self) -> SystemState:
        base = self.source.base
        return base() if base is not None else SystemState(self.source.subjects)

    async def _rebuilt(self, seq: int) -> SystemState:
        """The state after the record `seq`, from one that is kept, or from the log; keeps some on the way."""
        kept = max((each for each in self._kept if each <= seq), default=None)
        state = self._base() if kept is None else self._unpacked(kept)
        if seq - state.position > _FAR:
            state = await self._nearer(state, seq)
        for behind in _BEHIND:
            if state.position < seq - behind:
                await fold_on(self.source, state, seq - behind)
                self._keep(state)
        return await fold_on(self.source, state, seq)

    async def _nearer(self, state: SystemState, seq: int) -> SystemState:
        """A snapshot in the log may be nearer to where one wants to go."""
        newest = await checkpoints.newest(
            self.source.log,
            self.source.subjects,
            until_seq=seq,
            base=self.source.base,
            on_skip=self._on_skip,
        )
        return newest if newest.position > state.position else state

    async def _fold_to(self, seq: int) -> None:
        """Fold on, and keep some states on the way."""
        while self.state.position < seq:
            calls = sum(len(each.open) for each in self.state.calls.values())
            every = max(KEEP_EVERY, _KEEP_EVERY_OPEN * calls)
            before = self.state.position
            await fold_on(self.source, self.state, min(seq, before + every))
            if self.state.position == before:
                return  # there is nothing more
            if self.state.position < seq:
                self._keep(self.state)

    # -- states that are kept -------------------------------------------------------------------------------

    def _keep(self, state: SystemState) -> None:
        if state.position in self._kept:
            self._kept.move_to_end(state.position)
            return
        packed: bytes = msgpack.packb(dump_state(state))
        if len(packed) > MAX_KEPT_BYTES:
            return
        self._kept[state.position] = packed
        self._kept_bytes += len(packed)
        while len(self._kept) > MAX_KEPT or self._kept_bytes > MAX_KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)

    def _unpacked(self, position: int) -> SystemState:
        self._kept.move_to_end(position)
        plain = msgpack.unpackb(self._kept[position], strict_map_key=False)
        return load_state(plain, self.source.subjects)

    # -- jumps ----------------------------------------------------------------------------------------------

    def _is(self, kind: Jump) -> bool:
        """Tell whether the record here is of that kind, as the filters want it, and changed something."""
        effect, before = self.effect, self._before
        if effect is None or effect.place is None or before is None:
            return False
        place, resource = effect.place, self.filters.resource
        if kind in _MARKS:
            ended = (each for each in effect.folded.concluded if each.outcome.mark in _MARKS[kind])
            return any(resource in (None, each.call.resource) for each in ended)
        told = before["groups"].get(f"{place.service}/{place.group}")
        if not isinstance(effect.event, _EVENTS[kind]) or (resource is not None and told is None):
            return False
        group = self.state.topology.group(place.service, place.group)
        if told is None or group is None:
            return True
        if kind is Jump.SUSPICION:
            name = getattr(effect.event, "instance", "")
            instance, was = group.instances.get(name), told["instances"].get(name)
            # of another run of it, or of nobody: it does not count
            return instance is not None and was is not None and str(instance.state) != was["state"]
        after = (group.holder, group.holder_incarnation, group.epoch)
        return after != (told["active"], told["incarnation"], told["epoch"])  # else it was written again

    def _subjects(self, kind: Jump) -> list[str]:
        if kind in _MARKS:
            return [self.filters.subject(self.source.subjects, f"{each}.*") for each in sorted(CONCLUSIONS)]
        who = GROUP_WHO if kind is Jump.PROMOTION else WATCH_WHO
        return [self.filters.subject(self.source.subjects, f"{HA}.{who}")]

    async def _candidates(self, kind: Jump, from_seq: int, until_seq: int) -> AsyncGenerator[int]:
        """Iterate over the records that may be of a kind; only the fold knows whether they count."""
        reading = self.source.log.read(self._subjects(kind), start=Start(max(1, from_seq)))
        async with aclosing(reading) as records:
            async for record in records:
                if record.seq > until_seq:
                    return
                if _may_be(kind, record):
                    yield record.seq

    async def _candidate_after(self, kind: Jump, seq: int) -> int | None:
        async with aclosing(self._candidates(kind, seq + 1, self.extent.last_seq)) as found:
            return await anext(found, None)

    async def _candidate_before(self, kind: Jump, seq: int) -> int | None:
        """Reads from near the place, and further back only while there is none."""
        upper, window = seq, _WINDOW
        while upper > self._first:
            lower = max(self._first, upper - window)
            latest = None
            async with aclosing(self._candidates(kind, lower, upper - 1)) as found:
                async for candidate in found:
                    latest = candidate
            if latest is not None:
                return latest
            upper, window = lower, window * _WIDEN
        return None


def _may_be(kind: Jump, record: Record) -> bool:
    """Tell whether a record says something of that kind, whether it counts or not."""
    try:
        if kind in _MARKS:
            return any(mark in _MARKS[kind] for mark, _ in decode_pen(record.payload, bodies=False).entries)
        return isinstance(ev.decode_event(record.payload), _EVENTS[kind])
    except MalformedPayload:  # the fold counts it
        return False

"""Cleaning up large bodies: the leading router removes those that nobody can need any more.

What an object is for, its name says; whether it is still needed, only the log. Removed are:

- arguments of a call that has a final outcome, some time after they were stored. A dead letter is not final:
  it keeps its arguments, so that it can run again.
- arguments of a call that was never accepted, and results that no frame refers to (of an instance that lost
  the pen), a day later. While their call is not over, results stay: a service that keeps the outcomes of its
  transactions may still refer to one when the call is run again.
- pieces that no entry leads to, of objects that were cut off, a day later.

Whatever is not plain stays. It is no hurry: between two looks the sweep rests several times as long as the
look took, and so does reading the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload, UnknownCall
from aegisipc.eventstore.frames import decode_calls
from aegisipc.eventstore.ids import CallId, time_of
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import BEGINNING, Log, Record, Start
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.object_listing import Listed, ObjectListing
from aegisipc.eventstore.objects import Objects
from aegisipc.eventstore.references import ObjectName, parse_object_name
from aegisipc.eventstore.seeking import read_history
from aegisipc.eventstore.subjects import CALL, EVIDENCE, Subjects

_NS: Final = 1_000_000_000
_MARGIN_NS: Final = 60 * _NS
"""How much earlier than its time the log is searched: the servers of a cluster have clocks of their own."""

_LONGEST_REST_S: Final = 1.0
_RECORDS_PER_REST: Final = 256
_LONGEST_WAIT_NS: Final = 6 * 3600 * _NS

_log = structlog.get_logger("aegisipc.router")


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """When large bodies are removed. ``grace_s``: arguments of a call that is over; ``unclaimed_s``: what
    nothing refers to. It must be longer than any client goes on offering a call that is not accepted.
    ``rest`` is how many times as long as it works the sweep rests.
    """

    every_s: float = 60.0
    grace_s: float = 3600.0
    unclaimed_s: float = 24 * 3600.0
    rest: float = 4.0


class UnhurriedLog(JetStreamLog):
    """The log, read with rests, so that whoever reads much does not hold up the others on its event loop."""

    def __init__(self, connection: Connection, stream: str, *, rest: float) -> None:
        super().__init__(connection, stream)
        self._rest = rest

    async def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        """Iterate over what matches from `start` to the end as of now."""
        loop = asyncio.get_running_loop()
        began, count = loop.time(), 0
        reading = super().read(subjects, start=start)
        async with aclosing(reading) as records:
            async for record in records:
                yield record
                count += 1
                if count % _RECORDS_PER_REST == 0:
                    await asyncio.sleep(min(_LONGEST_REST_S, self._rest * (loop.time() - began)))
                    began = loop.time()


class Candidate(NamedTuple):
    """An object that may have to go, and when to look at it next."""

    listed: Listed
    place: ObjectName
    look_at_ns: int

    @property
    def since_ns(self) -> int:
        """Nothing that is about it is earlier in the log."""
        return max(0, min(self.listed.at_ns, time_of(self.place.call_id) * 1_000_000) - _MARGIN_NS)


@dataclass(slots=True)
class SweepCounts:
    """What became of the objects so far."""

    arguments: int = 0
    unaccepted: int = 0
    results: int = 0
    orphans: int = 0
    kept: int = 0
    """Results that a frame refers to."""
    unclear: int = 0
    """Objects that are none of ours, or about which the log is at odds with itself. They stay."""
    failures: int = 0


class Sweeper:
    """From :meth:`start` to :meth:`stop` it cleans up whenever `is_leading`; `now_ns` is server time."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        *,
        is_leading: Callable[[], bool],
        now_ns: Callable[[], int],
        options: SweepOptions = SweepOptions(),
    ) -> None:
        self._subjects = subjects
        self._is_leading, self._now_ns, self._options = is_leading, now_ns, options
        self._objects = Objects(connection, subjects)
        bucket_log = UnhurriedLog(connection, self._objects.bucket.stream, rest=options.rest)
        self._listing = ObjectListing(connection, subjects, log=bucket_log)
        self._log: Log = UnhurriedLog(connection, subjects.stream, rest=options.rest)
        self._candidates: dict[str, Candidate] = {}
        self._listed_to = 0
        self._look_for_orphans_ns = 0
        self._task: asyncio.Task[None] | None = None
        self._last_failure = ""
        self.counts = SweepCounts()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._sweep_for_ever(), name="router sweep")

    async def stop(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def status(self) -> dict[str, int]:
        """Return what was done, and how many objects wait for their time."""
        counts = self.counts
        return {
            "waiting": len(self._candidates),
            "removed_arguments": counts.arguments,
            "removed_unaccepted": counts.unaccepted,
            "removed_results": counts.results,
            "removed_orphans": counts.orphans,
            "kept_results": counts.kept,
            "unclear": counts.unclear,
            "failures": counts.failures,
        }

    async def _sweep_for_ever(self) -> None:
        while True:
            if self._is_leading():
                try:
                    await self.sweep()
                    self._last_failure = ""
                except Exception as error:  # noqa: BLE001 - the server is away, or whatever: later, then
                    self._tell_failure(error)
            await asyncio.sleep(self._options.every_s)

    def _tell_failure(self, error: Exception) -> None:
        why = error.message if isinstance(error, AegisError) else repr(error)
        self.counts.failures += 1
        if why != self._last_failure:
            self._last_failure = why
            _log.warning("cannot_sweep", error=why, exc_info=not isinstance(error, AegisError))

    # -- one round --------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Look once at everything whose time has come.

        Raises:
            AegisError: the log or the bucket cannot be read now; what was removed before is removed.
        """
        await self._list()
        now_ns = self._now_ns()
        due = sorted(c for c in self._candidates.values() if c.look_at_ns <= now_ns)
        unknown: list[Candidate] = []
        for candidate in due:
            if not self._is_leading():
                return
            began = asyncio.get_running_loop().time()
            if candidate.place.is_result:
                await self._look_at_result(candidate, now_ns)
            elif await self._is_unknown(candidate, now_ns):
                unknown.append(candidate)
            await self._rest(began)
        if unknown:
            await self._look_at_unknown(unknown)
        if now_ns >= self._look_for_orphans_ns:
            await self._remove_orphans(now_ns)

    async def _rest(self, began: float) -> None:
        worked_s = asyncio.get_running_loop().time() - began
        await asyncio.sleep(min(_LONGEST_REST_S, self._options.rest * worked_s))

    async def _list(self) -> None:
        """Take up what was stored since the last round."""
        end = await self._listing.last_seq()
        if end < self._listed_to:  # the bucket was made anew
            self._listed_to = 0
            self._candidates.clear()
        if end == self._listed_to:
            return
        entries = self._listing.entries(from_seq=self._listed_to + 1)
        async with aclosing(entries) as listing:
            async for listed in listing:
                self._take_up(listed)
                self._listed_to = max(self._listed_to, listed.seq)
        self._listed_to = max(self._listed_to, end)

    def _take_up(self, listed: Listed) -> None:
        name = listed.entry.name
        self._candidates.pop(name, None)
        if listed.entry.is_deleted:
            return
        try:
            place = parse_object_name(name)
        except AegisError:
            self._leave(name, "its name is none of ours")
            return
        wait_s = self._options.unclaimed_s if place.is_result else self._options.grace_s
        self._candidates[name] = Candidate(listed, place, listed.at_ns + int(wait_s * _NS))

    # -- arguments --------------------------------------------------------------------------------------

    async def _is_unknown(self, candidate: Candidate, now_ns: int) -> bool:
        """Look at arguments; true if the log does not have their call, and would have it by now."""
        try:
            history = await read_history(self._log, self._subjects, candidate.place.call_id, until_final=True)
        except UnknownCall:
            unclaimed_at_ns = candidate.listed.at_ns + int(self._options.unclaimed_s * _NS)
            self._look_again(candidate, unclaimed_at_ns)
            return now_ns >= unclaimed_at_ns
        if history.call.service != candidate.place.service:
            self._leave(candidate.listed.entry.name, "the call of that id is another service's")
        elif history.is_final:
            self.counts.arguments += await self._remove(candidate, "the call is over")
        else:
            self._look_again(candidate, self._later(candidate, now_ns))
        return False

    async def _look_at_unknown(self, unknown: list[Candidate]) -> None:
        """A call that took very long to be accepted is not found by its id. So look at all frames since the
        arguments were stored, for all of them at once.
        """
        for service in sorted({candidate.place.service for candidate in unknown}):
            missing = {c.place.call_id: c for c in unknown if c.place.service == service}
            start = Start(time_ns=min(c.since_ns for c in missing.values()))
            accepted = await self._accepted(service, missing.keys(), start)
            for call_id, candidate in missing.items():
                if call_id in accepted:
                    self._leave(candidate.listed.entry.name, "its call was accepted long after it was made")
                else:
                    self.counts.unaccepted += await self._remove(candidate, "its call was never accepted")

    async def _accepted(self, service: str, wanted: Collection[CallId], start: Start) -> set[CallId]:
        found: set[CallId] = set()
        async for record in self._log.read([self._subjects.of_kind(service, "*", CALL)], start=start):
            try:
                frame = decode_calls(record.payload, bodies=False)
            except MalformedPayload:
                continue
            found.update(entry.call_id for entry in frame.entries if entry.call_id in wanted)
        return found

    # -- results ----------------------------------------------------------------------------------------

    async def _look_at_result(self, candidate: Candidate, now_ns: int) -> None:
        is_referred = await self._is_referred(candidate)
        if not is_referred:
            if await self._may_be_told(candidate):
                self._look_again(candidate, self._later(candidate, now_ns))
                return
            is_referred = await self._is_referred(candidate)  # it may have been told just now
        if is_referred:
            self._candidates.pop(candidate.listed.entry.name, None)
            self.counts.kept += 1
        else:
            self.counts.results += await self._remove(candidate, "nothing in the log refers to it")

    async def _may_be_told(self, candidate: Candidate) -> bool:
        """Whether its call may yet have an outcome."""
        try:
            history = await read_history(self._log, self._subjects, candidate.place.call_id, until_final=True)
        except UnknownCall:
            return False
        return history.call.service == candidate.place.service and not history.is_final

    async def _is_referred(self, candidate: Candidate) -> bool:
        place, name = candidate.place, candidate.listed.entry.name
        subjects = [
            *self._subjects.conclusions(place.service, place.group),
            self._subjects.of_kind(place.service, place.group, EVIDENCE),
        ]
        needle = name.encode()
        reading = self._log.read(subjects, start=Start(time_ns=candidate.since_ns))
        async with aclosing(reading) as records:
            async for record in records:
                if needle in record.payload:  # a frame that nobody can read counts, too
                    return True
        return False

    # -- pieces -----------------------------------------------------------------------------------------

    async def _remove_orphans(self, now_ns: int) -> None:
        unclaimed_ns = int(self._options.unclaimed_s * _NS)
        orphans = self._listing.orphans()
        async with aclosing(orphans) as found:
            async for orphan in found:
                if now_ns - orphan.last_at_ns >= unclaimed_ns:
                    began = asyncio.get_running_loop().time()
                    await self._listing.remove(orphan)
                    self.counts.orphans += 1
                    _log.info("pieces_removed", nuid=orphan.nuid)
                    await self._rest(began)
        self._look_for_orphans_ns = now_ns + unclaimed_ns // 4

    # -- what becomes of them ---------------------------------------------------------------------------

    async def _remove(self, candidate: Candidate, why: str) -> bool:
        """Remove it, unless it was stored anew since it was listed: then that is listed next time."""
        name = candidate.listed.entry.name
        is_removed = await self._objects.delete(name, only_seq=candidate.listed.seq)
        self._candidates.pop(name, None)
        if is_removed:
            _log.info("object_removed", name=name, size_bytes=candidate.listed.entry.size_bytes, why=why)
        return is_removed

    def _look_again(self, candidate: Candidate, at_ns: int) -> None:
        self._candidates[candidate.listed.entry.name] = candidate._replace(look_at_ns=at_ns)

    def _later(self, candidate: Candidate, now_ns: int) -> int:
        """The older it is, the less often it is looked at: its call is a dead letter, or runs for long."""
        age_ns = now_ns - candidate.listed.at_ns
        return now_ns + min(_LONGEST_WAIT_NS, max(int(self._options.grace_s * _NS), age_ns // 2))

    def _leave(self, name: str, why: str) -> None:
        self._candidates.pop(name, None)
        self.counts.unclear += 1
        _log.warning("object_left", name=name, why=why)

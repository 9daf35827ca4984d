"""What would have been decided over a stretch of a history: reads what a simulation needs, and runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.checkpoints import SkippedSnapshot
from aegisipc.eventstore.errors import AegisError, LogMissing
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.replay import Point, Source, first_from, state_at, timeline
from aegisipc.eventstore.system import SystemState
from aegisipc.router.domain.what_if import Report, WhatIf
from aegisipc.router.domain.what_if_facts import Known, with_changes

_MS_NS: Final = 1_000_000
_FIRST_PULSE_NS: Final = 1000 * _MS_NS
"""After the first record of a log, the first router pulses within this time."""


class NoHeartbeats(AegisError):
    """Heartbeats of that time are not kept any more, and without them nothing can be simulated. Fields:
    ``since``, from when on it could be (``None``: not at all).
    """

    code = "no_heartbeats"


class Simulation(NamedTuple):
    """What was simulated: from the record ``from_seq`` up to and with ``until_seq``, and what came of it.
    ``state`` is the recorded one at the end.
    """

    from_seq: int
    from_ns: int
    until_seq: int
    until_ns: int
    report: Report
    state: SystemState


async def simulate(
    source: Source,
    changes: Mapping[str, int],
    *,
    until: Point,
    since: Point | None = None,
    given: Mapping[str, int] | None = None,
    on_skip: Callable[[SkippedSnapshot], None] | None = None,
) -> Simulation:
    """Simulate what follows `since` up to `until`; by default, from where there are enough heartbeats.

    `changes` are the values of the policy to try, `given` those that were in force, if the log does not say
    so or said something else.

    Raises:
        NoHeartbeats: none are kept of that time.
        BadPolicy: the values do not fit together.
        LimitExceeded: there are more decisions than can be compared.
    """
    known = Known(source.subjects, given)
    await _note(source, known, source.subjects.term, Start(), until.seq)
    for policy in known.policies():
        with_changes(policy, changes)  # before anything else is read: they may not fit together
    warm_ns = _warm_ns(known)
    earliest_ns = await _earliest_ns(source, until, warm_ns)
    first = await _first(source, since, until, earliest_ns)
    start = Start(time_ns=max(0, first.timestamp_ns - warm_ns))
    await _note(source, known, source.subjects.topology, start, until.seq)
    before = Point(first.seq - 1, first.timestamp_ns, "", until.extent)
    state = await state_at(source, before, on_skip=on_skip)
    what_if = WhatIf(state, known, changes, from_ns=first.timestamp_ns)
    moments = timeline(
        source,
        from_seq=first.seq,
        until_seq=until.seq,
        pulses_from_ns=start.time_ns,
        pulses_until_ns=until.at_ns,
    )
    async with aclosing(moments) as found:
        async for moment in found:
            take = what_if.on_pulse if moment.is_pulse else what_if.on_record
            take(moment.record)
    return Simulation(first.seq, first.timestamp_ns, until.seq, until.at_ns, what_if.report(), state)


async def _note(source: Source, known: Known, subject: str, start: Start, until_seq: int) -> None:
    reading = source.log.read([subject], start=start)
    async with aclosing(reading) as records:
        async for record in records:
            if record.seq > until_seq:
                break
            known.note(record)


def _warm_ns(known: Known) -> int:
    """How much has to be heard before anything can be judged: whoever was silent for longer than this had
    been given up then.
    """
    return max(max(p.lost_after_ms, p.leader_after_ms) for p in known.policies()) * _MS_NS


async def _earliest_ns(source: Source, until: Point, warm_ns: int) -> int:
    """From when on there is enough of the heartbeats. Before the first record of all there was nothing to
    hear.
    """
    pulse = None
    if source.pulses is not None:
        try:
            pulse = await first_from(source.pulses, [f"{source.subjects.pulse_root}.>"], Start())
        except LogMissing:  # the stream of heartbeats may be gone
            pulse = None
    if pulse is None:
        raise NoHeartbeats(
            f"cannot simulate what was decided: there are no heartbeats in {source.about}; they are "
            "kept for an hour (aegis log export keeps them in a bundle)",
            since=None,
        )
    began_ns = until.extent.first_ns + _FIRST_PULSE_NS
    is_whole = until.extent.first_seq == 1 and pulse.timestamp_ns <= began_ns
    return until.extent.first_ns if is_whole else max(until.extent.first_ns, pulse.timestamp_ns + warm_ns)


async def _first(source: Source, since: Point | None, until: Point, earliest_ns: int) -> Record:
    """The record to begin with."""
    details: dict[str, Any] = {"since": format_time(earliest_ns)}
    if since is not None and since.at_ns < earliest_ns:
        raise NoHeartbeats(
            f"cannot simulate from {since.said!r} on: there are enough heartbeats only from "
            f"{format_time(earliest_ns)} on; begin there, or leave --from out",
            **details,
        )
    start = Start(time_ns=earliest_ns) if since is None else Start(max(1, since.seq))
    record = await first_from(source.log, [source.subjects.everything], start)
    if record is None or record.seq > until.seq:
        raise NoHeartbeats(
            f"cannot simulate what was decided until {until.said!r}: there are enough heartbeats only from "
            f"{format_time(earliest_ns)} on, and nothing is in the log from there to that point; choose a "
            "later one",
            **details,
        )
    return record

"""The records of a log and the heartbeats beside it as one sequence, in the order of the server's time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import NamedTuple

from aegisipc.eventstore.errors import LogMissing
from aegisipc.eventstore.log import Log, Record, Start
from aegisipc.eventstore.replay.sources import Source


class Moment(NamedTuple):
    """One thing that was stored: a record of the log, or a heartbeat (``is_pulse``), whose sequence is that
    of its own stream.
    """

    record: Record
    is_pulse: bool


async def timeline(
    source: Source,
    *,
    from_seq: int = 1,
    until_seq: int | None = None,
    pulses_from_ns: int | None = None,
    pulses_until_ns: int | None = None,
    subjects: Sequence[str] | None = None,
) -> AsyncGenerator[Moment]:
    """Iterate over the records from `from_seq` up to and with `until_seq` (default: the end as of now), and
    the heartbeats of that time. Of what has the same time the heartbeat comes first: a decision is made on
    what was heard before. `subjects` are filters for the records (default: all of them).

    Heartbeats begin at `pulses_from_ns`, by default with the first record that is given; up to
    `pulses_until_ns`, by default with the last one.
    """
    async with AsyncExitStack() as stack:
        start = Start(max(1, from_seq))
        reading = source.log.read(list(subjects or [source.subjects.everything]), start=start)
        records = await stack.enter_async_context(aclosing(reading))
        record = await _next(records, until_seq)
        began_ns = pulses_from_ns if pulses_from_ns is not None else record.timestamp_ns if record else None
        pulses = await _pulses(stack, source, began_ns)
        pulse = await _next(pulses, None) if pulses is not None else None
        last_ns = pulses_until_ns
        while record is not None or (pulse is not None and last_ns is not None):
            if pulse is not None and (record is None or pulse.timestamp_ns <= record.timestamp_ns):
                if last_ns is not None and pulse.timestamp_ns > last_ns:
                    pulse = None
                    continue
                yield Moment(pulse, is_pulse=True)
                pulse = await _next(pulses, None) if pulses is not None else None
            elif record is not None:
                yield Moment(record, is_pulse=False)
                record = await _next(records, until_seq)


async def _pulses(
    stack: AsyncExitStack, source: Source, from_ns: int | None
) -> AsyncGenerator[Record] | None:
    if source.pulses is None or from_ns is None:
        return None
    reading = source.pulses.read([f"{source.subjects.pulse_root}.>"], start=Start(time_ns=from_ns))
    return await stack.enter_async_context(aclosing(reading))


async def _next(records: AsyncGenerator[Record], until_seq: int | None) -> Record | None:
    try:
        record = await anext(records, None)
    except LogMissing:  # the stream of heartbeats may be gone
        return None
    return None if record is None or (until_seq is not None and record.seq > until_seq) else record


async def first_from(log: Log, subjects: Sequence[str], start: Start) -> Record | None:
    """Return the first record from `start` on that matches, or ``None``."""
    reading = log.read(list(subjects), start=start)
    async with aclosing(reading) as records:
        return await anext(records, None)

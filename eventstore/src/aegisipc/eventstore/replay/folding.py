"""The state of the system at a point: the same fold that a router runs, up to there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.errors import LogMissing
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.replay.extents import Point
from aegisipc.eventstore.replay.sources import Source
from aegisipc.eventstore.system import Effect, SystemState

GAP_MS: Final = 500
"""As in a router with the usual policy: after so much silence of everybody, everybody gets a fresh start."""

WINDOW_S: Final = 30.0
"""How much of the heartbeats before a point is read: whoever was silent for longer has none."""

type Watch = Callable[[SystemState, Record, Effect], None]
"""Is told of each record that was folded, and what it came to; the state is the one after it."""


async def state_at(
    source: Source,
    point: Point,
    *,
    from_beginning: bool = False,
    watch: Watch | None = None,
    on_skip: checkpoints.OnSkip | None = None,
) -> SystemState:
    """Fold the log up to and with the record ``point.seq``: from the newest snapshot before it, or with
    `from_beginning` from the first record on. `watch` sees each record that is read; `on_skip` is told of
    snapshots that could not be used, and why.

    Raises:
        NoBeginning: the log was imported, and nothing says what was before its first record.
        AegisError: the log cannot be read.
    """
    if from_beginning:
        state = await checkpoints.beginning(source.log, source.subjects, base=source.base)
    else:
        state = await checkpoints.newest(
            source.log, source.subjects, until_seq=point.seq, base=source.base, on_skip=on_skip
        )
    return await fold_on(source, state, point.seq, watch)


async def fold_on(
    source: Source, state: SystemState, until_seq: int, watch: Watch | None = None
) -> SystemState:
    """Fold what follows a state, up to and with `until_seq`; returns the same state, further on."""
    if state.position >= until_seq:
        return state
    fold = state.fold
    reading = source.log.read([source.subjects.everything], start=Start(state.position + 1))
    async with aclosing(reading) as records:
        async for record in records:
            if record.seq > until_seq:
                break
            effect = fold(record)
            if watch is not None:
                watch(state, record, effect)
            if record.seq == until_seq:
                break
    return state


async def board_at(
    source: Source, point: Point, *, gap_ms: int = GAP_MS, window_s: float = WINDOW_S
) -> PulseBoard:
    """Fold the heartbeats of the last `window_s` seconds before a point. Empty where none are kept.

    Raises:
        AegisError: they are kept, and cannot be read.
    """
    board = PulseBoard(source.subjects, gap_ms=gap_ms)
    if source.pulses is None:
        return board
    start = Start(time_ns=max(0, point.at_ns - int(window_s * 1e9)))
    reading = source.pulses.read([f"{source.subjects.pulse_root}.>"], start=start)
    async with aclosing(reading) as pulses:
        try:
            async for pulse in pulses:
                if pulse.timestamp_ns > point.at_ns:
                    break
                board.apply(pulse)
        except LogMissing:  # the stream of heartbeats may be gone: the log says enough
            return board
    return board

"""``aegis replay --follow``: the view's changes as they happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from aegisipc.eventstore import replay as history
from aegisipc.eventstore.calls import Folded
from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import Paint, print_json
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.pulses import PulseBoard
from aegisipc.eventstore.replay import Filters, Point, Source
from aegisipc.eventstore.replay.differences import OF_TIME
from aegisipc.eventstore.replay.moments import iso
from aegisipc.eventstore.system import SystemState
from aegisipc.router.cli.records import as_line
from aegisipc.router.cli.replay_changes import told
from aegisipc.router.cli.tailing import follow

type Plain = dict[str, Any]

_LEFT_OUT: Final = OF_TIME | {"open", "retrying"}
"""What changes with every call is not followed: groups, doubts, the leader and anomalies are."""


async def follow_changes(
    source: Source, state: SystemState, point: Point, filters: Filters, *, as_json: bool
) -> int:
    """Print what each record changes, until cancelled."""
    changes = Changes(state, point, filters)
    show = _show_json if as_json else _shower(source)
    say("following; Ctrl-C ends it")

    def fold(record: Record) -> None:
        found = changes.fold(record)
        if found:
            show(record, found)

    log = cast("JetStreamLog", source.log)  # only a log on a server goes on, and nothing else comes here
    await follow(log, source.subjects.everything, state.position + 1, fold)
    return 0


class Changes:
    """Folds on, and tells what each record changed of what is followed."""

    def __init__(self, state: SystemState, point: Point, filters: Filters) -> None:
        self._state, self._point, self._filters = state, point, filters
        self._silence = PulseBoard(state.subjects, gap_ms=history.GAP_MS)
        self._view = self._look()

    def fold(self, record: Record) -> list[history.Change]:
        """Fold one record; returns the changes, which are mostly none."""
        effect = self._state.fold(record)
        if not effect.decides and not self._is_about_doubts(effect.folded):
            return []
        former, self._view = self._view, self._look()
        return history.diff(former, self._view, leave_out=_LEFT_OUT)

    def _is_about_doubts(self, folded: Folded) -> bool:
        doubts = self._view["in_doubt"]
        return (
            any(each.outcome.mark is Mark.IN_DOUBT for each in folded.concluded)
            or (
                bool(doubts) and any(format_call_id(each.call.call_id) in doubts for each in folded.concluded)
            )
            or (bool(doubts) and any(format_call_id(call.call_id) in doubts for call in folded.reopened))
        )

    def _look(self) -> Plain:
        view = history.view_of(self._state, self._silence, self._point, self._filters, max_listed=0)
        for group in view["groups"].values():
            del group["calls"]
        return view


def _show_json(record: Record, found: list[history.Change]) -> None:
    print_json(
        {
            "seq": record.seq,
            "time": iso(record.timestamp_ns),
            "changes": [change.to_plain() for change in found],
        }
    )


def _shower(source: Source) -> Callable[[Record, list[history.Change]], None]:
    paint = Paint()

    def show(record: Record, found: list[history.Change]) -> None:
        head = as_line(record, source.subjects, paint)
        print("\n".join(["", head, *told(found, paint)]), flush=True)

    return show

"""What changed between two views, or between any two pieces of plain data. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.replay.extents import Point
from aegisipc.eventstore.replay.moments import iso

ABSENT: Final = None
"""What there was before something was added, and is after it was removed."""

OF_TIME: Final = frozenset({"point", "position", "position_time", "heartbeats"})
"""Parts of a view that differ between any two moments."""

type Path = tuple[str, ...]


class PointsReversed(AegisError):
    """The later point came first. Fields: ``first``, ``second``: their sequences."""

    code = "points_reversed"


class Change(NamedTuple):
    """One thing that changed. ``kind`` is ``added``, ``removed`` or ``changed``."""

    path: Path
    kind: str
    before: Any
    after: Any

    def to_plain(self) -> dict[str, Any]:
        """Return it for programs."""
        return {"path": list(self.path), "change": self.kind, "before": self.before, "after": self.after}


def check_order(first: Point, second: Point) -> None:
    """See that `second` is not before `first`.

    Raises:
        PointsReversed: it is.
    """
    if (second.seq, second.at_ns) < (first.seq, first.at_ns):
        raise PointsReversed(
            f"cannot compare {first.said!r} with {second.said!r}: the first is sequence {first.seq} at "
            f"{iso(first.at_ns)}, which comes after sequence {second.seq} at {iso(second.at_ns)}; swap them: "
            f"--diff {second.said} {first.said}",
            first=first.seq,
            second=second.seq,
        )


def diff(
    before: Mapping[str, Any], after: Mapping[str, Any], *, leave_out: Collection[str] = OF_TIME
) -> list[Change]:
    """Return what changed, in the order of the data; the parts named in `leave_out` are not looked at.

    What is there on one side only is one change, whole. Lists of calls are compared call by call, other
    lists as a whole.
    """
    kept = [{key: side[key] for key in side if key not in leave_out} for side in (before, after)]
    return list(_changes((), *kept))


def _changes(path: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for key in [*before, *(key for key in after if key not in before)]:
        here = (*path, str(key))
        if key not in after:
            yield Change(here, "removed", before[key], ABSENT)
        elif key not in before:
            yield Change(here, "added", ABSENT, after[key])
        elif before[key] != after[key]:
            yield from _inside(here, before[key], after[key])


def _inside(path: Path, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _changes(path, before, after)
    elif (calls := _calls(before)) is not None and (calls_after := _calls(after)) is not None:
        yield from _changes(path, calls, calls_after)
    elif before is None:
        yield Change(path, "added", ABSENT, after)
    elif after is None:
        yield Change(path, "removed", before, ABSENT)
    else:
        yield Change(path, "changed", before, after)


def _calls(value: Any) -> Mapping[str, Any] | None:
    """A list of calls by their ids; ``None`` for what is compared as a whole."""
    if not isinstance(value, list):
        return None
    if not all(isinstance(each, Mapping) and "call_id" in each for each in value):
        return None
    named = {str(each["call_id"]): each for each in value}
    return named if len(named) == len(value) else None

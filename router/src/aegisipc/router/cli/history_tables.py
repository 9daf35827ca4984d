"""How rows of the read model are shown: as tables for people, as plain data for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from aegisipc.eventstore.cli.output import Cell, Paint, ago, printable, shorten, table
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.sql.queries import CallStory, Found, Row
from aegisipc.router.cli.times import shown_time

type Plain = dict[str, Any]

_NS: Final = "_ns"
_WIDEST: Final = 28
_WIDEST_ERROR: Final = 48
_WIDEST_CAUSE: Final = 120
_STYLES: Final = {
    "succeeded": "green",
    "failed": "red",
    "dead_lettered": "red",
    "in_doubt": "yellow",
    "retry_wait": "yellow",
    "active": "green",
    "promoted": "green",
    "vacated": "yellow",
    "lost": "red",
    "refused": "red",
    "suspected": "yellow",
}
_LEVELS: Final = {
    "failures": "only calls that ended otherwise than well are recorded; aegis projector --calls all records "
    "all that come",
    "off": "calls are not recorded; aegis projector --calls all records all that come",
}


# -- for programs ---------------------------------------------------------------------------------------


def as_plain(row: Row) -> Plain:
    """Return a row as plain data: each time also as text, and what is JSON decoded."""
    plain: Plain = {}
    for name, value in row.items():
        if name.endswith(_NS):
            plain[name.removesuffix(_NS)] = None if value is None else format_time(value)
        plain["group" if name == "group_name" else name] = value
    for name in ("arguments", "result"):
        if isinstance(plain.get(name), str):
            plain[name] = _decoded(plain[name])
    return plain


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def model_plain(checkpoint: Row) -> Plain:
    """Return how far the read model is."""
    return {
        "namespace": checkpoint["namespace"],
        "position": checkpoint["position"],
        "time": format_time(checkpoint["position_ns"]),
        "time_ns": checkpoint["position_ns"],
        "level": checkpoint["level"],
    }


def story_plain(story: CallStory, checkpoint: Row) -> Plain:
    """Return what the read model knows of a call."""
    return {
        "call": as_plain(story.call),
        "doubts": [as_plain(row) for row in story.doubts],
        "dead_letter": None if story.dead_letter is None else as_plain(story.dead_letter),
        "model": model_plain(checkpoint),
    }


# -- for people -----------------------------------------------------------------------------------------


def freshness(checkpoint: Row, now_ns: int, paint: Paint) -> str:
    """Say in a line how far the read model is."""
    age = ago((now_ns - checkpoint["position_ns"]) / 1e9)
    return paint(
        "dim",
        f"read model of namespace {printable(checkpoint['namespace'])}, up to sequence "
        f"{checkpoint['position']} of {shown_time(checkpoint['position_ns'])} ({age} ago)",
    )


def level_hint(checkpoint: Row, paint: Paint) -> list[str]:
    """Say which calls the read model does not have, if it does not have all."""
    level = checkpoint["level"]
    return [paint("yellow", f"call log level {level}: {_LEVELS[level]}")] if level in _LEVELS else []


def calls_table(found: Found, now_ns: int, paint: Paint) -> str:
    """Tell which calls there were."""
    headers = ("ACCEPTED", "CALL", "METHOD", "RESOURCE", "CLIENT", "STATUS", "TOOK", "BY", "ERROR")
    return _listed(found, headers, lambda row: _call_cells(row, now_ns), "no call matches", paint)


def _call_cells(row: Row, now_ns: int) -> list[object]:
    return [
        shown_time(row["accepted_ns"]),
        row["call_id"],
        _short(f"{row['service']}.{row['method']}"),
        _short(row["resource"]),
        _short(row["client"]),
        _styled(row["status"]),
        took(row, now_ns),
        _short(row["concluded_by"] or row["claimed_by"]),
        _short(error_in(row), _WIDEST_ERROR),
    ]


def took(row: Row, now_ns: int) -> Cell | str:
    """Return how long a call took, or has been open."""
    if row["latency_us"] is not None:
        return latency(row["latency_us"])
    if row["concluded_ns"] is not None:
        return "-"
    return Cell(f"open for {ago((now_ns - row['accepted_ns']) / 1e9)}", "yellow")


def latency(us: int) -> str:
    """Return how long a call took: ``850 us``, ``12.3 ms``, ``4.20 s``, ``12 min``."""
    if us < 1000:
        return f"{us} us"
    if us < 1_000_000:
        return f"{us / 1000:.1f} ms"
    return f"{us / 1e6:.2f} s" if us < 120_000_000 else ago(us / 1e6)


def error_in(row: Row) -> str | None:
    """Return code and message of the error that a call ended with."""
    if row["error_code"] is None:
        return None
    return f"{row['error_code']}: {row['error_message']}" if row["error_message"] else str(row["error_code"])


def promotions_table(found: Found, paint: Paint) -> str:
    """Tell who got or lost the pens of groups, and why."""
    headers = ("TIME", "SEQ", "GROUP", "EVENT", "EPOCH", "HOLDER", "BEFORE", "KIND", "DECIDED BY", "CAUSE")
    return _listed(found, headers, _promotion_cells, "no promotion matches", paint)


def _promotion_cells(row: Row) -> list[object]:
    author = f" (asked for by {row['author']})" if row["author"] else ""
    return [
        shown_time(row["at_ns"]),
        row["seq"],
        _short(f"{row['service']}/{row['group_name']}"),
        _styled(row["event"]),
        row["epoch"],
        _short(row["holder"]),
        _short(row["former_holder"]),
        _short(row["kind"] or None),
        _short(row["decided_by"] or None),
        _short(f"{row['cause']}{author}", _WIDEST_CAUSE),
    ]


def instances_table(found: Found, paint: Paint) -> str:
    """Tell which instances are there."""
    headers = ("GROUP", "INSTANCE", "STATE", "EPOCH", "SINCE", "HOST", "PID", "VERSION", "RESOURCES")
    return _listed(found, headers, _instance_cells, "no instance matches", paint)


def _instance_cells(row: Row) -> list[object]:
    return [
        _short(f"{row['service']}/{row['group_name']}"),
        _short(row["instance"]),
        _styled(row["state"]),
        row["epoch"],
        shown_time(row["since_ns"]),
        _short(row["host"]),
        row["pid"],
        _short(row["version"]),
        shorten(row["resources"]),
    ]


def events_table(found: Found, paint: Paint) -> str:
    """Tell what happened to instances."""
    headers = ("TIME", "SEQ", "GROUP", "INSTANCE", "EVENT", "STATE AFTER", "DECIDED BY", "CAUSE")
    return _listed(found, headers, _event_cells, "nothing matches", paint)


def _event_cells(row: Row) -> list[object]:
    return [
        shown_time(row["at_ns"]),
        row["seq"],
        _short(f"{row['service']}/{row['group_name']}"),
        _short(row["instance"]),
        _styled(row["event"]),
        _styled(row["state_after"]),
        _short(row["decided_by"] or None),
        _short(row["cause"] or None, _WIDEST_CAUSE),
    ]


# -- what they have in common ---------------------------------------------------------------------------


def _listed(
    found: Found, headers: Sequence[str], cells: Callable[[Row], list[object]], none: str, paint: Paint
) -> str:
    if not found.rows:
        return none
    lines = [table(headers, map(cells, found.rows), paint)]
    if found.more:
        lines.append(paint("dim", "there are more (--limit shows them)"))
    return "\n".join(lines)


def style_of(word: str) -> str:
    """Return the style in which a state or an event is shown; empty: none."""
    return _STYLES.get(word, "")


def _styled(word: str) -> Cell:
    return Cell(printable(word).replace("_", " "), style_of(word))


def _short(text: Any, width: int = _WIDEST) -> str | None:
    return None if text is None else shorten([str(text)], width=width)

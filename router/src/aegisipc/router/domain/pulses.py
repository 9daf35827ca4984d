"""The fold of the heartbeat stream: who was last heard of, and when.

Its clock is the stream itself: "now" is the server's timestamp of the newest pulse, and a router's own pulses
keep it going. So a router that was cut off, frozen or slow judges nobody by its own troubles: time stood
still for it, too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, NamedTuple

import msgpack

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import Subjects

MAX_SOURCES: Final = 10_000
MAX_PULSE_BYTES: Final = 4096
MAX_TEXT_CHARS: Final = 256

type InstanceKey = tuple[str, str, str]
"""Service, group, instance."""


class Pulse(NamedTuple):
    """The latest heartbeat of one instance or router. ``report`` is what it told about itself."""

    at_ns: int
    incarnation: str
    report: dict[str, Any]


class PulseBoard:
    """State of the fold. Bounded: beyond 10,000 sources, those heard of least recently are forgotten."""

    def __init__(self, subjects: Subjects, *, gap_ms: int) -> None:
        self._subjects = subjects
        self._gap_ns = gap_ms * 1_000_000
        self.instances: OrderedDict[InstanceKey, Pulse] = OrderedDict()
        self.routers: OrderedDict[str, Pulse] = OrderedDict()
        self.now_ns = 0
        self.floor_ns = 0
        self.unreadable = 0

    def apply(self, record: Record) -> None:
        """Fold one pulse."""
        if record.timestamp_ns - self.now_ns > self._gap_ns:
            # Nobody at all was heard for a while: the server or our link was away. Everybody gets a fresh
            # start.
            self.floor_ns = record.timestamp_ns
        self.now_ns = max(self.now_ns, record.timestamp_ns)
        try:
            place = self._subjects.parse_pulse(record.subject)
            report = _report(record.payload)
            pulse = Pulse(record.timestamp_ns, _text(report, "incarnation"), report)
            if place.kind == "router":
                _put(self.routers, place.id, pulse)
            else:
                _put(self.instances, (_text(report, "service"), _text(report, "group"), place.id), pulse)
        except MalformedPayload:
            self.unreadable += 1

    def silence_ms(self, pulse: Pulse | None, incarnation: str, known_since_ns: int) -> int:
        """Return for how long that incarnation has been silent, counted from its registration at the
        earliest.
        """
        heard_ns = pulse.at_ns if pulse is not None and pulse.incarnation == incarnation else 0
        return max(0, self.now_ns - max(heard_ns, known_since_ns, self.floor_ns)) // 1_000_000


def _put[K](board: OrderedDict[K, Pulse], key: K, pulse: Pulse) -> None:
    board[key] = pulse
    board.move_to_end(key)
    if len(board) > MAX_SOURCES:
        board.popitem(last=False)


def _text(report: dict[str, Any], key: str) -> str:
    text = report.get(key)
    if not isinstance(text, str):
        raise MalformedPayload(f"cannot read a pulse: its {key} is no text")
    return text


def _report(payload: bytes) -> dict[str, Any]:
    """What a pulse tells: numbers, short texts and truth values. Anything else is left out, so that whoever
    shows a pulse may rely on it.
    """
    if len(payload) > MAX_PULSE_BYTES:
        raise MalformedPayload(f"cannot read a pulse of {len(payload)} bytes: the limit is {MAX_PULSE_BYTES}")
    try:
        report = msgpack.unpackb(payload, max_map_len=64, max_array_len=0, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise MalformedPayload(f"cannot read a pulse: {error}") from error
    if not isinstance(report, dict):
        raise MalformedPayload("cannot read a pulse: not a map")
    return {key: value for key, value in report.items() if isinstance(key, str) and _is_plain(value)}


def _is_plain(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and len(value) <= MAX_TEXT_CHARS)

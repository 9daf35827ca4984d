"""The fold of the heartbeat stream: who was last heard of, and when; and of two hints beside it.

Its clock is the stream itself: "now" is the server's timestamp of the newest pulse, and a router's own pulses
keep it going. So a router that was cut off, frozen or slow judges nobody by its own troubles: time stood
still for it, too.

The hints are the server's word that a connection ended, and probes that nobody answers. Both count for
nothing while the board itself hears nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.subjects import Subjects

MAX_SOURCES: Final = 10_000
MAX_PULSE_BYTES: Final = 4096
MAX_TEXT_CHARS: Final = 256
MAX_MISSES: Final = 3
"""So many probes in a row without an answer say that something is wrong."""

type InstanceKey = tuple[str, str, str]
"""Service, group, instance."""


class Pulse(NamedTuple):
    """The latest heartbeat of one instance or router. ``report`` is what it told about itself."""

    at_ns: int
    incarnation: str
    report: dict[str, Any]


class ConnectionId(NamedTuple):
    """Which connection: ``client_id`` is its number at that run of a server, and never used there again."""

    server: str
    client_id: int


class Disconnect(NamedTuple):
    """The server's word that a connection ended, and why; ``at_ns`` is on the board's clock."""

    at_ns: int
    reason: str
    client_id: int


class ProbeFailure(NamedTuple):
    """Probes in a row had no answer. ``at_ns`` is when the last one that it took was given up."""

    at_ns: int
    cause: str


class _Probed(NamedTuple):
    """What became of the probes of one run of an instance that has answered before."""

    incarnation: str
    misses: int = 0
    failure: ProbeFailure | None = None


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
        self._gap_ended_ns = 0
        self._ended: OrderedDict[ConnectionId, Disconnect] = OrderedDict()
        self._probed: OrderedDict[InstanceKey, _Probed] = OrderedDict()

    def apply(self, record: Record) -> None:
        """Fold one pulse."""
        if record.timestamp_ns - self.now_ns > self._gap_ns:
            # Nobody at all was heard for a while: the server or our link was away. Everybody gets a fresh
            # start.
            self.floor_ns = self._gap_ended_ns = record.timestamp_ns
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

    # -- connections that ended -------------------------------------------------------------------------

    def connection_ended(self, connection: ConnectionId, *, reason: str, event_ns: int) -> None:
        """Fold the server's word that a connection ended, at `event_ns` by that server's clock.

        It is kept by connection: it may come before the last pulse that was sent through that one, and after
        the first one through the next.
        """
        at_ns = max(self.now_ns, event_ns)
        _put(self._ended, connection, Disconnect(at_ns, reason, connection.client_id))

    def disconnected(self, key: InstanceKey, incarnation: str) -> Disconnect | None:
        """Return how the connection ended through which that run of an instance gave its latest pulse.

        ``None`` when it has not ended as far as anybody said, when there was a pulse through another one
        since, and when nobody at all was heard around that time: then it was the server or our link that
        had trouble, and whoever lives is about to connect again.
        """
        pulse = self.instances.get(key)
        if pulse is None or pulse.incarnation != incarnation:
            return None
        ended = self._ended.get(_connection_of(pulse))
        if ended is None or ended.at_ns > self.now_ns + self._gap_ns:  # our pulses are behind: read on first
            return None
        is_credible = pulse.at_ns <= ended.at_ns + self._gap_ns  # no pulse is so long under way
        return ended if is_credible and ended.at_ns > self._gap_ended_ns + self._gap_ns else None

    # -- probes -----------------------------------------------------------------------------------------

    def probe_answered(self, key: InstanceKey, incarnation: str) -> None:
        """That run of an instance answered a probe."""
        _put(self._probed, key, _Probed(incarnation))

    def probe_missed(
        self, key: InstanceKey, incarnation: str, *, asked_ns: int, waited_ms: int, cause: str
    ) -> None:
        """A probe, sent when the board said `asked_ns`, had no answer for `waited_ms`: 0 when it was refused.

        It counts only for a run that has answered before (older versions never do), and only if this router
        heard others meanwhile: its own silence says nothing of anybody.
        """
        probed = self._probed.get(key)
        if probed is None or probed.incarnation != incarnation:
            return
        passed_ns = self.now_ns - asked_ns
        if asked_ns < self.floor_ns or passed_ns < waited_ms * 1_000_000 - self._gap_ns:
            return
        misses, failure = probed.misses + 1, probed.failure
        if misses >= MAX_MISSES and failure is None:
            failure = ProbeFailure(self.now_ns, f"{misses} probes in a row had no answer: {cause}")
        _put(self._probed, key, _Probed(incarnation, misses, failure))

    def forget_probes(self) -> None:
        """Nobody is asked any more from here: what was found says less and less."""
        self._probed.clear()

    def probe_failed(self, key: InstanceKey, incarnation: str) -> ProbeFailure | None:
        """Return why that run of an instance fails its probes, until it answers one."""
        probed = self._probed.get(key)
        return probed.failure if probed is not None and probed.incarnation == incarnation else None


def _connection_of(pulse: Pulse) -> ConnectionId:
    """Instances of older versions do not tell it: then it is that of nobody."""
    server, client_id = pulse.report.get("server"), pulse.report.get("cid")
    if isinstance(server, str) and isinstance(client_id, int):
        return ConnectionId(server, client_id)
    return ConnectionId("", 0)


def _put[K, V](board: OrderedDict[K, V], key: K, value: V) -> None:
    board[key] = value
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

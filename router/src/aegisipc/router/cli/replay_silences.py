"""Where heartbeats are missing: who was silent, for how long, and whether it was heard again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.cli.output import Paint, ago, printable
from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.pulses import InstanceKey, Pulse, PulseBoard
from aegisipc.eventstore.replay.folding import GAP_MS
from aegisipc.eventstore.replay.moments import iso, to_the_ms
from aegisipc.eventstore.subjects import HA, Subjects

SILENT_MS: Final = 750
"""So much silence is told of: two heartbeats are missing."""

_SILENT_NS: Final = SILENT_MS * 1_000_000


class Silence(NamedTuple):
    """An instance was not heard of since ``since_ns``; ``is_over``: at ``at_ns`` it was heard again."""

    instance: InstanceKey
    incarnation: str
    since_ns: int
    at_ns: int
    is_over: bool

    @property
    def for_ms(self) -> int:
        """How long it had lasted then."""
        return (self.at_ns - self.since_ns) // 1_000_000

    def to_plain(self) -> dict[str, Any]:
        """Return it for programs."""
        service, group, instance = self.instance
        return {
            "heartbeat": "heard_again" if self.is_over else "silent",
            "time": iso(self.at_ns),
            "service": service,
            "group": group,
            "instance": instance,
            "incarnation": self.incarnation,
            "since": iso(self.since_ns),
            "silence_ms": self.for_ms,
        }

    def to_line(self, paint: Paint) -> str:
        """Return it for people, in the columns of the lines of records."""
        since = f"since {to_the_ms(self.since_ns)} ({ago(self.for_ms / 1000)})"
        said = f"heard again; it was silent {since}" if self.is_over else f"silent {since}"
        what = paint("green" if self.is_over else "yellow", f"{'heartbeat':<25}")
        where = printable("/".join(self.instance))
        return f"{paint('dim', to_the_ms(self.at_ns))} {'·':>7}  {where:<36} {what} {said}"


class Silences:
    """Finds them in a sequence of heartbeats and records. Bounded as the board of heartbeats is."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._board = PulseBoard(subjects, gap_ms=GAP_MS)
        self._heard: OrderedDict[InstanceKey, Pulse] = OrderedDict()
        self._silent: OrderedDict[InstanceKey, Pulse] = OrderedDict()

    def heard(self, pulse: Record) -> Iterator[Silence]:
        """Take in a heartbeat; gives what is known of silences by then."""
        key, latest = self._read(pulse)
        yield from self.until(pulse.timestamp_ns, but=key)
        if key is None or latest is None:
            return
        former = self._silent.pop(key, None) or self._heard.pop(key, None)
        self._heard[key] = latest
        if former is None or former.incarnation != latest.incarnation:
            return
        if latest.at_ns - former.at_ns > _SILENT_NS:
            yield Silence(key, latest.incarnation, former.at_ns, latest.at_ns, is_over=True)

    def noted(self, record: Record) -> Iterator[Silence]:
        """Take in a record of the log: time passes, and who is gone has no heartbeats to miss."""
        self._forget_gone(record)
        yield from self.until(record.timestamp_ns)

    def until(self, now_ns: int, but: InstanceKey | None = None) -> Iterator[Silence]:
        """Give those who became silent by `now_ns`; each once, at the time when that was sure."""
        while self._heard:
            key = next(iter(self._heard))
            if now_ns - self._heard[key].at_ns <= _SILENT_NS or key == but:
                return
            pulse = self._heard.pop(key)
            self._silent[key] = pulse
            yield Silence(key, pulse.incarnation, pulse.at_ns, pulse.at_ns + _SILENT_NS, is_over=False)

    def _read(self, pulse: Record) -> tuple[InstanceKey | None, Pulse | None]:
        before = self._board.unreadable
        self._board.apply(pulse)
        try:
            place = self._subjects.parse_pulse(pulse.subject)
        except MalformedPayload:
            return None, None
        if place.kind != "instance" or self._board.unreadable > before:
            return None, None
        key = next(reversed(self._board.instances))
        return key, self._board.instances[key]

    def _forget_gone(self, record: Record) -> None:
        try:
            place = self._subjects.parse(record.subject)
            if place.kind != HA:
                return
            event = ev.decode_event(record.payload)
        except MalformedPayload:
            return
        if isinstance(event, ev.InstanceLeft):
            self._forget((place.service, place.group, place.who))
        elif isinstance(event, ev.InstanceLost):
            self._forget((place.service, place.group, event.instance))

    def _forget(self, key: InstanceKey) -> None:
        self._heard.pop(key, None)
        self._silent.pop(key, None)

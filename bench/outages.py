"""What came of a run with kills: figures for programs and for people. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.cli.output import table
from bench.chronicle import Chronicle, Epoch
from bench.load import Load
from bench.scene import Kill, Plan

_NS_PER_MS: Final = 1_000_000


class Outage(NamedTuple):
    """One kill and what followed, in milliseconds from the signal.

    ``ms``: the standby's first outcome is durable, by the timestamp of its record. ``reply_ms``: the client
    has the first reply of a call that the standby carried out. ``promoted_ms``: the router's decision is
    durable. ``None``: it had lost the pen just before it was killed, so that was not what its death led to.
    """

    victim: str
    epoch: int
    detected_by: str
    promoted_ms: float | None
    ms: float | None
    reply_ms: float | None


def outage_of(kill: Kill, after: Epoch | None, first_reply_s: Mapping[int, float]) -> Outage:
    """Put together what the killer, the log and the client know. `after` is the epoch that took over."""
    if after is None or after.first_outcome_ns is None or after.promoted_ns < kill.at_ns:
        return Outage(kill.victim, kill.epoch, "", None, None, None)
    reply_s = first_reply_s.get(after.number)
    return Outage(
        kill.victim,
        after.number,
        after.detected_by,
        (after.promoted_ns - kill.at_ns) / _NS_PER_MS,
        (after.first_outcome_ns - kill.at_ns) / _NS_PER_MS,
        None if reply_s is None else (reply_s - kill.at_s) * 1000,
    )


@dataclass(frozen=True)
class Outages:
    """Everything known of a run. Counts of calls are the log's; errors and latencies are the client's."""

    plan: Plan
    found: Sequence[Outage]
    chronicle: Chronicle
    load: Load
    started_again: int
    """How often a handler began a call that had begun before (its own file says so)."""
    doubts_that_ran: int

    @property
    def faults(self) -> dict[str, int]:
        """What must be zero, by name."""
        seen = self.chronicle
        again = self.started_again if self.plan.effect == "once" else 0
        return {
            "lost": seen.lost,
            "duplicates": seen.duplicates,
            "started_twice": seen.started_twice + again,
            "fenced_frames": seen.fenced_frames,
            "unreadable": seen.unreadable,
            "errors": self.load.errors.total(),
        }

    @property
    def is_good(self) -> bool:
        """There were failovers to measure, and every call has exactly one outcome."""
        return self.missed < len(self.found) and not any(self.faults.values())

    @property
    def missed(self) -> int:
        """Kills of one who had lost the pen just before, to a needless failover."""
        return sum(outage.ms is None for outage in self.found)

    @property
    def calls_per_s(self) -> float:
        """The rate that was achieved while calls were made."""
        return self.load.made / self.load.poured_s if self.load.poured_s else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the figures for programs."""
        plan, faults = self.plan, self.faults
        return {
            "kills": len(self.found),
            "rate": plan.rate,
            "achieved_rate": round(self.calls_per_s, 1),
            "effect": plan.effect,
            "fsync": plan.fsync,
            "fast_path": plan.system_account,
            "pulse_ms": plan.pulse_ms,
            "suspect_after_ms": plan.suspect_after_ms,
            **_spread([outage.ms for outage in self.found]),
            **_spread([outage.reply_ms for outage in self.found], "reply_"),
            "failovers": [_plain(outage) for outage in self.found],
            "calls": self.chronicle.accepted,
            "lost": faults.pop("lost"),
            "duplicates": faults.pop("duplicates"),
            "started_again": self.started_again,
            "in_doubt": len(self.chronicle.doubts),
            "in_doubt_that_ran": self.doubts_that_ran,
            **faults,
            "error_codes": dict(sorted(self.load.errors.items())),
            "missed": self.missed,
            "needless_failovers": self.needless,
            "call_p50_ms": _ms(percentile(self.load.latencies_s, 0.5) * 1000),
            "call_p99_ms": _ms(percentile(self.load.latencies_s, 0.99) * 1000),
            "call_worst_ms": _ms(percentile(self.load.latencies_s, 1.0) * 1000),
        }

    @property
    def needless(self) -> int:
        """Changes of the holder that no kill explains."""
        return max(0, len(self.chronicle.epochs) - 1 - len(self.found) + self.missed)


def described(outages: Outages) -> str:
    """Return the figures for people."""
    figures = outages.to_json()
    return "\n\n".join((_each(outages.found), _summary(outages.found), _calls(figures), _how(figures)))


def _each(found: Sequence[Outage]) -> str:
    headers = ("kill", "victim", "epoch", "noticed by", "promoted ms", "first outcome ms", "first reply ms")
    rows = [
        (
            number,
            outage.victim,
            outage.epoch,
            outage.detected_by or "-",
            *map(_shown, (outage.promoted_ms, outage.ms, outage.reply_ms)),
        )
        for number, outage in enumerate(found, start=1)
    ]
    return table(headers, rows)


def _summary(found: Sequence[Outage]) -> str:
    rows = []
    for what, values in (
        ("the standby is promoted", [outage.promoted_ms for outage in found]),
        ("its first outcome is durable", [outage.ms for outage in found]),
        ("its first reply is at the client", [outage.reply_ms for outage in found]),
    ):
        spread = _spread(values)
        rows.append((what, *(_shown(spread[name]) for name in ("median_ms", "p99_ms", "worst_ms"))))
    return table(("from the signal until", "median ms", "p99 ms", "worst ms"), rows)


def _calls(figures: Mapping[str, Any]) -> str:
    made = (
        f"{figures['calls']:,} calls ({figures['effect']}), {figures['rate']:,.0f}/s asked for, "
        f"{figures['achieved_rate']:,.0f}/s made"
    )
    ended = f"{figures['lost']} lost, {figures['duplicates']} duplicates, {figures['errors']} errors"
    again = (
        f"begun again: {figures['started_again']}; in doubt: {figures['in_doubt']}, of which "
        f"{figures['in_doubt_that_ran']} had run"
    )
    took = (
        f"a call, from when it was due: p50 {figures['call_p50_ms']} ms, p99 {figures['call_p99_ms']} ms, "
        f"worst {figures['call_worst_ms']} ms"
    )
    lines = [made, ended, again, took]
    wrong = {name: figures[name] for name in ("started_twice", "fenced_frames", "unreadable")}
    lines += [f"WRONG: {count} {name.replace('_', ' ')}" for name, count in wrong.items() if count]
    needless, missed = figures["needless_failovers"], figures["missed"]
    if needless or missed:
        lines.append(f"needless failovers: {needless}, kills missed: {missed}")
    return "\n".join(lines)


def _how(figures: Mapping[str, Any]) -> str:
    path = "disconnect events and silence" if figures["fast_path"] else "silence alone"
    synced = "each write synced" if figures["fsync"] else "writes not synced"
    return (
        f"noticed by {path}: a pulse every {figures['pulse_ms']} ms, suspected after "
        f"{figures['suspect_after_ms']} ms; {synced}"
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed; NaN if there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _spread(values: Sequence[float | None], prefix: str = "") -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    shares = (("median_ms", 0.5), ("p99_ms", 0.99), ("worst_ms", 1.0))
    return {f"{prefix}{name}": _ms(percentile(known, share)) for name, share in shares}


def _plain(outage: Outage) -> dict[str, Any]:
    return {
        "ms": _ms(outage.ms),
        "reply_ms": _ms(outage.reply_ms),
        "epoch": outage.epoch,
        "promoted_ms": _ms(outage.promoted_ms),
        "detected_by": outage.detected_by,
        "victim": outage.victim,
    }


def _ms(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 2)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"

"""Nobody is replaced without a reason, and whoever follows may: each decision about a pen against the log.

A router decides by what it has read, and appends only if nothing else was said on that fence meanwhile. So it
had read the latest record there, and of everything since perhaps only a part: a decision is well if there is
a point of the log between that record and its own at which it would have been. That a holder is suspected
need not be in the log before it is replaced; then the decision itself has to say what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aegisipc.chaos.checking.case import Case, Look
from aegisipc.chaos.checking.membership import (
    LOST,
    SUSPECTED,
    Standing,
    after,
    evidence_of,
    is_said_again,
    number_of,
    text_of,
)
from aegisipc.chaos.checking.reasons import CHECKED, Decision, why_not
from aegisipc.chaos.log_facts import ELECTED, PROMOTED, Group, LogEvent
from aegisipc.chaos.verdicts import Verdict
from aegisipc.eventstore.names import POOL_GROUP
from aegisipc.eventstore.subjects import GROUP_WHO, WATCH_WHO

_RESIGNED: Final = "router.resigned.v1"
_MS: Final = 1_000_000


def failovers_needed(case: Case) -> Verdict:
    """Each time that a group's pen goes to another one, or a holder is asked for it, there was a reason in
    the log: nobody held it, or the holder had left, was lost or restarted, was in doubt, had yielded, or
    had had its time to finish. Whoever gets it was admitted, ready, healthy, not about to leave, and not
    silent itself. The router that decided led. A log without its beginning does not tell.
    """
    look = Look(case, "failovers", "Nobody is replaced without a reason; whoever is chosen may hold the pen.")
    if not case.is_whole:
        return look.verdict()
    walk = _Walk(case, look)
    for event in case.facts.events:
        walk.take(event)
    return look.verdict()


@dataclass(slots=True)
class _Reign:
    """For how long a router led: from one record up to another."""

    router: str
    since: int
    policy: dict[str, Any]
    until: int | None = None


@dataclass(slots=True)
class _Track:
    """One group: its standings since the latest record on its fence, which is at ``fence``."""

    fence: int = 0
    standings: list[Standing] = field(default_factory=lambda: [Standing()])


class _Chosen(NamedTuple):
    """One that got the pen in place of a holder that was in doubt, at a time of the router's clock."""

    event: LogEvent
    group: Group
    now_ns: int
    limit_ms: int


class _Walk:
    """Reads the events in log order."""

    def __init__(self, case: Case, look: Look) -> None:
        self._case, self._look = case, look
        self._tracks: dict[Group, _Track] = {}
        self._reigns: list[_Reign] = []
        self._chosen: dict[tuple[Group, str, str], _Chosen] = {}

    def take(self, event: LogEvent) -> None:
        if event.type in (ELECTED, _RESIGNED):
            self._reign(event)
        if event.group == POOL_GROUP:
            return
        group = event.service, event.group
        track = self._tracks.setdefault(group, _Track())
        latest = track.standings[-1]
        is_fence = event.by == GROUP_WHO
        if is_fence and event.type in CHECKED:
            is_news = event.type != PROMOTED or not is_said_again(latest, event)
            if is_news:
                self._judge(group, track, event)
        elif event.by == WATCH_WHO and event.type in (SUSPECTED, LOST):
            self._was_silent(group, event)
        standing = after(latest, event)
        if is_fence:
            track.fence, track.standings = event.seq, [standing]
        elif standing is not latest:
            track.standings.append(standing)

    def _reign(self, event: LogEvent) -> None:
        if self._reigns and self._reigns[-1].until is None:
            self._reigns[-1].until = event.seq
        self._chosen.clear()  # another router has heard others at other times
        if event.type == ELECTED:
            policy = event.data.get("policy")
            policy = policy if isinstance(policy, dict) else {}
            self._reigns.append(_Reign(text_of(event, "router"), event.seq, policy))

    def _judge(self, group: Group, track: _Track, event: LogEvent) -> None:
        self._look.looked_at += 1
        router = text_of(event, "decided_by")
        reign = next((reign for reign in reversed(self._reigns) if reign.router == router), None)
        is_command = bool(text_of(event, "author"))  # which is looked at a moment after it was taken
        if reign is None or (reign.until is not None and reign.until <= track.fence and not is_command):
            self._found(group, track, event, f"router {router}, which decided it, did not lead")
            return
        decision = Decision(event, reign.policy, self._case.slack_ns, reign.since)
        against = why_not(decision, reversed(track.standings))
        if against is not None:
            self._found(group, track, event, against)
        now_ns = number_of(evidence_of(event), "now_ns")
        if event.type == PROMOTED and now_ns:
            limit_ms = number_of(reign.policy, "suspect_after_ms")
            run = group, text_of(event, "holder"), text_of(event, "incarnation")
            self._chosen[run] = _Chosen(event, group, now_ns, limit_ms)

    def _was_silent(self, group: Group, event: LogEvent) -> None:
        """By what is said of it later, one who was chosen had been silent for too long then already."""
        chosen = self._chosen.pop((group, text_of(event, "instance"), text_of(event, "incarnation")), None)
        last_ns = number_of(event.data, "last_pulse_ns")
        if chosen is None or not chosen.limit_ms or not last_ns:
            return
        if text_of(chosen.event, "decided_by") != text_of(event, "decided_by"):
            return
        since_ns = number_of(evidence_of(event), "now_ns") - number_of(event.data, "silence_ms") * _MS
        silent_ms = (chosen.now_ns - since_ns) // _MS
        if silent_ms > chosen.limit_ms:
            self._look.found(
                f"record {chosen.event.seq} gives {text_of(event, 'instance')} the pen of {'/'.join(group)} "
                f"because another was in doubt, and by record {event.seq} it had itself been silent for "
                f"{silent_ms} ms then; who was silent for {chosen.limit_ms} ms is in doubt",
                seqs=(chosen.event.seq, event.seq),
            )

    def _found(self, group: Group, track: _Track, event: LogEvent, why: str) -> None:
        data, epoch = event.data, event.data.get("epoch")
        is_promotion = event.type == PROMOTED
        what = f"promotes {data.get('holder')} to epoch {epoch}" if is_promotion else f"says {event.type}"
        self._look.found(
            f"record {event.seq} {what} in {'/'.join(group)} because {text_of(event, 'cause')!r}, and {why}",
            seqs=(*((track.fence,) if track.fence else ()), event.seq),
        )

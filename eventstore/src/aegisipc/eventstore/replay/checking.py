"""Does everybody believe what the log says? The log is folded anew, and compared with what was said of it.

What is compared, and where:

================  ======================================================================================
``digest``        the state after the last record that a snapshot covers, with the digest in its index
``snapshot``      what the snapshot holds, loaded as a router would load it, with that same digest
``tail``          the snapshot folded on, with the state at the end of the next one (or of the log)
``claim``         what somebody believes: a router at its position, a bundle at its end
================  ======================================================================================

Every record is folded twice at most: once from the beginning, and once from the latest snapshot before it.
In memory are these two states, and nothing of the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

from aegisipc.eventstore.checkpoints import Snapshot, SnapshotUnusable, beginning, listed, load
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.replay.differences import diff
from aegisipc.eventstore.replay.sources import Claim, Source
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of

MAX_CHANGES: Final = 20
"""So many places at which two states differ are named."""

MAX_SHOWN: Final = 80
"""Characters of a value that differs."""

PROGRESS_EVERY: Final = 10_000
"""Records."""

type Progress = Callable[[int, int], None]
"""Is told which record was folded, and which one is the last."""


class Finding(StrEnum):
    """What came of one comparison."""

    AGREES = "agrees"
    DIFFERS = "differs"
    DAMAGED = "damaged"
    """There was something to compare, and it cannot be read."""
    SKIPPED = "skipped"
    """Nothing can be said of it: another version of the fold made it, or it is about what is not here."""


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison, of states after record ``seq``. ``claimed`` is the digest that somebody gave, ``found``
    the one that the log gives. ``changes`` are places at which the two states differ, as from the log's.
    """

    kind: str
    who: str
    seq: int
    finding: Finding
    claimed: str = ""
    found: str = ""
    why: str = ""
    changes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """It differs, or it is damaged."""
        return self.finding in (Finding.DIFFERS, Finding.DAMAGED)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all of them, in the order of the log. What was folded begins with record ``first_seq`` and
    ends with ``last_seq``; ``began_with`` says from which state, and ``digest`` is that at the end.
    """

    about: str
    began_with: str
    first_seq: int
    last_seq: int
    digest: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Nothing differs, and nothing is damaged."""
        return not any(found.failed for found in self.checks)

    def count(self, finding: Finding) -> int:
        """Count the comparisons that came to that."""
        return sum(found.finding is finding for found in self.checks)

    @property
    def first_difference(self) -> Check | None:
        """The earliest one that differs."""
        return next((found for found in self.checks if found.finding is Finding.DIFFERS), None)

    @property
    def agreed_until(self) -> int:
        """The last place before the first difference at which states were compared and agree; else the one
        before the first record that was folded.
        """
        first = self.first_difference
        agreeing = (
            found.seq
            for found in self.checks
            if found.finding is Finding.AGREES and (first is None or found.seq < first.seq)
        )
        return max(agreeing, default=self.first_seq - 1)

    def to_plain(self) -> dict[str, Any]:
        """Return it as data for programs."""
        first = self.first_difference
        return {
            "ok": self.ok,
            **{finding.value: self.count(finding) for finding in Finding},
            "first_difference": first.seq if first is not None else None,
            "agreed_until": self.agreed_until if first is not None else None,
            "about": self.about,
            "began_with": self.began_with,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "fold_version": FOLD_VERSION,
            "digest": self.digest,
            "checks": [asdict(found) for found in self.checks],
        }


async def check(
    source: Source,
    claims: Iterable[Claim] = (),
    *,
    until_seq: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Fold the log from its beginning (a bundle from its base) up to and with the record `until_seq`
    (default: the end as of now), and compare on the way; with what `claims` say, too.

    Raises:
        NoBeginning: the first records are gone, and there is no snapshot to begin with.
        AegisError: the log cannot be read.
    """
    snapshots = await listed(source.log, source.subjects)
    bounds = await source.log.bounds()
    state, began_with = await _beginning(source)
    until = bounds.last_seq if until_seq is None else min(until_seq, bounds.last_seq)
    checker = _Checker(source, state, until, bounds.last_seq)
    return await checker.run(began_with, [*snapshots, *source.claims, *claims], progress)


async def _beginning(source: Source) -> tuple[SystemState, str]:
    state = await beginning(source.log, source.subjects, base=source.base)
    if not state.position:
        return state, "an empty state"
    return state, f"the state after record {state.position}, which it brings along"


class _Checker:
    """One pass over the log: ``_state`` is folded from the beginning, ``_tail`` from the latest snapshot."""

    def __init__(self, source: Source, state: SystemState, until: int, last_seq: int) -> None:
        self._source = source
        self._state = state
        self._begin = state.position
        self._until = until
        self._last_seq = last_seq
        self._tail: SystemState | None = None
        self._tail_of = ""
        self._tail_from = 0
        self._checks: list[Check] = []

    async def run(
        self, began_with: str, told: Iterable[Snapshot | Claim], progress: Progress | None
    ) -> Report:
        """Fold everything, and compare where somebody told something."""
        stops = sorted(filter(self._is_in_reach, told), key=_place_of, reverse=True)
        reading = self._source.log.read([self._source.subjects.everything], start=Start(self._begin + 1))
        async with aclosing(reading) as records:
            async for record in records:
                if record.seq > self._until:
                    break
                while stops and _place_of(stops[-1]) < record.seq:
                    await self._compare(stops.pop())
                self._fold(record)
                if progress is not None and record.seq % PROGRESS_EVERY == 0:
                    progress(record.seq, self._until)
        while stops:
            await self._compare(stops.pop())
        self._compare_tail()
        last_seq, digest = self._state.position, digest_of(self._state)
        checks = tuple(sorted(self._checks, key=lambda found: found.seq))
        return Report(self._source.about, began_with, self._begin + 1, last_seq, digest, checks)

    def _is_in_reach(self, told: Snapshot | Claim) -> bool:
        """What is about a later record than was asked for is left out; but not what is about none at all."""
        return not self._until < _place_of(told) <= self._last_seq

    def _fold(self, record: Record) -> None:
        self._state.apply(record)
        if self._tail is not None:
            self._tail.apply(record)

    async def _compare(self, told: Snapshot | Claim) -> None:
        if isinstance(told, Claim):
            self._checks.append(self._claim(told))
        else:
            self._checks.append(await self._snapshot(told))

    def _claim(self, claim: Claim) -> Check:
        made = Check("claim", claim.who, claim.seq, Finding.SKIPPED, claim.digest)
        if claim.why_not:
            return replace(made, why=claim.why_not)
        if claim.seq < self._begin:
            return replace(made, why=self._too_early())
        if claim.seq > self._last_seq:
            why = f"it has read up to record {claim.seq}, and the log ends with {self._last_seq}"
            return replace(made, finding=Finding.DIFFERS, why=why)
        found = digest_of(self._state)
        finding = Finding.AGREES if found == claim.digest else Finding.DIFFERS
        return replace(made, finding=finding, found=found)

    def _too_early(self) -> str:
        return f"what is checked here begins after record {self._begin}"

    # -- snapshots --------------------------------------------------------------------------------------

    async def _snapshot(self, snapshot: Snapshot) -> Check:
        """Compare what it holds with the state; fold on from it if that agrees."""
        seq, digest = _place_of(snapshot), snapshot.index.digest if snapshot.index is not None else ""
        made = Check("snapshot", f"snapshot in record {snapshot.seq}", seq, Finding.SKIPPED, digest)
        if seq < self._begin:
            return replace(made, why=self._too_early())
        if seq >= snapshot.seq and snapshot.index is not None:
            why = f"it says that it covers record {seq}, which was not there yet when it was written"
            return replace(made, finding=Finding.DAMAGED, why=why)
        self._compare_tail()
        try:
            loaded = await load(self._source.log, self._source.subjects, snapshot)
        except SnapshotUnusable as error:
            finding = Finding.DAMAGED if error.reason == "damaged" else Finding.SKIPPED
            return replace(made, finding=finding, why=error.message)
        made = replace(made, found=digest_of(self._state))
        if made.found != made.claimed:
            return replace(made, finding=Finding.DIFFERS, changes=_changes(self._state, loaded))
        self._tail, self._tail_of, self._tail_from = loaded, made.who, seq
        return replace(made, finding=Finding.AGREES)

    def _compare_tail(self) -> None:
        """Compare what the latest sound snapshot came to; both have folded the same records since."""
        tail, seq = self._tail, self._state.position
        if tail is None or seq == self._tail_from:
            return
        claimed, found = digest_of(tail), digest_of(self._state)
        made = Check("tail", self._tail_of, seq, Finding.AGREES, claimed, found)
        if claimed != found:
            made = replace(made, finding=Finding.DIFFERS, changes=_changes(self._state, tail))
        self._checks.append(made)


def _place_of(told: Snapshot | Claim) -> int:
    """After which record the states are compared."""
    if isinstance(told, Claim):
        return told.seq
    return told.index.covers if told.index is not None else told.seq


def _changes(state: SystemState, other: SystemState) -> tuple[str, ...]:
    """Name places at which another state differs from the one that the log gives."""
    found = diff(state.to_plain(), other.to_plain())
    named = [f"{'/'.join(one.path)}: {_short(one.before)} -> {_short(one.after)}" for one in found]
    if not named:
        return ("what they show is the same: they differ in what they remember for later",)
    more = len(named) - MAX_CHANGES
    return (*named[:MAX_CHANGES], *([f"and {more} more"] if more > 0 else []))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"

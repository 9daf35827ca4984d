"""The log is folded anew, and compared with its snapshots, and with what routers and bundles claim."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegisipc.eventstore import checkpoints
from aegisipc.eventstore.log import BEGINNING, Bounds, Record, Start
from aegisipc.eventstore.memory import MemoryLog
from aegisipc.eventstore.replay import Extent, NoBeginning, Point, checking, state_at
from aegisipc.eventstore.replay.checking import Check, Finding, Report, check
from aegisipc.eventstore.replay.sources import Claim, Source
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of, dump_state
from tests.eventstore.test_fold_determinism import S, random_records

AGREES, DIFFERS, DAMAGED, SKIPPED = Finding
FEW = settings(max_examples=25)
"""Each example is a whole log, folded several times."""


class Trimmed(MemoryLog):
    """A log that has lost its first records."""

    lost = 0

    async def bounds(self) -> Bounds:
        found = await super().bounds()
        return found._replace(first_seq=self.lost + 1)

    def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> Any:
        return super().read(subjects, start=start._replace(seq=max(start.seq, self.lost + 1)))


async def log_of(records: Sequence[Record], cuts: Sequence[int] = ()) -> MemoryLog:
    """A log with these records, and a snapshot (two records) after each of `cuts` of them."""
    clock = itertools.count(1_000, 1_000)
    log, state = Trimmed(lambda: next(clock)), SystemState(S)
    for number, record in enumerate(records, start=1):
        await log.append(record.subject, record.payload)
        if number in cuts:
            folded_on(state, log)
            await checkpoints.write(log, S, dump_state(state), router="r1", taken_ns=1)
    return log


def folded_on(state: SystemState, log: MemoryLog, until: int | None = None) -> SystemState:
    return state.replay(log._records[state.position : until])


def source_of(log: MemoryLog, claims: Sequence[Claim] = ()) -> Source:
    return Source(log, S, "a log in memory", claims=tuple(claims))


def found_in(report: Report) -> list[tuple[str, int, Finding]]:
    return [(found.kind, found.seq, found.finding) for found in report.checks]


def tampered(log: MemoryLog, subject: str, payload: bytes, which: int = 0) -> int:
    """Replace what stands in a record on that subject; returns its sequence."""
    seq = [record.seq for record in log._records if record.subject == subject][which]
    log._records[seq - 1] = log._records[seq - 1]._replace(payload=payload)
    return seq


def index_with(log: MemoryLog, which: int = 0, **changes: Any) -> bytes:
    """The index of a snapshot, with other values."""
    stored = [record for record in log._records if record.subject == S.snapshot_index][which]
    type_name, data = msgpack.unpackb(stored.payload)
    payload: bytes = msgpack.packb([type_name, data | changes])
    return payload


@FEW
@given(st.integers(0, 1 << 32), st.sets(st.integers(1, 120), max_size=5), st.integers(0, 120))
async def test_snapshots_of_any_log_agree_and_so_does_whoever_folded_it(
    seed: int, cuts: set[int], position: int
) -> None:
    log = await log_of(random_records(seed, 120), sorted(cuts))
    router = folded_on(SystemState(S), log, position)
    report = await check(source_of(log), [Claim("router r1", position, digest_of(router))])
    assert report.ok
    assert report.count(AGREES) == len(report.checks)
    kinds = [found.kind for found in report.checks]
    assert (kinds.count("snapshot"), kinds.count("tail"), kinds.count("claim")) == (len(cuts), len(cuts), 1)
    assert report.digest == digest_of(folded_on(SystemState(S), log))
    assert (report.first_seq, report.last_seq) == (1, len(log._records))


@FEW
@given(st.integers(0, 1 << 32), st.integers(1, 60), st.integers(61, 110))
async def test_what_is_another_state_is_found_and_where_it_came_about(
    seed: int, cut: int, dropped: int
) -> None:
    """A router drops a record. From where that makes a difference on, it differs."""
    log = await log_of(random_records(seed, 120), [cut])
    honest, other = SystemState(S), SystemState(S)
    claims, bad = [], []
    for record in log._records:
        honest.apply(record)
        if record.seq != dropped:
            other.apply(record)
        if record.seq % 10 == 0:
            claims.append(Claim("router r1", record.seq, digest_of(other)))
            bad += [record.seq] if digest_of(other) != digest_of(honest) else []
    report = await check(source_of(log, claims))
    assert [found.seq for found in report.checks if found.failed] == bad
    assert {found.kind for found in report.checks if found.failed} <= {"claim"}
    assert report.ok == (not bad)
    if bad:
        assert report.first_difference is not None
        assert report.agreed_until < bad[0] == report.first_difference.seq
        assert report.agreed_until >= bad[0] - 10
        assert dropped <= bad[0]


async def a_log(cuts: Sequence[int] = (50, 80)) -> MemoryLog:
    return await log_of(random_records(7, 100), cuts)


async def failing(log: MemoryLog, **options: Any) -> list[Check]:
    report = await check(source_of(log), **options)
    return [found for found in report.checks if found.finding is not AGREES]


async def test_a_forged_snapshot_differs_and_what_differs_is_named() -> None:
    log = await a_log(cuts=(50,))
    forged = folded_on(SystemState(S), log, 60)
    forged.unreadable += 5
    forged.finished["orders", "gone"] = True
    await checkpoints.write(log, S, dump_state(forged), router="liar", taken_ns=1)
    report = await check(source_of(log))
    (bad,) = [found for found in report.checks if found.failed]
    assert (bad.kind, bad.seq, bad.finding) == ("snapshot", 60, DIFFERS)
    assert bad.claimed == digest_of(forged) != bad.found
    assert any("finished" in change and "gone" in change for change in bad.changes)
    assert report.first_difference is bad
    assert report.agreed_until == 50
    assert found_in(report)[-1] == ("tail", len(log._records), AGREES)  # of the one before it


@pytest.mark.parametrize("which", ["digest", "sha256", "covers", "bytes", "parts"])
async def test_a_tampered_index_is_damage(which: str) -> None:
    log = await a_log()
    values: dict[str, Any] = {"digest": "0" * 64, "sha256": "0" * 64, "covers": 49, "bytes": 17, "parts": [1]}
    seq = tampered(log, S.snapshot_index, index_with(log, **{which: values[which]}))
    (bad,) = await failing(log)
    assert (bad.kind, bad.finding, bad.who) == ("snapshot", DAMAGED, f"snapshot in record {seq}")
    assert bad.why


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x92\x01\x80", bytes(5000)])
async def test_an_index_that_is_none_is_damage(payload: bytes) -> None:
    log = await a_log()
    seq = tampered(log, S.snapshot_index, payload)
    (bad,) = await failing(log)
    assert (bad.seq, bad.finding) == (seq, DAMAGED)


async def test_a_changed_byte_in_a_part_is_damage_and_the_earlier_snapshot_is_folded_on() -> None:
    log = await a_log()
    part = next(record for record in log._records[80:] if record.subject == S.snapshot_part)
    payload = bytearray(part.payload)
    payload[-3] ^= 1
    tampered(log, S.snapshot_part, bytes(payload), which=1)
    report = await check(source_of(log))
    assert [(kind, finding) for kind, _, finding in found_in(report)] == [
        ("snapshot", AGREES),
        ("tail", AGREES),
        ("snapshot", DAMAGED),
        ("tail", AGREES),
    ]
    assert not report.ok
    assert report.first_difference is None


async def test_a_snapshot_that_covers_what_came_after_it_is_damage() -> None:
    log = await a_log(cuts=(50,))
    tampered(log, S.snapshot_index, index_with(log, covers=99))
    (bad,) = await failing(log)
    assert (bad.seq, bad.finding) == (99, DAMAGED)
    assert "was not there yet" in bad.why


@pytest.mark.parametrize("changes", [{"fold_version": FOLD_VERSION + 1}, {"fold_version": 0}])
async def test_a_snapshot_of_another_version_of_the_fold_is_skipped(changes: dict[str, Any]) -> None:
    log = await a_log()
    tampered(log, S.snapshot_index, index_with(log, **changes))
    report = await check(source_of(log))
    assert report.ok
    (skipped,) = [found for found in report.checks if found.finding is SKIPPED]
    assert f"version {changes['fold_version']} of the fold" in skipped.why


async def test_a_snapshot_of_a_newer_form_is_skipped() -> None:
    log = await a_log()
    tampered(log, S.snapshot_index, msgpack.packb(["system.snapshot.v9", {}]))
    report = await check(source_of(log))
    assert report.ok
    (skipped,) = [found for found in report.checks if found.finding is SKIPPED]
    assert "system.snapshot.v9" in skipped.why


async def test_a_state_that_a_snapshot_cannot_give_back_whole_is_found_by_folding_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its digest is right, and yet what is loaded forgot something that matters later only."""

    async def forgetful(*args: Any) -> SystemState:
        state = await checkpoints.load(*args)
        state.suspected.clear()
        state.topology.services.clear()
        return state

    log = await a_log()
    monkeypatch.setattr(checking, "load", forgetful)
    report = await check(source_of(log))
    first = report.first_difference
    assert first is not None
    assert (first.kind, first.seq, report.agreed_until) == ("tail", 82, 50)
    assert first.changes


# -- claims --------------------------------------------------------------------------------------------


async def test_a_claim_about_what_is_not_in_the_log_differs() -> None:
    log = await a_log()
    (bad,) = [
        found for found in (await check(source_of(log), [Claim("r", 999, "0" * 64)])).checks if found.failed
    ]
    assert (bad.seq, bad.finding) == (999, DIFFERS)
    assert f"ends with {len(log._records)}" in bad.why


async def test_a_claim_that_cannot_be_judged_is_skipped_with_its_reason() -> None:
    log = await a_log()
    report = await check(source_of(log), [Claim("r", 5, "0" * 64, "another fold")])
    assert report.ok
    assert [found.why for found in report.checks if found.finding is SKIPPED] == ["another fold"]


async def test_a_claim_before_the_first_record_is_about_the_empty_state() -> None:
    report = await check(source_of(await log_of([])), [Claim("r", 0, digest_of(SystemState(S)))])
    assert found_in(report) == [("claim", 0, AGREES)]
    assert (report.first_seq, report.last_seq) == (1, 0)


# -- parts of logs --------------------------------------------------------------------------------------


async def test_up_to_a_record_only_what_is_about_earlier_ones_is_compared() -> None:
    log = await a_log()
    claims = [Claim("r", 90, "0" * 64)]
    report = await check(source_of(log, claims), until_seq=70)
    assert found_in(report) == [("snapshot", 50, AGREES), ("tail", 70, AGREES)]
    assert report.last_seq == 70
    assert report.digest == digest_of(folded_on(SystemState(S), log, 70))


async def test_a_bundle_begins_with_its_base_and_says_what_it_comes_to() -> None:
    log = await a_log()
    whole = digest_of(folded_on(SystemState(S), log))
    log.lost = 60  # type: ignore[attr-defined]
    source = Source(
        log,
        S,
        "a bundle",
        base=lambda: folded_on(SystemState(S), log, 60),
        claims=(Claim("the end of the bundle", len(log._records), whole),),
    )
    report = await check(source, [Claim("r", 40, "0" * 64)])
    assert report.ok
    assert report.first_seq == 61
    assert [(kind, finding) for kind, _, finding in found_in(report)] == [
        ("claim", SKIPPED),
        ("snapshot", AGREES),
        ("claim", AGREES),
        ("tail", AGREES),
    ]


async def test_an_imported_log_begins_with_its_first_snapshot() -> None:
    log = await a_log()
    log.lost = 50  # type: ignore[attr-defined]
    report = await check(source_of(log))
    assert report.ok
    assert report.first_seq == 51
    assert "the state after record 50" in report.began_with
    assert report.digest == digest_of(folded_on(SystemState(S), log))


async def test_a_log_without_a_beginning_is_refused() -> None:
    log = await a_log()
    log.lost = 90  # type: ignore[attr-defined]
    with pytest.raises(NoBeginning, match="begins with record 91") as caught:
        await check(source_of(log))
    assert caught.value.first_seq == 91


async def test_of_a_log_without_a_beginning_no_state_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An imported log, folded from nothing, would give groups without instances, to a router, too."""
    log = await a_log()
    log.lost = 50  # type: ignore[attr-defined]
    last = Point(len(log._records), 0, "end", Extent(51, len(log._records), 0, 0, 0))
    whole = digest_of(folded_on(SystemState(S), log))
    assert digest_of(await state_at(source_of(log), last)) == whole
    assert digest_of(await state_at(source_of(log), last, from_beginning=True)) == whole
    monkeypatch.setattr(checkpoints, "FOLD_VERSION", FOLD_VERSION + 1)  # a later version reads the log
    with pytest.raises(NoBeginning):
        await checkpoints.newest(log, S)
    with pytest.raises(NoBeginning, match="begins with record 51") as caught:
        await state_at(source_of(log), last, from_beginning=True)
    assert caught.value.first_seq == 51


# -- what is told of it ---------------------------------------------------------------------------------


async def test_a_report_is_plain_data_for_programs() -> None:
    log = await a_log()
    plain = (await check(source_of(log), [Claim("r", 60, "0" * 64)])).to_plain()
    assert (plain["ok"], plain["agrees"], plain["differs"]) == (False, 4, 1)
    assert (plain["first_difference"], plain["agreed_until"]) == (60, 50)
    assert plain["checks"][1]["why"] == ""
    assert {found["finding"] for found in plain["checks"]} == {"agrees", "differs"}


async def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "PROGRESS_EVERY", 40)
    told: list[tuple[int, int]] = []
    log = await a_log()
    await check(source_of(log), progress=lambda seq, last: told.append((seq, last)))
    assert told == [(40, 104), (80, 104)]


async def test_no_record_is_folded_more_than_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    log = await a_log(cuts=(10, 20, 30, 40, 60, 70, 80, 90))
    folds = 0
    apply = SystemState.apply

    def counted(self: SystemState, record: Record) -> bool:
        nonlocal folds
        folds += 1
        return apply(self, record)

    monkeypatch.setattr(SystemState, "apply", counted)
    await check(source_of(log))
    assert folds <= 2 * len(log._records)

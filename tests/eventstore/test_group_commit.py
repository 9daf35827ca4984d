"""Group commit against a scripted log: what is gathered, retried, recognised, refused and given up."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from aegisipc.eventstore import group_commit
from aegisipc.eventstore.errors import (
    AckUnknown,
    AegisError,
    LogFailed,
    LogFull,
    LogMissing,
    NoResponders,
    NotConnected,
    Overloaded,
    PayloadTooLarge,
    WrongSequence,
)
from aegisipc.eventstore.group_commit import GroupCommit, OutFrame
from aegisipc.eventstore.jetstream import CheckInFlight
from aegisipc.eventstore.log import (
    BEGINNING,
    Appended,
    Bounds,
    Deliver,
    Expect,
    Following,
    Log,
    Record,
    Start,
)
from aegisipc.eventstore.memory import MemoryLog
from tests.eventstore.kit import until

SUBJECT, FENCE = "log.pen.i1", "log.ha._group"


@dataclass(frozen=True)
class Attempt:
    subject: str
    payload: bytes
    record_id: str | None
    expect: Expect | None
    timeout_s: float


@dataclass(frozen=True)
class StoredBut:
    """The append takes effect, and yet answers with this error."""

    error: AegisError


class ScriptedLog:
    """A memory log whose appends and lookups fail as the script says; what the script does not say works."""

    max_record_bytes = 1 << 20

    def __init__(self, *answers: AegisError | StoredBut | None) -> None:
        self.inner = MemoryLog(lambda: 0)
        self.answers = deque(answers)
        self.lookups: deque[AegisError] = deque()
        self.attempts: list[Attempt] = []
        self.in_flight = self.most_in_flight = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(
        self,
        subject: str,
        payload: bytes,
        *,
        record_id: str | None = None,
        expect: Expect | None = None,
        timeout_s: float = 5.0,
    ) -> Appended:
        self.attempts.append(Attempt(subject, payload, record_id, expect, timeout_s))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.gate.wait()
            answer = self.answers.popleft() if self.answers else None
            if isinstance(answer, AegisError):
                raise answer
            appended = await self.inner.append(subject, payload, record_id=record_id, expect=expect)
            if isinstance(answer, StoredBut):
                raise answer.error
            return appended
        finally:
            self.in_flight -= 1

    async def last(self, subject: str) -> Record | None:
        if self.lookups:
            raise self.lookups.popleft()
        return await self.inner.last(subject)

    async def bounds(self) -> Bounds:
        return await self.inner.bounds()

    def read(self, subjects: Sequence[str], *, start: Start = BEGINNING) -> AsyncGenerator[Record]:
        return self.inner.read(subjects, start=start)

    async def follow(
        self, subjects: Sequence[str], deliver: Deliver, *, start: Start = BEGINNING
    ) -> Following:
        return await self.inner.follow(subjects, deliver, start=start)

    @property
    def stored(self) -> list[bytes]:
        return [record.payload for record in self.inner.records_from(1)]


@dataclass
class Source:
    """Joins whatever was added since the last frame, as the cores do."""

    give_up_after_s: float = math.inf
    subject: str = SUBJECT
    expect: Expect | None = None
    on_refused: Callable[[OutFrame], OutFrame | None] = lambda frame: None
    pending: list[bytes] = field(default_factory=list)
    acks: list[tuple[bytes, Appended]] = field(default_factory=list)
    refusals: list[tuple[bytes, WrongSequence]] = field(default_factory=list)
    abandoned: list[tuple[bytes, AegisError, bool]] = field(default_factory=list)
    made: int = 0

    def next_frame(self) -> OutFrame | None:
        if not self.pending:
            return None
        payload, self.pending = b",".join(self.pending), []
        self.made += 1
        give_up_at = asyncio.get_running_loop().time() + self.give_up_after_s
        return OutFrame(self.subject, payload, f"f{self.made}", self.expect, give_up_at, None)

    def acked(self, frame: OutFrame, appended: Appended) -> None:
        self.acks.append((frame.payload, appended))

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        self.refusals.append((frame.payload, error))
        return self.on_refused(frame)

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:
        self.abandoned.append((frame.payload, error, maybe_stored))


@pytest.fixture(autouse=True)
def brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(group_commit, "_LONGEST_PAUSE_S", 0.004)


async def commit(log: Log, source: Source, *payloads: bytes) -> GroupCommit:
    """Add, kick, and wait until nothing is in flight."""
    committing = GroupCommit(log, source, name="test")
    source.pending.extend(payloads)
    committing.kick()
    await until(lambda: committing.is_idle)
    return committing


# -- gathering --------------------------------------------------------------------------------------------


async def test_what_is_added_in_one_turn_is_one_frame() -> None:
    log, source = ScriptedLog(), Source()
    committing = await commit(log, source, *(b"%d" % i for i in range(100)))
    assert log.stored == [b",".join(b"%d" % i for i in range(100))]
    assert (committing.frames, committing.retries) == (1, 0)
    assert source.acks == [(log.stored[0], Appended(1, duplicate=False))]


async def test_what_gathers_while_a_frame_is_in_flight_is_the_next_frame() -> None:
    log, source = ScriptedLog(), Source()
    log.gate.clear()
    committing = GroupCommit(log, source, name="test")
    source.pending.append(b"first")
    committing.kick()
    await until(lambda: log.in_flight == 1)
    for i in range(500):
        source.pending.append(b"%d" % i)
        committing.kick()
        if i % 50 == 0:
            await asyncio.sleep(0)
    log.gate.set()
    await until(lambda: committing.is_idle)
    assert log.stored == [b"first", b",".join(b"%d" % i for i in range(500))]
    assert log.most_in_flight == 1


async def test_frames_are_stored_in_the_order_in_which_they_were_made() -> None:
    log, source = ScriptedLog(*[AckUnknown("?"), None, NotConnected("?")] * 10), Source()
    committing = GroupCommit(log, source, name="test")
    for i in range(20):
        source.pending.append(b"%d" % i)
        committing.kick()
        await asyncio.sleep(0)
    await until(lambda: committing.is_idle)
    assert b",".join(log.stored) == b",".join(b"%d" % i for i in range(20))
    assert [payload for payload, _ in source.acks] == log.stored
    assert log.most_in_flight == 1


async def test_an_idle_committer_makes_no_frames() -> None:
    log, source = ScriptedLog(), Source()
    committing = await commit(log, source)
    assert (committing.frames, log.attempts) == (0, [])


# -- retrying ---------------------------------------------------------------------------------------------

PASSING: list[AegisError] = [
    AckUnknown("?"),
    NotConnected("?"),
    NoResponders("?"),
    Overloaded("?"),
    LogFailed("?"),
    CheckInFlight("?"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
async def test_the_same_frame_is_sent_again_until_it_is_acknowledged(error: AegisError) -> None:
    log, source = ScriptedLog(error, error, error), Source()
    committing = await commit(log, source, b"x")
    assert log.stored == [b"x"]
    assert len(log.attempts) == 4
    assert {(a.subject, a.payload, a.record_id, a.expect) for a in log.attempts} == {
        (SUBJECT, b"x", "f1", None)
    }
    assert (committing.frames, committing.retries) == (1, 3)
    assert source.acks == [(b"x", Appended(1, duplicate=False))]


async def test_a_frame_stored_without_an_answer_is_stored_once() -> None:
    log, source = ScriptedLog(StoredBut(AckUnknown("?")), NotConnected("?")), Source()
    await commit(log, source, b"x")
    assert log.stored == [b"x"]
    assert source.acks == [(b"x", Appended(1, duplicate=True))]


@pytest.mark.parametrize(
    ("error", "maybe_stored"),
    [
        (AckUnknown("?"), True),
        (LogFailed("?"), True),
        (NotConnected("?"), False),
        (NoResponders("?"), False),
        (Overloaded("?"), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_frame_whose_time_is_up_is_given_up(error: AegisError, maybe_stored: bool) -> None:
    log, source = ScriptedLog(*[error] * 1000), Source(give_up_after_s=0.03)
    await commit(log, source, b"x")
    assert source.abandoned == [(b"x", error, maybe_stored)]
    assert len(log.attempts) > 1
    assert source.acks == []


async def test_one_unanswered_attempt_leaves_a_doubt_whatever_the_others_said() -> None:
    refused = [NotConnected("?")] * 1000
    log, source = ScriptedLog(NotConnected("?"), AckUnknown("?"), *refused), Source(give_up_after_s=0.03)
    await commit(log, source, b"x")
    ((_, error, maybe_stored),) = source.abandoned
    assert isinstance(error, NotConnected)
    assert maybe_stored


async def test_an_attempt_lasts_no_longer_than_its_frame_has_time() -> None:
    log = ScriptedLog()
    await commit(log, Source(give_up_after_s=0.5), b"x")
    await commit(log, Source(give_up_after_s=-1), b"late")
    await commit(log, Source(), b"endless")
    first, late, endless = (attempt.timeout_s for attempt in log.attempts)
    assert 0.3 < first <= 0.5
    assert 0 < late < 0.1
    assert endless == group_commit.ATTEMPT_TIMEOUT_S


@pytest.mark.parametrize("error", [PayloadTooLarge("?"), LogMissing("?")], ids=lambda e: type(e).__name__)
async def test_what_no_retry_can_mend_is_given_up_at_once(error: AegisError) -> None:
    log, source = ScriptedLog(error), Source()
    committing = await commit(log, source, b"x")
    assert source.abandoned == [(b"x", error, False)]
    source.pending.append(b"next")
    committing.kick()
    await until(lambda: committing.is_idle)
    assert log.stored == [b"next"]


async def test_a_full_log_refuses_callers_at_once_and_waits_for_the_pen() -> None:
    full = LogFull("?")
    caller = Source(give_up_after_s=60)
    await commit(ScriptedLog(full), caller, b"call")
    assert caller.abandoned == [(b"call", full, False)]
    pen, log = Source(), ScriptedLog(full, full)
    await commit(log, pen, b"outcome")
    assert log.stored == [b"outcome"]
    assert pen.abandoned == []


async def test_what_may_be_stored_is_asked_for_again_also_when_the_log_is_full() -> None:
    caller, log = Source(give_up_after_s=60), ScriptedLog(AckUnknown("?"), LogFull("?"))
    await commit(log, caller, b"call")
    assert log.stored == [b"call"]
    assert caller.abandoned == []


# -- refusals ---------------------------------------------------------------------------------------------


async def test_a_refusal_goes_to_the_source_which_may_name_another_expectation() -> None:
    log = ScriptedLog()
    await log.inner.append(FENCE, b"epoch 1")
    await log.inner.append(FENCE, b"epoch 1 again")
    source = Source(expect=Expect(1, FENCE), on_refused=lambda frame: frame._replace(expect=Expect(2, FENCE)))
    await commit(log, source, b"x")
    ((payload, error),) = source.refusals
    assert (payload, error.subject, error.expected) == (b"x", FENCE, 1)
    assert source.acks == [(b"x", Appended(3, duplicate=False))]
    assert {(attempt.payload, attempt.record_id) for attempt in log.attempts} == {(b"x", "f1")}


async def test_a_fenced_source_stores_nothing() -> None:
    log = ScriptedLog()
    await log.inner.append(FENCE, b"epoch 2")
    source = Source(expect=Expect(0, FENCE))
    await commit(log, source, b"x")
    assert log.stored == [b"epoch 2"]
    assert len(source.refusals) == 1
    assert (source.acks, source.abandoned) == ([], [])


async def test_a_refusal_caused_by_the_frames_own_unanswered_attempt_is_an_acknowledgement() -> None:
    log, source = ScriptedLog(StoredBut(AckUnknown("?"))), Source(subject=FENCE, expect=Expect(0))
    await commit(log, source, b"x")
    assert log.stored == [b"x"]
    assert source.acks == [(b"x", Appended(1, duplicate=True))]
    assert source.refusals == []


async def test_an_own_record_is_recognised_even_when_another_writer_followed_it() -> None:
    log, source = ScriptedLog(StoredBut(AckUnknown("?"))), Source(subject=FENCE, expect=Expect(0))
    log.gate.clear()
    committing = GroupCommit(log, source, name="test")
    source.pending.append(b"mine")
    committing.kick()
    await until(lambda: log.in_flight == 1)
    log.gate.set()
    await until(lambda: log.stored == [b"mine"])
    await log.inner.append(FENCE, b"theirs")
    await until(lambda: committing.is_idle)
    assert log.stored == [b"mine", b"theirs"]
    assert source.acks == [(b"mine", Appended(1, duplicate=True))]


async def test_another_writers_record_is_not_mistaken_for_ones_own() -> None:
    log, source = ScriptedLog(AckUnknown("?")), Source(subject=FENCE, expect=Expect(0))
    await log.inner.append(FENCE, b"theirs")
    await commit(log, source, b"mine")
    assert log.stored == [b"theirs"]
    assert [payload for payload, _ in source.refusals] == [b"mine"]


async def test_looking_up_a_refusal_is_retried_through_every_passing_error() -> None:
    log, source = ScriptedLog(), Source(expect=Expect(7, FENCE))
    log.lookups.extend(
        [AckUnknown("?"), NotConnected("?"), NoResponders("?"), LogFailed("?"), LogMissing("?")]
    )
    committing = await commit(log, source, b"x")
    assert committing.failure is None
    assert len(source.refusals) == 1


async def test_a_lookup_that_never_succeeds_ends_in_doubt_when_time_is_up() -> None:
    log, source = ScriptedLog(), Source(expect=Expect(7, FENCE), give_up_after_s=0.03)
    log.lookups.extend([NotConnected("?")] * 1000)
    await commit(log, source, b"x")
    ((payload, error, maybe_stored),) = source.abandoned
    assert (payload, type(error), maybe_stored) == (b"x", NotConnected, True)


# -- defects and the end ----------------------------------------------------------------------------------


def _raise(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a defect")


@pytest.mark.parametrize("method", ["next_frame", "acked", "refused", "gave_up"])
async def test_a_source_that_raises_is_reported_and_nothing_more_is_written(
    method: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = {"refused": WrongSequence("?"), "gave_up": PayloadTooLarge("?")}.get(method)
    log, source = ScriptedLog(answer), Source()
    monkeypatch.setattr(source, method, _raise)
    told: list[BaseException] = []
    committing = GroupCommit(log, source, name="test", on_failure=told.append)
    source.pending.append(b"x")
    committing.kick()
    await until(lambda: committing.is_idle)
    assert [type(error) for error in told] == [ZeroDivisionError]
    assert committing.failure is told[0]
    assert "commit_failed" in "".join(capfd.readouterr())
    attempts = len(log.attempts)
    source.pending.append(b"y")
    committing.kick()
    await asyncio.sleep(0)
    assert committing.is_idle
    assert len(log.attempts) == attempts
    await committing.close()


async def test_without_a_callback_a_failure_is_kept_and_logged(capfd: pytest.CaptureFixture[str]) -> None:
    source = Source()
    source.acked = _raise  # type: ignore[method-assign]
    committing = await commit(ScriptedLog(), source, b"x")
    assert isinstance(committing.failure, ZeroDivisionError)
    assert "commit_failed" in "".join(capfd.readouterr())


async def test_close_stops_at_once_and_says_nothing_of_what_is_in_flight() -> None:
    log, source = ScriptedLog(), Source()
    log.gate.clear()
    committing = GroupCommit(log, source, name="test")
    source.pending.append(b"x")
    committing.kick()
    await until(lambda: log.in_flight == 1)
    await committing.close()
    await committing.close()
    assert committing.is_idle
    source.pending.append(b"y")
    committing.kick()
    await asyncio.sleep(0)
    assert (log.in_flight, len(log.attempts), committing.failure) == (0, 1, None)
    assert (source.acks, source.refusals, source.abandoned) == ([], [], [])


async def test_close_before_the_first_frame_sends_nothing() -> None:
    log, source = ScriptedLog(), Source()
    committing = GroupCommit(log, source, name="test")
    source.pending.append(b"x")
    committing.kick()
    await committing.close()
    await until(lambda: committing.is_idle)
    assert log.attempts == []


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
async def test_pauses_between_attempts_grow_to_a_bound_and_vary_by_chance(
    monkeypatch: pytest.MonkeyPatch, chance: float
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noting(delay_s: float) -> None:
        pauses.append(delay_s)
        await sleep(0)

    monkeypatch.setattr(group_commit, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(group_commit, "_LONGEST_PAUSE_S", 0.25)
    monkeypatch.setattr(asyncio, "sleep", noting)
    log, source = ScriptedLog(*(NotConnected("no") for _ in range(8))), Source(pending=[b"a"])
    committing = GroupCommit(log, source, name="test", chance=lambda: chance)
    committing.kick()
    await until(lambda: bool(source.acks))
    share = 0.5 + 0.5 * chance
    bound = [0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25, 0.25]
    assert [pause_s for pause_s in pauses if pause_s >= 0.005] == pytest.approx([share * b for b in bound])
    assert len({attempt.payload for attempt in log.attempts}) == 1
    assert len({attempt.record_id for attempt in log.attempts}) == 1

"""The battery catches what it is for: a verdict that could not be bad would be worth nothing."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from aegisipc.chaos.real.zygote import Zygote
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.battery import points
from tests.battery.judging import Counted, Effect, Outcome, Told, complaints
from tests.battery.plan import Case, strike, verdict
from tests.battery.points import Point, Reaching
from tests.battery.scene import NUMBER, Role, Scene, a_scene
from tests.support.waiting import eventually

_made = CallIds(1)
A, B = (_made.next(1_800_000_000_000) for _ in range(2))
FIRST, SECOND = format_call_id(A), format_call_id(B)
EFFECT = Effect(NUMBER, FIRST, "t1")
SUCCEEDED = Outcome(Mark.SUCCEEDED, encode("t1"))
DOUBT = Outcome(Mark.IN_DOUBT, None)
TOLD = Told("the caller", "t1")


def counted(*outcomes: Outcome, **others: list[Outcome]) -> Counted:
    found = Counted(calls={FIRST: "once"}, outcomes={FIRST: list(outcomes)} if outcomes else {})
    if "second" in others:
        found.calls[SECOND] = "once"
        found.outcomes[SECOND] = others["second"]
    return found


# -- the verdict -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effects", "log", "told", "may_doubt"),
    [
        ([EFFECT], counted(SUCCEEDED), [TOLD], False),
        ([EFFECT], counted(SUCCEEDED, second=[Outcome(Mark.DUPLICATE, A)]), [TOLD, TOLD], False),
        ([EFFECT], counted(DOUBT), [Told("a reader", None, "call_in_doubt")], True),
        ([], counted(DOUBT), [Told("a reader", None, "call_in_doubt")], True),
    ],
)
def test_what_is_right_is_not_complained_of(
    effects: list[Effect], log: Counted, told: list[Told], may_doubt: bool
) -> None:
    assert complaints(effects, log, told, may_doubt=may_doubt) == []


@pytest.mark.parametrize(
    ("effects", "log", "told", "may_doubt", "complaint"),
    [
        ([EFFECT, EFFECT], counted(SUCCEEDED), [TOLD], False, "took effect 2 times"),
        ([EFFECT, Effect(NUMBER, SECOND, "t2")], counted(DOUBT), [TOLD], True, "took effect 2 times"),
        ([], counted(SUCCEEDED), [TOLD], False, "no effect, and succeeded"),
        ([EFFECT._replace(token="t2")], counted(SUCCEEDED), [TOLD], False, "not that of the effect"),
        ([EFFECT._replace(call_id=SECOND)], counted(SUCCEEDED), [TOLD], False, "the effect is one of"),
        ([EFFECT], counted(SUCCEEDED, SUCCEEDED), [TOLD], False, "2 outcomes: SUCCEEDED, SUCCEEDED"),
        ([EFFECT], counted(DOUBT, SUCCEEDED), [TOLD], True, "2 outcomes: IN_DOUBT, SUCCEEDED"),
        ([EFFECT], counted(), [TOLD], True, "has no outcome"),
        ([EFFECT], counted(SUCCEEDED, second=[SUCCEEDED]), [TOLD], False, "2 calls have an outcome of their"),
        ([EFFECT], counted(SUCCEEDED, second=[Outcome(Mark.DUPLICATE, B)]), [TOLD], False, "another one"),
        ([EFFECT], counted(SUCCEEDED), [Told("r", "t2")], False, "r was told 't2', and the log says 't1'"),
        ([EFFECT], counted(SUCCEEDED), [TOLD, Told("r", None, "call_timeout")], False, "'call_timeout'"),
        ([EFFECT], counted(DOUBT), [TOLD], True, "was told 't1', and the log says 'call_in_doubt'"),
        ([EFFECT], counted(SUCCEEDED), [], False, "nobody was told"),
        ([EFFECT], counted(DOUBT), [Told("r", None, "call_in_doubt")], False, "in doubt, without need"),
        ([], counted(Outcome(Mark.FAILED, None)), [TOLD], False, "its outcome is FAILED"),
        ([], counted(Outcome(Mark.EXPIRED, None)), [TOLD], True, "its outcome is EXPIRED"),
    ],
)
def test_what_is_wrong_is_complained_of(
    effects: list[Effect], log: Counted, told: list[Told], may_doubt: bool, complaint: str
) -> None:
    assert complaint in "\n".join(complaints(effects, log, told, may_doubt=may_doubt))


def test_a_call_that_was_claimed_twice_is_complained_of() -> None:
    log = counted(SUCCEEDED)
    log.claims[FIRST] = 2
    assert "claimed 2 times" in complaints([EFFECT], log, [TOLD], may_doubt=False)[0]


# -- flaws of roles --------------------------------------------------------------------------------------


@pytest.fixture
def flawed(shared_server: EmbeddedServer, zygote: Zygote, tmp_path: Path) -> Any:
    def make(deed: str, **flaws: str) -> AbstractAsyncContextManager[Scene]:
        wrong = {Role(name): flaw for name, flaw in flaws.items()}
        return a_scene(shared_server, zygote, tmp_path, deed=deed, flaws=wrong)

    return make


async def caught(scene: Scene, case: Case) -> str:
    """The complaint of the verdict."""
    with pytest.raises(AssertionError) as failed:
        await verdict(scene, case)
    return str(failed.value)


async def test_a_handler_that_writes_twice_is_caught(flawed: Any) -> None:
    async with flawed("once", instance="twice") as scene:
        scene.let_go()
        scene.start_client()
        assert "took effect 2 times" in await caught(scene, Case(Role.ROUTER, Point.CLAIMED, "once"))


async def test_an_instance_that_does_not_know_of_claims_is_caught(flawed: Any) -> None:
    async with flawed("once", instance="no claims") as scene:
        case = Case(Role.INSTANCE, Point.EFFECT, "once")
        await strike(scene, case)
        found = await caught(scene, case)
        assert "took effect 2 times" in found
        assert "claimed 2 times" in found


async def test_a_handler_without_the_calls_transaction_is_caught_when_its_instance_dies(flawed: Any) -> None:
    async with flawed("transactional", instance="no transaction") as scene:
        case = Case(Role.INSTANCE, Point.EFFECT, "transactional")
        await strike(scene, case)
        assert "took effect 2 times" in await caught(scene, case)


async def test_a_caller_that_asks_again_without_a_key_is_caught(flawed: Any) -> None:
    async with flawed("once") as scene:
        case = Case(Role.CLIENT, Point.APPENDED, "once")
        await strike(scene, case)  # and the client that comes back knows nothing of the first call
        found = await caught(scene, case)
        assert "took effect 2 times" in found
        assert "2 calls have an outcome of their own" in found


async def test_a_client_that_sends_a_new_call_instead_of_the_same_frame_is_caught(flawed: Any) -> None:
    async with flawed("once", client="impatient") as scene:
        reaching = Reaching(scene, Point.APPENDED)
        scene.start_client()
        await reaching.reached()
        await scene.until(lambda: scene.events("caller", "again"), "it loses patience")
        reaching.drop()
        found = await caught(scene, Case(Role.ROUTER, Point.APPENDED, "once"))
        assert "took effect 2 times" in found


# -- points ----------------------------------------------------------------------------------------------


async def test_a_point_that_is_not_reached_is_no_point(flawed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with flawed("once") as scene:
        reaching = Reaching(scene, Point.EFFECT)
        monkeypatch.setattr("tests.battery.scene.ENDED_S", 0.2)
        with pytest.raises(AssertionError, match=r"not within 0\.2 s: after the effect"):
            await reaching.reached()  # nobody called


async def test_a_point_that_was_passed_is_no_point(flawed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "AnswerTo", lambda wants: wants)  # it holds too early: nothing is stored
    async with flawed("once") as scene:
        reaching = Reaching(scene, Point.APPENDED)
        scene.start_client()
        with pytest.raises(AssertionError, match="after append before its ack"):
            await reaching.reached()


# -- processes -------------------------------------------------------------------------------------------


async def test_a_process_that_fails_says_why(zygote: Zygote, tmp_path: Path) -> None:
    child = zygote.fork("tests.battery.roles:nothing", tmp_path / "out", {})
    await eventually(lambda: not child.is_alive, within_s=10, what="it ends")
    assert child.code == 1
    assert "AttributeError" in (tmp_path / "out").read_text()


async def test_a_process_lives_until_it_is_killed(zygote: Zygote, tmp_path: Path) -> None:
    child = zygote.fork("signal:pause", tmp_path / "out", {})
    await asyncio.sleep(0.05)
    assert child.is_alive
    child.kill()
    assert (child.is_alive, child.code) == (False, -9)
    child.kill()  # again: nothing happens

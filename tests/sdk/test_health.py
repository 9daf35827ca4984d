"""Health checks: what counts as well, what as unhealthy, and that none of them can hold up its asker."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from aegisipc.eventstore.events import MAX_REASON
from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.health import HealthCheck
from aegisipc.sdk.service import Service
from tests.support.waiting import eventually

GENEROUS_S = 30.0
SHORT_S = 0.05


def asynchronous(answer: Callable[[], Any]) -> Callable[[], Any]:
    async def check() -> Any:
        return answer()

    return check


@pytest.fixture(params=["plain", "async"])
def kind(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], HealthCheck]:
    """Makes a check of a function, once as a plain one, once as an async one."""

    def made(answer: Callable[[], Any]) -> HealthCheck:
        return HealthCheck(answer if request.param == "plain" else asynchronous(answer), timeout_s=GENEROUS_S)

    return made


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raises(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize("answer", [None, True, ""])
async def test_none_true_and_an_empty_text_are_good_news(kind: Any, answer: object) -> None:
    assert await kind(lambda: answer).run() is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (False, "the health check returned False"),
        ("venue: logged off", "venue: logged off"),
        (0, "the health check returned int, which is neither None, a bool nor a text"),
        ([], "the health check returned list, which is neither None, a bool nor a text"),
    ],
)
async def test_false_a_text_and_anything_else_are_bad_news(kind: Any, answer: object, reason: str) -> None:
    assert await kind(lambda: answer).run() == reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("refused"), "ConnectionError: refused"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (asyncio.CancelledError("inside"), "CancelledError: inside"),
        (Mute(), "Mute: <Mute that cannot be shown: RuntimeError>"),
    ],
    ids=lambda given: type(given).__name__,
)
async def test_whatever_a_check_raises_is_bad_news(kind: Any, error: BaseException, reason: str) -> None:
    assert await kind(lambda: raises(error)).run() == f"the health check failed: {reason}"


async def test_a_reason_is_cut_to_what_the_log_takes(kind: Any) -> None:
    assert len(await kind(lambda: "x" * 10_000).run()) == MAX_REASON
    assert len(await kind(lambda: raises(ValueError("x" * 10_000))).run()) <= MAX_REASON


async def test_a_plain_check_runs_in_a_thread_that_does_not_keep_the_process_alive() -> None:
    seen: list[threading.Thread] = []
    assert await HealthCheck(lambda: seen.append(threading.current_thread())).run() is None
    assert seen[0] is not threading.current_thread()
    assert seen[0].daemon


async def test_a_plain_check_sees_the_context_variables_of_its_asker() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    assert await HealthCheck(variable.get).run() == "set"


async def test_an_async_check_that_takes_too_long_is_cancelled_and_asked_anew() -> None:
    runs: list[str] = []

    async def check() -> None:
        runs.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            runs.append("ended")

    found = HealthCheck(check, timeout_s=SHORT_S)
    assert await found.run() == "the health check failed: it did not answer within 0.05 s"
    await eventually(lambda: runs == ["begun", "ended"], within_s=GENEROUS_S)
    assert await found.run() == "the health check failed: it did not answer within 0.05 s"
    assert runs.count("begun") == 2


async def test_while_a_plain_check_hangs_no_other_is_begun() -> None:
    free, begun = threading.Event(), list[int]()

    def check() -> None:
        begun.append(1)
        free.wait(GENEROUS_S)

    found = HealthCheck(check, timeout_s=SHORT_S)
    try:
        assert "did not answer" in str(await found.run())
        assert "has not ended yet" in str(await found.run())
        assert len(begun) == 1
    finally:
        free.set()
    found.timeout_s = found._hook.timeout_s = GENEROUS_S
    deadline = time.monotonic() + GENEROUS_S
    while (reason := await found.run()) is not None:
        assert "has not ended yet" in reason
        assert time.monotonic() < deadline
    assert len(begun) == 2


async def test_an_async_check_that_ignores_its_cancellation_holds_up_nobody() -> None:
    free = asyncio.Event()

    async def check() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    found = HealthCheck(check, timeout_s=SHORT_S)
    assert "did not answer" in str(await found.run())
    assert "has not ended yet" in str(await found.run())
    free.set()
    await eventually(lambda: not found._hook._hanging[0].hangs, within_s=GENEROUS_S)
    assert await found.run() is None


async def test_whoever_asks_can_be_cancelled_and_takes_the_check_along() -> None:
    ended = asyncio.Event()

    async def check() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(HealthCheck(check, timeout_s=GENEROUS_S).run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), GENEROUS_S)


# -- definition ----------------------------------------------------------------------------------------


def test_a_service_has_the_check_that_was_declared_with_its_times() -> None:
    service = Service("desk")

    @service.health(every_s=2, timeout_s=0.5)
    def check() -> bool:
        return True

    found = service.health_check
    assert found is not None
    assert (found.function, found.every_s, found.timeout_s) == (check, 2, 0.5)


def test_without_parentheses_it_is_asked_every_second() -> None:
    service = Service("desk")

    @service.health
    async def check() -> None: ...

    found = service.health_check
    assert found is not None
    assert (found.function, found.every_s, found.timeout_s) == (check, 1.0, 1.0)


def test_a_second_check_is_refused() -> None:
    service = Service("desk")
    service.health(lambda: None)
    with pytest.raises(ServiceDefinitionError, match=r"@desk\.health twice"):
        service.health(lambda: None)


def test_a_check_that_wants_arguments_is_refused() -> None:
    with pytest.raises(ServiceDefinitionError, match="missing a required argument: 'venue'; write it as"):
        Service("desk").health(lambda venue: None)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), True, "1"])
@pytest.mark.parametrize("name", ["every_s", "timeout_s"])
def test_times_that_are_none_are_refused(name: str, seconds: Any) -> None:
    with pytest.raises(ServiceDefinitionError, match=f"cannot use {name}="):
        Service("desk").health(**{name: seconds})(lambda: None)

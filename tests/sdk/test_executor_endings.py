"""Handlers that are cancelled or to be run again, and bodies that are too large for a frame."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import (
    LogMissing,
    NotConnected,
    ObjectDamaged,
    ObjectMissing,
    PayloadTooLarge,
)
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.references import Reference, encode_reference, reference_in
from aegisipc.sdk import large_bodies, persistence
from aegisipc.sdk.context import Context
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.errors import ServiceError
from aegisipc.sdk.executor import Done, Executor
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.service import Service
from tests.sdk.kit import EPOCH_NS, GROUP

ID = b"\x01\xa3\x18\x5c\x50\x00\x70\x00\x80\x00\x04\x00\x00\x00\x00\x07"
WAIT_S = 30


def call(*args: Any, method: str = "handler") -> OpenCall:
    return OpenCall(ID, "c1", method, "acc_1", 1, EPOCH_NS + 2_000_000_000, encode([list(args), {}]))


def info(done: Done) -> Any:
    assert done.body is not None
    return decode(done.body)


type Make = Callable[..., Executor]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes an executor of one handler."""
    made: list[Executor] = []

    def executor(
        handler: Any, objects: Any = None, clock: Any = lambda: EPOCH_NS, **options: Any
    ) -> Executor:
        service = Service("orders", threads=1)
        service.method(effect=options.pop("effect", "idempotent"), name="handler", **options)(handler)
        identity = Identity("orders", GROUP, "a", "1", 1)
        made.append(Executor(service, identity, clock, 1000, None, objects))
        return made[-1]

    yield executor
    for one in made:
        one.close()


class Running:
    """A handler that waits inside, and what becomes of it."""

    def __init__(self) -> None:
        self.inside = asyncio.Event()
        self.go_on = asyncio.Event()

    def start(self, executor: Executor) -> asyncio.Task[Done]:
        return asyncio.Task(executor.execute(call(), 3), loop=asyncio.get_running_loop(), eager_start=True)


# -- cancelling -------------------------------------------------------------------------------------------


async def test_a_handler_that_ends_by_the_cancellation_makes_the_call_a_cancelled_one(make: Make) -> None:
    seen: list[bool] = []

    async def handler(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(ctx.cancelled)

    executor = make(handler)
    task = Running().start(executor)
    assert executor.cancel(ID, "alice", "changed my mind")
    done = await task
    assert seen == [True]
    assert done.mark is Mark.CANCELLED
    assert info(done) == {
        "code": "cancelled",
        "message": "orders.handler was cancelled by alice: changed my mind",
        "details": {"started": True, "author": "alice", "reason": "changed my mind"},
    }
    assert task.cancelling() == 0, "what follows in the task must not be cancelled"


async def test_a_handler_that_returns_all_the_same_has_succeeded(make: Make) -> None:
    async def handler() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "done"

    executor = make(handler)
    task = Running().start(executor)
    executor.cancel(ID, "alice")
    executor.cancel(ID, "alice", "again")  # no effect
    done = await task
    assert (done.mark, info(done)) == (Mark.SUCCEEDED, "done")
    assert task.cancelling() == 0


async def test_a_handler_that_raises_something_else_has_failed(make: Make) -> None:
    async def handler() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ServiceError("half_way", "x") from None

    executor = make(handler)
    task = Running().start(executor)
    executor.cancel(ID, "alice")
    assert info(await task)["code"] == "half_way"


@pytest.mark.parametrize("host_first", [True, False])
async def test_if_the_host_stops_too_there_is_no_outcome(make: Make, host_first: bool) -> None:
    async def handler() -> None:
        await asyncio.Event().wait()

    executor = make(handler)
    task = Running().start(executor)
    if host_first:
        task.cancel()
    assert executor.cancel(ID, "alice")
    if not host_first:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_call_that_does_not_run_or_not_any_more_cannot_be_cancelled(make: Make) -> None:
    async def handler() -> int:
        return 1

    executor = make(handler)
    assert not executor.cancel(ID, "alice")
    await executor.execute(call(), 3)
    assert not executor.cancel(ID, "alice")


async def test_a_cancel_while_the_result_is_put_away_has_no_effect(make: Make) -> None:
    running = Running()

    class Slow(Objects):
        async def put(self, name: str, payload: bytes) -> Reference:
            running.inside.set()
            await running.go_on.wait()
            return await super().put(name, payload)

    async def handler() -> str:
        return "x" * 5000

    executor = make(handler, Slow())
    task = running.start(executor)
    await asyncio.wait_for(running.inside.wait(), WAIT_S)
    assert not executor.cancel(ID, "alice")
    running.go_on.set()
    assert (await task).mark is Mark.SUCCEEDED


async def test_a_handler_that_cancels_its_own_call_and_returns_has_succeeded(make: Make) -> None:
    async def handler() -> int:
        assert executor.cancel(ID, "myself")
        return 1

    executor = make(handler)
    task = Running().start(executor)
    assert (await task).mark is Mark.SUCCEEDED
    assert task.cancelling() == 0


async def test_a_timeout_inside_a_handler_is_not_taken_for_a_cancelled_call(make: Make) -> None:
    async def handler() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    assert info(await make(handler).execute(call(), 3))["code"] == "internal_error"


@pytest.mark.parametrize("looks", [True, False])
async def test_a_plain_handler_is_cancelled_if_it_looks(make: Make, looks: bool) -> None:
    inside, go_on = threading.Event(), threading.Event()
    seen: list[bool] = []

    def handler(ctx: Context) -> int:
        seen.append(ctx.cancelled)
        ctx.raise_if_cancelled()
        inside.set()
        go_on.wait(WAIT_S)
        seen.append(ctx.cancelled)
        if looks:
            ctx.raise_if_cancelled()
        return 1

    executor = make(handler)
    task = Running().start(executor)
    await asyncio.to_thread(inside.wait, WAIT_S)
    assert executor.cancel(ID, "alice")
    go_on.set()
    assert (await task).mark is (Mark.CANCELLED if looks else Mark.SUCCEEDED)
    assert seen == [False, True]


async def test_a_plain_handler_that_still_waits_for_a_thread_does_not_begin(make: Make) -> None:
    go_on, begun = threading.Event(), []

    def handler(ctx: Context) -> None:
        begun.append(ctx.raw_call_id)
        go_on.wait(WAIT_S)

    executor = make(handler)
    first = Running().start(executor)
    other = call()
    other.call_id = ID[:-1] + b"\x08"
    second = asyncio.create_task(executor.execute(other, 3))
    await asyncio.sleep(0)
    assert executor.cancel(other.call_id, "alice")
    go_on.set()
    assert (await second).mark is Mark.CANCELLED
    assert (await first).mark is Mark.SUCCEEDED
    assert begun == [ID]


# -- running again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "error", "again"),
    [
        (None, ValueError("x"), False),
        (Retry(), ValueError("x"), True),
        (Retry(), ServiceError("busy", "x"), False),
        (Retry(on="busy"), ServiceError("busy", "x"), True),
        (Retry(on=KeyError), ValueError("x"), False),
    ],
)
async def test_an_error_says_whether_the_policy_runs_the_method_again(
    make: Make, retry: Retry | None, error: Exception, again: bool
) -> None:
    async def handler() -> None:
        raise error

    done = await make(handler, retry=retry).execute(call(), 3)
    assert (done.mark, done.again) == (Mark.FAILED, again)


async def test_wrong_arguments_and_results_are_never_retried(make: Make) -> None:
    async def handler(number: int) -> int:
        return "nonsense"  # type: ignore[return-value]

    executor = make(handler, retry=Retry())
    for args, code in ((["x"], "invalid_arguments"), ([1], "invalid_result")):
        done = await executor.execute(call(*args), 3)
        assert (info(done)["code"], done.again) == (code, False)


async def test_the_stack_tells_in_a_few_short_lines_where_it_failed(make: Make) -> None:
    def deep(levels: int) -> None:
        if levels == 0:
            raise ValueError("x" * 1000 + "\nsecond line")
        deep(levels - 1)

    async def handler(levels: int) -> None:
        deep(levels)

    def plainly(levels: int) -> None:
        deep(levels)

    threaded = (await make(plainly).execute(call(0), 3)).stack
    assert [" in ".join(line.split(" in ")[1:]).split(":")[0] for line in threaded[:-1]] == [
        "plainly",
        "deep",
    ]
    short = (await make(handler).execute(call(0), 3)).stack
    assert [" in ".join(line.split(" in ")[1:]).split(":")[0] for line in short[:-1]] == ["handler", "deep"]
    assert short[-1].startswith("ValueError: xxx")
    long = (await make(handler).execute(call(100), 3)).stack
    assert len(long) == 10
    assert all(len(line) <= 200 and "\n" not in line for line in long)
    assert "in deep: raise ValueError" in long[-2]


# -- large bodies -----------------------------------------------------------------------------------------


class Objects:
    """A store of objects that is a dict."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self.stored: dict[str, bytes] = {}
        self.limit = limit
        self.fails: list[Exception] = []

    async def put(self, name: str, payload: bytes) -> Reference:
        if self.fails:
            raise self.fails.pop(0)
        if len(payload) > self.limit:
            raise PayloadTooLarge("too large", size_bytes=len(payload), limit_bytes=self.limit)
        self.stored[name] = payload
        return Reference(name, len(payload), hashlib.sha256(payload).digest())

    async def get(self, reference: Reference) -> bytes:
        if self.fails:
            raise self.fails.pop(0)
        if reference.name not in self.stored:
            raise ObjectMissing("it is gone", name=reference.name)
        return self.stored[reference.name]


async def large_call(objects: Objects) -> OpenCall:
    found = call("x" * 5000)
    found.body = encode_reference(await objects.put("orders.acc.some-call.args", found.body))
    return found


async def length(text: str) -> int:
    return len(text)


async def repeat(count: int) -> str:
    return "x" * count


@pytest.mark.parametrize("is_async", [True, False])
async def test_large_results_become_objects(make: Make, is_async: bool) -> None:
    def plainly(count: int) -> str:
        return "x" * count

    objects = Objects()
    done = await make(repeat if is_async else plainly, objects).execute(call(5000), 3)
    assert done.mark is Mark.SUCCEEDED
    assert done.body is not None
    reference = reference_in(done.body)
    assert reference is not None
    assert reference.name == f"orders.{GROUP}.01a3185c-5000-7000-8000-040000000007.result.a.3"
    assert decode(objects.stored[reference.name]) == "x" * 5000


async def test_small_results_do_not(make: Make) -> None:
    objects = Objects()
    assert info(await make(repeat, objects).execute(call(5), 3)) == "xxxxx"
    assert objects.stored == {}


async def test_a_result_over_the_limit_of_objects_fails(make: Make) -> None:
    done = await make(repeat, Objects(limit=2000)).execute(call(5000), 3)
    assert info(done)["code"] == "result_too_large"
    assert info(done)["details"]["limit_bytes"] == 2000


async def test_a_result_waits_for_a_store_that_does_not_answer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistence, "_FIRST_PAUSE_S", 0.0)
    objects = Objects()
    objects.fails = [NotConnected("gone"), NotConnected("gone")]
    assert (await make(repeat, objects).execute(call(5000), 3)).mark is Mark.SUCCEEDED
    monkeypatch.setattr(large_bodies, "_PUT_PATIENCE_S", 0.0)
    objects.fails = [NotConnected("gone")]
    assert info(await make(repeat, objects).execute(call(5000), 3))["code"] == "result_not_stored"


async def test_a_result_that_the_store_refuses_fails(make: Make) -> None:
    objects = Objects()
    objects.fails = [LogMissing("no store")]
    found = info(await make(repeat, objects).execute(call(5000), 3))
    assert found["code"] == "result_not_stored"
    assert "its result cannot be stored: no store" in found["message"]


async def test_large_arguments_are_fetched(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "_FIRST_PAUSE_S", 0.0)
    objects = Objects()
    large = await large_call(objects)
    objects.fails = [NotConnected("gone"), NotConnected("gone")]
    assert info(await make(length, objects).execute(large, 3)) == 5000


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ObjectMissing("gone", name="x"), "object_missing"),
        (ObjectDamaged("damaged", name="x"), "object_damaged"),
        (PayloadTooLarge("too large", size_bytes=2, limit_bytes=1), "payload_too_large"),
    ],
)
async def test_arguments_that_are_not_to_be_had_fail_the_call_which_does_not_run(
    make: Make, error: Exception, code: str
) -> None:
    async def handler(text: str) -> None:
        raise AssertionError("it must not run")

    objects = Objects()
    large = await large_call(objects)
    objects.fails = [error]
    done = await make(handler, objects, retry=Retry()).execute(large, 3)
    assert (done.mark, info(done)["code"], done.again) == (Mark.FAILED, code, False)


async def test_a_broken_reference_fails_the_call(make: Make) -> None:
    broken = call()
    broken.body = encode_reference(Reference("x", 1, bytes(32)))[:-1]
    assert info(await make(length, Objects()).execute(broken, 3))["code"] == "malformed_payload"


@pytest.mark.parametrize(("effect", "mark"), [("idempotent", Mark.EXPIRED), ("once", Mark.FAILED)])
async def test_a_call_whose_arguments_come_too_late_does_not_run(make: Make, effect: str, mark: Mark) -> None:
    objects = Objects()
    large = await large_call(objects)
    objects.fails = [NotConnected("gone")]
    executor = make(length, objects, clock=lambda: EPOCH_NS + 3_000_000_000, effect=effect)
    assert (await executor.execute(large, 3)).mark is mark


@pytest.mark.parametrize(("effect", "mark"), [("idempotent", Mark.EXPIRED), ("once", Mark.FAILED)])
async def test_a_call_whose_arguments_are_there_after_its_deadline_does_not_run(
    make: Make, effect: str, mark: Mark
) -> None:
    objects, ran = Objects(), list[str]()

    async def handler(text: str) -> None:
        ran.append(text)

    large = await large_call(objects)
    done = await make(handler, objects, clock=lambda: large.deadline_ns, effect=effect).execute(large, 3)
    assert (done.mark, ran) == (mark, [])

"""Running handlers: whatever they do, the call gets a mark and bytes."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any

import pytest

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.context import Context
from aegisipc.sdk.core.pen import CLAIMED_TOO_LATE, Identity
from aegisipc.sdk.errors import InvalidArguments, ServiceError
from aegisipc.sdk.executor import Done, Executor
from aegisipc.sdk.failures import MAX_ERROR_BYTES, MAX_FIELD_ERRORS
from aegisipc.sdk.service import Service
from tests.sdk.kit import EPOCH_NS, GROUP

ID = b"\x01\xa3\x18\x5c\x50\x00\x70\x00\x80\x00\x04\x00\x00\x00\x00\x07"
service = Service("orders", threads=2)


@service.method(effect="pure")
async def echo(value: Any) -> Any:
    return value


@service.method(effect="pure")
async def wrong() -> int:
    return "not a number"  # type: ignore[return-value]


@service.method(effect="pure")
async def refuses() -> None:
    raise ServiceError("insufficient_funds", "not enough", missing=Decimal("1.5"), opaque=object())


@service.method(effect="pure")
async def breaks() -> None:
    raise ZeroDivisionError("oops")


@service.method(effect="pure")
async def is_cancelled_inside() -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


@service.method(effect="pure")
def in_a_thread(ctx: Context, value: int) -> str:
    return f"{threading.current_thread().name} {ctx.method} {value}"


@service.method(effect="pure")
async def sees(ctx: Context) -> list[Any]:
    return [
        ctx.service,
        ctx.group,
        ctx.instance,
        ctx.client,
        ctx.resource_id,
        ctx.epoch,
        ctx.call_id,
        ctx.remaining_s(),
    ]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Panic(BaseException):
    pass


HORRORS: dict[str, BaseException] = {
    "unprintable": Unprintable(),
    "panic": Panic("native code"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "code of another type": ServiceError(404, "gone"),  # type: ignore[arg-type]
    "message of another type": ServiceError("gone", ValueError("x")),  # type: ignore[arg-type]
    "surrogates": ServiceError("gone", "file \udcff", name="\udcff"),
    "huge details": ServiceError("gone", "big", rows=["x" * 100] * 100_000),
    "huge message": ValueError("x" * 1_000_000),
}


@service.method(effect="pure")
async def horror(name: str) -> None:
    raise HORRORS[name]


@service.method(effect="pure", name="horror_in_a_thread")
def horror_in_a_thread(name: str) -> None:
    raise HORRORS[name]


@service.method(effect="pure")
async def asks_another() -> None:
    raise InvalidArguments("cannot call risk.check: qty: too large", call_id="x", errors=[])


@service.method(effect="pure")
async def adds(numbers: list[int]) -> int:
    return sum(numbers)


@service.method
def late_in_a_thread() -> None:
    raise AssertionError("it must not start")


@service.method(effect="pure")
async def waits() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def executor() -> Any:
    found = Executor(service, Identity("orders", GROUP, "a", "1", 1), lambda: EPOCH_NS, 1000)
    yield found
    found.close()


def call(method: str, *args: Any) -> OpenCall:
    return OpenCall(ID, "c1", method, "acc_1", 1, EPOCH_NS + 2_000_000_000, encode([list(args), {}]))


async def failure(executor: Executor, method: str, *args: Any) -> dict[str, Any]:
    mark, body, emitted, *_ = await executor.execute(call(method, *args), 3)
    assert mark is Mark.FAILED
    assert body is not None
    assert emitted == ()
    info: dict[str, Any] = decode(body)
    return info


async def test_a_result_is_encoded(executor: Executor) -> None:
    assert await executor.execute(call("echo", {"a": Decimal(1)}), 1) == Done(
        Mark.SUCCEEDED, encode({"a": Decimal(1)}), ()
    )


async def test_the_context_tells_the_handler_about_its_call(executor: Executor) -> None:
    _, body, *_ = await executor.execute(call("sees"), 3)
    assert body is not None
    seen = decode(body)
    assert seen == ["orders", GROUP, "a", "c1", "acc_1", 3, "01a3185c-5000-7000-8000-040000000007", 2.0]


async def test_a_plain_function_runs_in_a_thread_of_the_service(executor: Executor) -> None:
    _, body, *_ = await executor.execute(call("in_a_thread", 7), 1)
    assert body is not None
    assert decode(body) == "orders_0 in_a_thread 7"


async def test_a_refusal_carries_its_code_message_and_details(executor: Executor) -> None:
    info = await failure(executor, "refuses")
    assert (info["code"], info["message"], info["details"]["missing"]) == (
        "insufficient_funds",
        "not enough",
        "Decimal('1.5')",
    )


async def test_any_other_exception_is_an_internal_error(executor: Executor) -> None:
    info = await failure(executor, "breaks")
    assert (info["code"], info["message"]) == (
        "internal_error",
        "orders.breaks failed: ZeroDivisionError: oops",
    )


async def test_a_cancellation_inside_the_handler_is_its_outcome(executor: Executor) -> None:
    info = await failure(executor, "is_cancelled_inside")
    assert info["code"] == "internal_error"


async def test_a_cancellation_of_the_run_itself_gives_no_outcome(executor: Executor) -> None:
    task = asyncio.create_task(executor.execute(call("waits"), 1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_result_of_the_wrong_type_fails_and_names_the_signature(executor: Executor) -> None:
    info = await failure(executor, "wrong")
    assert info["code"] == "invalid_result"
    assert "orders.wrong ran, but its result does not fit 'wrong() -> " in info["message"]


async def test_a_result_over_the_limit_fails(executor: Executor) -> None:
    info = await failure(executor, "echo", "x" * 2000)
    assert info["code"] == "result_too_large"
    assert info["details"]["limit_bytes"] == 1000


async def test_wrong_arguments_fail_and_name_the_field(executor: Executor) -> None:
    info = await failure(executor, "in_a_thread", "seven")
    assert info["code"] == "invalid_arguments"
    assert info["details"]["errors"][0]["field"] == "value"


async def test_an_unknown_method_fails_and_lists_the_known_ones(executor: Executor) -> None:
    info = await failure(executor, "nope")
    assert info["code"] == "no_such_method"
    assert "it has adds, asks_another, breaks" in info["message"]


@pytest.mark.parametrize("method", ["horror", "horror_in_a_thread"])
@pytest.mark.parametrize("name", HORRORS)
async def test_whatever_a_handler_raises_is_an_outcome_of_bounded_size(
    executor: Executor, method: str, name: str
) -> None:
    mark, body, *_ = await executor.execute(call(method, name), 3)
    assert mark is Mark.FAILED
    assert body is not None
    assert len(body) <= MAX_ERROR_BYTES
    info = decode(body)
    assert info["code"] in ("internal_error", "gone", "404")
    assert info["message"]


async def test_an_error_of_something_that_the_handler_called_is_not_about_its_own_arguments(
    executor: Executor,
) -> None:
    info = await failure(executor, "asks_another")
    assert info["code"] == "downstream_error"
    assert "failed on something it called: cannot call risk.check" in info["message"]
    assert info["details"]["code"] == "invalid_arguments"


async def test_of_very_many_faults_the_first_are_named_and_the_others_counted(executor: Executor) -> None:
    info = await failure(executor, "adds", ["x"] * 20_000)
    assert len(info["details"]["errors"]) == MAX_FIELD_ERRORS
    assert info["details"]["more"] == 20_000 - MAX_FIELD_ERRORS
    assert "and 19980 more" in info["message"]


async def test_a_call_that_waited_for_a_thread_beyond_its_deadline_does_not_start() -> None:
    late = Executor(service, Identity("orders", GROUP, "a", "1", 1), lambda: EPOCH_NS + 3_000_000_000, 1000)
    try:
        assert await late.execute(call("late_in_a_thread"), 1) == Done(Mark.FAILED, CLAIMED_TOO_LATE, ())
        assert await late.execute(call("horror_in_a_thread", "exit"), 1) == Done(Mark.EXPIRED, None, ())
    finally:
        late.close()

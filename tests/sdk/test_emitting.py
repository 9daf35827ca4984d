"""What handlers emit: kept with a success, dropped with a failure, refused where no state could take it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.frames import Mark
from aegisipc.sdk.context import Context
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.emitting import MAX_EMITTED_BYTES, MAX_EVENTS
from aegisipc.sdk.errors import EmitLimitExceeded, EmitRefused, ServiceDefinitionError, ServiceError
from aegisipc.sdk.executor import Done, Executor
from aegisipc.sdk.service import Service
from aegisipc.sdk.state import SharedState
from tests.sdk.kit import EPOCH_NS, GROUP

ID = b"\x01\xa3\x18\x5c\x50\x00\x70\x00\x80\x00\x04\x00\x00\x00\x00\x07"
LIMIT = 400_000


class Filled(BaseModel):
    symbol: str
    quantity: int = 1


class Unheard(BaseModel):
    """Nothing applies it."""


class Desk:
    """A service whose handlers emit, and what they left behind."""

    def __init__(self) -> None:
        self.service = Service("desk", threads=2)
        self.book: dict[str, int] = {}
        self.kept: list[Context] = []
        self.seen: list[Exception] = []
        handlers: list[Any] = [self.fill, self.fill_in_thread, self.fails, self.is_cut_off, self.fills_a_lot]
        handlers += [self.unheard, self.invalid, self.survives, self.large_result, self.quiet]
        for handler in handlers:
            self.service.method(handler)
        self.service.on(Filled)(self.filled)
        self.service.snapshot(self.taken)
        self.service.restore(self.restored)

    def filled(self, event: Filled) -> None:
        self.book[event.symbol] = self.book.get(event.symbol, 0) + event.quantity

    def taken(self) -> dict[str, int]:
        return self.book

    def restored(self, state: dict[str, int] | None) -> None:
        self.book = dict(state or {})

    async def fill(self, symbols: list[str], ctx: Context) -> int:
        for symbol in symbols:
            ctx.emit(Filled(symbol=symbol))
        self.kept.append(ctx)
        return len(symbols)

    def fill_in_thread(self, symbol: str, ctx: Context) -> str:
        ctx.emit(Filled(symbol=symbol))
        return threading.current_thread().name

    async def fails(self, ctx: Context) -> None:
        ctx.emit(Filled(symbol="A"))
        self.kept.append(ctx)
        raise ServiceError("refused", "no")

    async def is_cut_off(self, ctx: Context) -> None:
        self.kept.append(ctx)
        await asyncio.Event().wait()

    async def fills_a_lot(self, count: int, size: int, ctx: Context) -> None:
        for _ in range(count):
            ctx.emit(Filled(symbol="x" * size))

    async def unheard(self, ctx: Context) -> None:
        ctx.emit(Unheard())

    async def invalid(self, ctx: Context) -> None:
        filled: Any = Filled
        ctx.emit(filled.model_construct(symbol="A", quantity="many"))

    async def survives(self, ctx: Context) -> str:
        try:
            ctx.emit(Unheard())
        except ServiceDefinitionError as error:
            self.seen.append(error)
        ctx.emit(Filled(symbol="A"))
        return "done"

    async def large_result(self, size: int, events: int, ctx: Context) -> str:
        for _ in range(events):
            ctx.emit(Filled(symbol="x" * 1000))
        return "r" * size

    async def quiet(self) -> None:
        return None


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def state(desk: Desk) -> SharedState:
    return SharedState(desk.service)


@pytest.fixture
def executor(desk: Desk, state: SharedState) -> Iterator[Executor]:
    found = Executor(desk.service, Identity("desk", GROUP, "a", "1", 1), lambda: EPOCH_NS, LIMIT, state)
    yield found
    found.close()


def call(method: str, *args: Any) -> OpenCall:
    return OpenCall(ID, "c1", method, "acc_1", 1, EPOCH_NS + 2_000_000_000, encode([list(args), {}]))


def error_of(done: Done) -> dict[str, Any]:
    assert done.mark is Mark.FAILED
    assert done.emitted == ()
    info: dict[str, Any] = decode(done.body or b"")
    return info


async def test_what_a_handler_emits_comes_with_its_success_in_order(executor: Executor) -> None:
    done = await executor.execute(call("fill", ["B", "A"]), 1)
    assert (done.mark, decode(done.body or b"")) == (Mark.SUCCEEDED, 2)
    assert [decode(body) for body in done.emitted] == [
        ["Filled", {"symbol": "B", "quantity": 1}],
        ["Filled", {"symbol": "A", "quantity": 1}],
    ]


async def test_emitting_changes_nothing_until_the_event_is_applied(
    executor: Executor, desk: Desk, state: SharedState
) -> None:
    done = await executor.execute(call("fill", ["A", "A"]), 1)
    assert desk.book == {}
    for body in done.emitted:
        state.apply(body)
    assert desk.book == {"A": 2}


async def test_a_plain_function_emits_from_its_thread(executor: Executor) -> None:
    done = await executor.execute(call("fill_in_thread", "A"), 1)
    assert decode(done.body or b"").startswith("desk")
    assert decode(done.emitted[0])[1]["symbol"] == "A"


async def test_a_handler_without_a_context_emits_nothing(executor: Executor) -> None:
    assert (await executor.execute(call("quiet"), 1)).emitted == ()


async def test_what_a_failed_handler_emitted_is_dropped(executor: Executor) -> None:
    assert error_of(await executor.execute(call("fails"), 1))["code"] == "refused"


@pytest.mark.parametrize("method", ["fill", "fails"])
async def test_nobody_can_emit_once_the_handler_has_ended(
    executor: Executor, desk: Desk, method: str
) -> None:
    done = await executor.execute(call(method, *([["A"]] if method == "fill" else [])), 1)
    with pytest.raises(EmitRefused, match=rf"the handler of desk\.{method} has ended"):
        desk.kept[0].emit(Filled(symbol="late"))
    assert len(done.emitted) == (1 if method == "fill" else 0)


async def test_nobody_can_emit_for_a_run_that_was_cancelled(executor: Executor, desk: Desk) -> None:
    task = asyncio.create_task(executor.execute(call("is_cut_off"), 1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(EmitRefused):
        desk.kept[0].emit(Filled(symbol="late"))


async def test_an_event_that_nothing_applies_fails_the_call_and_says_what_is_missing(
    executor: Executor,
) -> None:
    info = error_of(await executor.execute(call("unheard"), 1))
    assert info["code"] == "emit_refused"
    assert "@desk.on(Unheard)" in info["message"]


async def test_an_event_that_nobody_could_read_back_fails_the_call(executor: Executor) -> None:
    info = error_of(await executor.execute(call("invalid"), 1))
    assert info["code"] == "emit_refused"
    assert "quantity" in info["message"]


async def test_a_handler_may_catch_the_refusal_and_go_on(executor: Executor, desk: Desk) -> None:
    done = await executor.execute(call("survives"), 1)
    assert (done.mark, len(done.emitted)) == (Mark.SUCCEEDED, 1)
    assert isinstance(desk.seen[0], EmitRefused)


async def test_in_a_pool_nothing_can_be_emitted(desk: Desk) -> None:
    pool = Executor(desk.service, Identity("desk", "_pool", "a", "1", 1), lambda: EPOCH_NS, LIMIT)
    info = error_of(await pool.execute(call("fill", ["A"]), 1))
    assert info["code"] == "emit_refused"
    assert "instances of a pool share no state" in info["message"]


async def test_where_the_service_shares_no_state_the_error_says_how_it_would(desk: Desk) -> None:
    plain = Executor(desk.service, Identity("desk", GROUP, "a", "1", 1), lambda: EPOCH_NS, LIMIT)
    info = error_of(await plain.execute(call("fill", ["A"]), 1))
    assert info["code"] == "emit_refused"
    assert "@desk.on(Filled), @desk.snapshot and @desk.restore" in info["message"]


async def test_a_call_emits_so_many_events_and_no_more(executor: Executor) -> None:
    done = await executor.execute(call("fills_a_lot", MAX_EVENTS, 1), 1)
    assert (done.mark, len(done.emitted)) == (Mark.SUCCEEDED, MAX_EVENTS)
    info = error_of(await executor.execute(call("fills_a_lot", MAX_EVENTS + 1, 1), 1))
    assert info["code"] == "emit_limit_exceeded"
    assert info["details"] == {"limit_events": MAX_EVENTS, "limit_bytes": MAX_EMITTED_BYTES}


async def test_a_call_emits_so_many_bytes_and_no_more(executor: Executor) -> None:
    size = MAX_EMITTED_BYTES // 4
    assert (await executor.execute(call("fills_a_lot", 3, size), 1)).mark is Mark.SUCCEEDED
    info = error_of(await executor.execute(call("fills_a_lot", 4, size), 1))
    assert info["code"] == EmitLimitExceeded.code


async def test_a_result_and_its_events_must_fit_in_one_frame_together(executor: Executor) -> None:
    assert (await executor.execute(call("large_result", LIMIT - 150_000, 100), 1)).mark is Mark.SUCCEEDED
    assert (await executor.execute(call("large_result", LIMIT - 100, 0), 1)).mark is Mark.SUCCEEDED
    info = error_of(await executor.execute(call("large_result", LIMIT - 100_000, 100), 1))
    assert info["code"] == "result_too_large"
    assert "its result and its 100 events" in info["message"]


async def test_events_of_several_threads_of_one_call_are_all_kept() -> None:
    service = Service("desk")

    @service.on(Filled)
    def filled(event: Filled) -> None: ...

    @service.method
    def splits(ctx: Context) -> None:
        workers = [
            threading.Thread(target=lambda i=i: ctx.emit(Filled(symbol="A", quantity=i))) for i in range(20)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    executor = Executor(
        service, Identity("desk", GROUP, "a", "1", 1), lambda: EPOCH_NS, LIMIT, SharedState(service)
    )
    try:
        done = await executor.execute(call("splits"), 1)
    finally:
        executor.close()
    assert sorted(decode(body)[1]["quantity"] for body in done.emitted) == list(range(20))

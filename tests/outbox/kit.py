"""A service and its client that stand in for real ones: calls are kept by key, and refused on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aegisipc.eventstore.codec import decode
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.ids import CallIds, format_call_id
from aegisipc.sdk.encoded import EncodedArguments
from aegisipc.sdk.errors import CallUnknown

_ids = CallIds(7)


@dataclass
class FakeCall:
    """A call that the fake log holds."""

    call_id: str
    key: str
    target: str
    resource: str | None
    body: bytes
    options: dict[str, Any]
    outcome: asyncio.Future[Any]

    @property
    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = decode(self.body)
        return args, kwargs

    async def result(self, timeout: float | None = None) -> Any:
        return await asyncio.shield(self.outcome)

    async def settled(self, timeout: float | None = None) -> Any:
        return await self.result(timeout)


@dataclass
class FakeLog:
    """What was accepted, in order. A key has one call."""

    calls: list[FakeCall] = field(default_factory=list)
    answer: Callable[[FakeCall], Any] | None = lambda call: call.target
    """What a call returns or raises at once; ``None``: nothing comes of it."""

    def accept(self, target: str, body: bytes, resource: str | None, key: str, options: Any) -> FakeCall:
        for call in self.calls:
            if call.key == key:
                assert (call.target, call.resource, call.body) == (target, resource, body)
                return call
        outcome = asyncio.get_running_loop().create_future()
        call_id = format_call_id(_ids.next(1_800_000_000_000))
        call = FakeCall(call_id, key, target, resource, body, options, outcome)
        self.calls.append(call)
        if self.answer is not None:
            try:
                outcome.set_result(self.answer(call))
            except AegisError as error:
                outcome.set_exception(error)
        return call

    def numbers(self) -> list[Any]:
        """The first argument of each call."""
        return [call.arguments[0][0] for call in self.calls]


class FakeClient:
    """``refuse`` is asked before a call is accepted, ``after`` afterwards; either may raise."""

    def __init__(self, log: FakeLog) -> None:
        self.log = log
        self.submissions: list[Any] = []
        self.attached: list[dict[str, Any]] = []
        self.refuse: Callable[[Any, str | None], None] = lambda number, resource: None
        self.after: Callable[[FakeCall], None] = lambda call: None

    async def submit(self, target: str, /, *args: Any, **options: Any) -> FakeCall:
        assert type(args[0]) is EncodedArguments
        number = decode(args[0].body)[0][0]
        resource, key = options.pop("resource_id"), options.pop("idempotency_key")
        self.submissions.append(number)
        await asyncio.sleep(0)
        self.refuse(number, resource)
        call = self.log.accept(target, args[0].body, resource, key, options)
        self.after(call)
        return call

    def attach(self, call_id: str | None = None, **question: Any) -> Any:
        self.attached.append({"call_id": call_id, **question})

        async def find() -> FakeCall:
            for call in self.log.calls:
                if call.call_id == call_id or call.key == question.get("idempotency_key"):
                    return call
            raise CallUnknown("the log holds no such call", call_id=call_id or "")

        return find()


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ns = 1_800_000_000_000_000_000

    def __call__(self) -> int:
        return self.ns

    def move(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)

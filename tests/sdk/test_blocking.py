"""The blocking client: as the asynchronous one, from plain threads."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Protocol

import pytest
from pydantic import BaseModel

from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.free_ports import choose_free_port
from aegisipc.sdk import Service
from aegisipc.sdk.blocking import Client, EventLoopBlocked, connect
from aegisipc.sdk.errors import (
    CallFinished,
    CallTimeout,
    CallUnknown,
    IdempotencyConflict,
    InvalidArguments,
    LogMissing,
    NoRoute,
    NotConnected,
    RemoteError,
    ServiceDefinitionError,
    ServiceError,
)
from aegisipc.sdk.instance import Instance, InstanceOptions

_names = (f"b{number}" for number in itertools.count(1))


class Sum(BaseModel):
    total: int


class PlainApi(Protocol):
    service_name: ClassVar[str] = "sums"

    def add(self, one: int, other: int = 0) -> Sum: ...


class AwaitedApi(Protocol):
    async def add(self, one: int, other: int = 0) -> Sum: ...


class Backend:
    """A router and an instance in a loop and thread of their own."""

    def __init__(self, url: str) -> None:
        self.url, self.namespace = url, next(_names)
        self.gate = threading.Event()
        self.waiting = threading.Semaphore(0)
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._main()))
        self._thread.start()
        assert self._up.wait(10)

    def _service(self) -> Service:
        service = Service("sums")

        @service.method(effect="idempotent")
        async def add(one: int, other: int = 0) -> Sum:
            if one == other == 0:
                raise ServiceError("nothing_to_add", "both are zero", hint="add something")
            return Sum(total=one + other)

        @service.method(effect="pure")
        def wait() -> str:
            self.waiting.release()
            assert self.gate.wait(10)
            return "done"

        return service

    async def _main(self) -> None:
        options = InstanceOptions(url=self.url, namespace=self.namespace, drain_timeout_s=0.1)
        async with (
            Router(RouterOptions(self.url, self.namespace)),
            Instance(self._service(), options),
        ):
            self._up.set()
            await self._stop.wait()

    def client(self, **options: Any) -> Client:
        return connect(self.url, namespace=self.namespace, **options)

    def close(self) -> None:
        self.gate.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def backend(shared_server: EmbeddedServer) -> Iterator[Backend]:
    found = Backend(shared_server.url)
    yield found
    found.close()


@pytest.fixture
def client(backend: Backend) -> Iterator[Client]:
    with backend.client() as found:
        yield found


def client_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("aegis client")]


def test_a_call_returns_its_result(client: Client) -> None:
    assert client.call("sums.add", 1, 2, returns=Sum) == Sum(total=3)
    assert client.call("sums.add", 1, other=4) == {"total": 5}


def test_a_submitted_call_can_be_waited_for_and_attached_to(client: Client, backend: Backend) -> None:
    pending = client.submit("sums.add", 1, 2, returns=Sum)
    assert pending.result() == pending.settled() == Sum(total=3)
    with backend.client() as other:
        assert other.attach(pending.call_id, returns=Sum).result() == Sum(total=3)
    assert pending.call_id in repr(pending)


def test_a_submitted_call_has_a_receipt(client: Client) -> None:
    receipt = client.submit("sums.add", 1, 2, priority="high").receipt
    assert (receipt.durability, receipt.replicas) == ("written", 1)
    assert receipt.seq > 0


def test_a_call_with_a_key_is_found_by_it(client: Client, backend: Backend) -> None:
    assert client.call("sums.add", 1, 2, idempotency_key="k", returns=Sum) == Sum(total=3)
    first = client.submit("sums.add", 1, 2, idempotency_key="k")
    assert first.result() == {"total": 3}
    with pytest.raises(IdempotencyConflict):
        client.call("sums.add", 2, 2, idempotency_key="k")
    with backend.client() as other:
        assert other.attach(idempotency_key="k", service="sums", returns=Sum).result() == Sum(total=3)
        stub = other.service(PlainApi, idempotency_key="k")
        assert stub.add(1, 2) == Sum(total=3)
    for wrong in ({}, {"idempotency_key": "k"}, {"service": "sums"}):
        with pytest.raises(ServiceDefinitionError):
            client.attach(**wrong)  # type: ignore[arg-type]


def test_a_finished_call_cannot_be_cancelled(client: Client) -> None:
    pending = client.submit("sums.add", 1)
    pending.result()
    with pytest.raises(CallFinished) as caught:
        pending.cancel("late")
    assert caught.value.state == "succeeded"
    with pytest.raises(ServiceDefinitionError, match="give text of at most 500 characters"):
        pending.cancel("r" * 501)


def test_a_stub_of_a_protocol_with_plain_methods_returns_results(client: Client) -> None:
    sums = client.service(PlainApi)
    assert sums.add(1, other=2) == Sum(total=3)


def test_a_stub_of_a_protocol_with_async_methods_returns_results_too(client: Client) -> None:
    sums = client.service(AwaitedApi, name="sums")
    found: Any = sums.add(1)
    assert found == Sum(total=1)


def test_a_stub_of_a_name_returns_plain_data(client: Client) -> None:
    sums = client.service("sums")
    assert sums.add(1) == {"total": 1}
    assert sums.add is sums.add
    assert repr(sums) == "<blocking stub of 'sums'>"


def test_what_cannot_be_a_stub_is_refused(client: Client) -> None:
    with pytest.raises(ServiceDefinitionError, match="give a Protocol class or the service's name"):
        client.service(Sum)
    with pytest.raises(AttributeError, match="has no method 'nope'"):
        client.service(PlainApi).nope  # type: ignore[attr-defined]  # noqa: B018


def test_an_option_given_to_a_stubs_method_is_refused_by_name(client: Client) -> None:
    with pytest.raises(ServiceDefinitionError, match=r"cannot give 'timeout' to sums\.add"):
        client.service("sums").add(1, timeout=1)


def test_errors_arrive_as_they_are(client: Client) -> None:
    with pytest.raises(RemoteError) as caught:
        client.call("sums.add", 0)
    assert (caught.value.code, caught.value.hint) == ("nothing_to_add", "add something")
    with pytest.raises(InvalidArguments):
        client.call("sums.add", "one")
    with pytest.raises(NoRoute):
        client.call("nobody.add", 1)
    with pytest.raises(CallUnknown):
        client.attach("01a3185c-5000-7000-8000-040000000007")


def test_a_call_without_an_outcome_times_out_and_can_be_attached_to(client: Client, backend: Backend) -> None:
    with pytest.raises(CallTimeout) as caught:
        client.call("sums.wait", timeout=0.1)
    attached = client.attach(caught.value.call_id, returns=str)
    with pytest.raises(CallTimeout):
        attached.result(timeout=0.05)
    backend.gate.set()
    assert attached.result(timeout=5) == "done"


def test_many_threads_may_call_at_once(client: Client) -> None:
    def work(worker: int) -> list[int]:
        return [client.call("sums.add", worker, n, returns=Sum).total - worker for n in range(1, 26)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(1, 9))) == [list(range(1, 26))] * 8


def test_a_thread_that_waits_does_not_hold_up_another(client: Client, backend: Backend) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.call, "sums.wait")
        assert backend.waiting.acquire(timeout=5)
        assert client.call("sums.add", 1) == {"total": 1}
        backend.gate.set()
        assert waiting.result() == "done"


def test_closing_ends_the_thread_and_may_be_done_twice(backend: Backend) -> None:
    client = backend.client(name="closing")
    assert client_threads() == ["aegis client closing"]
    assert client.name == "closing"
    pending = client.submit("sums.add", 1)
    client.close()
    client.close()
    assert client_threads() == []
    for use in (lambda: client.call("sums.add", 1), lambda: client.submit("sums.add", 1), pending.result):
        with pytest.raises(NotConnected, match="the client is closed"):
            use()


def test_closing_ends_the_calls_of_other_threads_with_an_error(backend: Backend) -> None:
    client = backend.client()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.call, "sums.wait")
        assert backend.waiting.acquire(timeout=5)
        client.close()
        with pytest.raises((NotConnected, CallTimeout)):
            waiting.result(timeout=5)


def test_several_threads_may_close_at_once(backend: Backend) -> None:
    client = backend.client()
    with ThreadPoolExecutor(4) as pool:
        for closing in [pool.submit(client.close) for _ in range(4)]:
            closing.result(timeout=10)
    assert client_threads() == []


def test_an_interrupt_ends_the_wait_and_the_client_goes_on(client: Client, backend: Backend) -> None:
    def interrupt() -> None:
        backend.waiting.acquire(timeout=5)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        client.call("sums.wait")
    thread.join()
    assert client.call("sums.add", 1) == {"total": 1}


async def test_in_a_thread_with_an_event_loop_it_refuses_to_block(backend: Backend) -> None:
    with pytest.raises(EventLoopBlocked, match=r"use aegisipc\.sdk\.connect and await"):
        backend.client()
    client = await asyncio.to_thread(backend.client)
    for use in (lambda: client.call("sums.add", 1), client.close):
        with pytest.raises(EventLoopBlocked):
            use()
    assert await asyncio.to_thread(client.call, "sums.add", 1) == {"total": 1}
    await asyncio.to_thread(client.close)


def test_a_connection_that_fails_leaves_no_thread_behind(shared_server: EmbeddedServer) -> None:
    with pytest.raises(NotConnected):
        connect(f"nats://127.0.0.1:{choose_free_port('127.0.0.1')}")
    with pytest.raises(LogMissing):
        connect(shared_server.url, namespace="nobody_made_it")
    with pytest.raises(TypeError):
        connect(shared_server.url, no_such_option=1)
    assert client_threads() == []

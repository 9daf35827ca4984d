"""What the processes of a run do: routers, instances, clients, readers. Each prints what it did as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from aegisipc.chaos.history import Deed, Operation, Probe, Sample, Stage
from aegisipc.chaos.real.asking import Caller, ended, told
from aegisipc.chaos.real.crashing import obey
from aegisipc.chaos.real.loads import Asks, LoadOptions
from aegisipc.chaos.real.recording import Ledger, Recorder, now_ns
from aegisipc.chaos.real.services import GROUPS, WHERE, resources_of, service_of
from aegisipc.chaos.workload import BOOK, DESK
from aegisipc.eventstore.errors import AegisError
from aegisipc.router.cli.main import main
from aegisipc.sdk import connect
from aegisipc.sdk.client import Client

CONNECT_S: Final = 60.0
_SAMPLE_S: Final = 1.0
_PROBE_S: Final = 20.0
_READ_AT_ONCE: Final = 16
_ATTACH_S: Final = 20.0


def say(**what: Any) -> None:
    """Print a line, at once and in one piece."""
    os.write(1, json.dumps(what).encode() + b"\n")


def router(words: list[str], namespace: str, orders: str) -> int:
    """Run the command with these words."""
    obey(Path(orders), namespace)
    return main(words)


def instance(  # noqa: PLR0913 - what a process is told
    *,
    url: str,
    namespace: str,
    folder: str,
    name: str,
    service: str,
    group: str | None,
    pulse_ms: int,
    max_running: int,
    max_backlog: int,
    resources: int,
    orders: str,
) -> None:
    """Serve until stopped or killed."""
    obey(Path(orders), namespace)
    life = f"{name}.{os.getpid()}.{now_ns()}"
    ledger = Ledger(Path(folder) / f"{life}.history", name, life)
    made = service_of(service, ledger, max_running=max_running, max_backlog=max_backlog)
    made.run(
        url=url,
        namespace=namespace,
        instance=name,
        group=group,
        resources=resources_of(group, resources) if group is not None else (),
        pulse_ms=pulse_ms,
        join_timeout_s=CONNECT_S,
        drain_timeout_s=10.0,
        on_ready=lambda _: say(event="ready"),
    )


# -- clients ----------------------------------------------------------------------------------------------


def client(
    url: str,
    namespace: str,
    folder: str,
    name: str,
    *,
    seed: str,
    base: int,
    options: dict[str, Any],
    orders: str,
) -> None:
    """Make calls until SIGTERM; then wait for those that are open, see whether every service can be called,
    and end.
    """
    obey(Path(orders), namespace)
    with _uvloop() as runner:
        runner.run(
            _call(url, namespace, Path(folder), name, seed=seed, base=base, options=LoadOptions(**options))
        )


@contextmanager
def _uvloop() -> Iterator[asyncio.Runner]:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


async def _call(
    url: str, namespace: str, folder: Path, name: str, *, seed: str, base: int, options: LoadOptions
) -> None:
    asks = Asks(seed, base, options)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    path = folder / f"{name}.{os.getpid()}.{now_ns()}.history"
    async with Recorder(path) as recorder, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                connect(
                    url,
                    namespace=namespace,
                    name=f"{name}-{number}",
                    connect_timeout_s=CONNECT_S,
                    max_open=options.max_open,
                )
            )
            for number in range(options.clients)
        ]
        callers = [Caller(each, asks, recorder, options) for each in clients]
        say(event="ready")
        sampling = asyncio.create_task(_sampled(name, callers, recorder, options.max_open))
        async with asyncio.TaskGroup() as working:
            for caller in callers:
                for worker in range(options.workers):
                    working.create_task(caller.work(worker))
            await stopping.wait()
            for caller in callers:
                caller.is_stopping.set()
        sampling.cancel()
        for each in clients:
            await recorder.keep(await _probed(each))
        say(event="done", calls=sum(caller.done for caller in callers), syncs=recorder.syncs)


async def _sampled(name: str, callers: list[Caller], recorder: Recorder, max_open: int) -> None:
    while True:
        tables = {f"{each.name} open/{max_open}": each.open_calls for each in callers}
        recorder.note(Sample(name, now_ns(), tables=tables))
        say(calls=sum(caller.done for caller in callers))
        await asyncio.sleep(_SAMPLE_S)


async def _probed(client: Client) -> Probe:
    """Call every service once."""
    began_s = time.monotonic()
    trouble = ""
    targets = [(BOOK, resources_of(group, 1)[0]) for group in GROUPS] + [(DESK, None)]
    for service, resource in targets:
        try:
            async with asyncio.timeout(_PROBE_S):
                await client.call(f"{service}.{WHERE}", resource_id=resource, timeout=_PROBE_S)
        except (AegisError, TimeoutError) as error:
            trouble = f"{service} of {resource or 'the pool'}: {error!r}"
    return Probe(
        client.name, "client", not trouble, now_ns(), after_s=time.monotonic() - began_s, detail=trouble
    )


# -- readers ----------------------------------------------------------------------------------------------


def reader(url: str, namespace: str, folder: str, name: str, *, calls: str, base: int, for_s: float) -> None:
    """Attach to calls, and write down what it is told. The file `calls` has two lists of ids in JSON: those
    that must be read, and those that are read for `for_s` seconds at most.
    """
    must, may = json.loads(Path(calls).read_bytes())
    reading = _in_time(must, may, for_s)
    with _uvloop() as runner:
        runner.run(_read(url, namespace, Path(folder), name, calls=reading, base=base))


async def _read(
    url: str, namespace: str, folder: Path, name: str, *, calls: Iterator[str], base: int
) -> None:
    path = folder / f"{name}.{os.getpid()}.history"
    numbers = count(base)
    async with (
        Recorder(path) as recorder,
        connect(url, namespace=namespace, name=name, connect_timeout_s=CONNECT_S) as client,
        asyncio.TaskGroup() as working,
    ):
        for _ in range(_READ_AT_ONCE):
            working.create_task(_attach(client, calls, numbers, recorder))
    say(event="read")


def _in_time(must: list[str], may: list[str], for_s: float) -> Iterator[str]:
    give_up_at = time.monotonic() + for_s
    yield from must
    for call_id in may:
        if time.monotonic() > give_up_at:
            return
        yield call_id


async def _attach(client: Client, left: Iterator[str], numbers: Iterator[int], recorder: Recorder) -> None:
    for call_id in left:
        number = next(numbers)
        asked = Operation(number, Stage.INVOKE, Deed.ATTACH, client.name, now_ns(), call_id=call_id)
        recorder.note(asked)
        outcome = await told(_found(client, call_id))
        await recorder.keep(ended(asked, outcome))


async def _found(client: Client, call_id: str) -> Any:
    async with asyncio.timeout(2 * _ATTACH_S):
        return await client.attach(call_id, timeout=_ATTACH_S).result(_ATTACH_S)

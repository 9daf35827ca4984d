"""Fixtures: real servers, and the check that none of them outlives the run."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings

from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.server_config import ServerTuning
from tests.support.processes import child_server_pids

# On a busy machine an example may take long: that is no failure. And a failure is not explained by running it
# many times more under a tracer: that takes minutes where a test folds whole logs.
settings.register_profile(
    "busy machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
settings.load_profile("busy machine")


def pytest_collection_finish() -> None:
    """Leave what was collected out of every later search for garbage: it stays until the end."""
    gc.collect()
    gc.freeze()


def run_in_own_loop(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in a loop and thread of its own: a session's fixture belongs to no test's loop."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(make())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            failures.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="session", autouse=True)
def no_server_is_left_behind() -> Iterator[None]:
    """Fail the run if a nats-server that it started is still there at the end."""
    yield
    left = child_server_pids()
    if left:
        pytest.fail(f"nats-server processes left behind: {left}")


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A fresh server for one test, without fsync (fast)."""
    async with EmbeddedServer(tmp_path / "nats", fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def shared_server(
    no_server_is_left_behind: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """One server for all tests that keep to a unique namespace each and never stop or freeze it."""
    # Each namespace reserves room for its heartbeats, though it uses next to nothing of it.
    roomy = ServerTuning(jetstream_max_store_bytes=1 << 42)
    server = EmbeddedServer(tmp_path_factory.mktemp("shared-nats"), fsync=False, tuning=roomy)
    run_in_own_loop(server.start)
    try:
        yield server
    finally:
        run_in_own_loop(server.stop)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Forget what a test configured: its stderr is closed when it ends."""
    yield
    structlog.reset_defaults()

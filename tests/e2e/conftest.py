"""Fixtures: namespaces with a router."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.e2e.kit import Place


@pytest.fixture
async def place(shared_server: EmbeddedServer) -> AsyncIterator[Place]:
    """A fresh namespace on the shared server, with a router."""
    async with AsyncExitStack() as stack:
        found = Place(shared_server, stack)
        await found.router()
        yield found


@pytest.fixture
async def own_place(nats_server: EmbeddedServer) -> AsyncIterator[Place]:
    """A fresh namespace on a server of its own, which the test may kill, with a router."""
    async with AsyncExitStack() as stack:
        found = Place(nats_server, stack)
        await found.router()
        yield found

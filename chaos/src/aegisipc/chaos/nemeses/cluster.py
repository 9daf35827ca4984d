"""A cluster of embedded nats-servers that loses nodes and leaders.

A stream with three replicas has a leader of its own, and so has the cluster as a whole (the *meta* leader,
which places streams and consumers). While a leader is missing, its publishes and API requests are refused:
for some seconds after a death, for a moment after a step-down. With two of three gone nothing is stored.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from aegisipc.chaos.nemeses.errors import NemesisFailed
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer

_POLL_S: Final = 0.05
_API_S: Final = 2.0


class Cluster:
    """What can be done to `servers`, which run (see ``running_cluster``) or did: it starts and stops nodes,
    and owns none. All times are limits, after which ``NemesisFailed`` is raised.
    """

    def __init__(self, servers: Sequence[EmbeddedServer]) -> None:
        self.servers = tuple(servers)

    # -- who is who -------------------------------------------------------------------------------------

    @property
    def running(self) -> list[EmbeddedServer]:
        """The nodes whose process exists."""
        return [server for server in self.servers if server.is_running]

    def node(self, name: str) -> EmbeddedServer:
        """Return the node of a server name."""
        for server in self.servers:
            if server.tuning.server_name == name:
                return server
        raise NemesisFailed(f"cannot find node {name!r} in this cluster", what=name)

    async def leader(self, stream: str, timeout_s: float = 20.0) -> EmbeddedServer:
        """Return the node that leads a stream, as soon as one does that runs."""
        found: list[EmbeddedServer] = []

        async def has_leader(connection: Connection) -> bool:
            info = await _ask(connection, f"$JS.API.STREAM.INFO.{stream}")
            name = info.get("cluster", {}).get("leader", "")
            if name and self.node(name).is_running:
                found.append(self.node(name))
            return bool(found)

        await self._until(has_leader, f"see a leader of {stream}", timeout_s)
        return found[-1]

    # -- faults -----------------------------------------------------------------------------------------

    async def kill(self, server: EmbeddedServer) -> None:
        """SIGKILL one node."""
        await server.kill()

    async def kill_leader(self, stream: str) -> EmbeddedServer:
        """SIGKILL the node that leads a stream; return it."""
        server = await self.leader(stream)
        await server.kill()
        return server

    async def start(self, server: EmbeddedServer, timeout_s: float = 30.0) -> None:
        """Start a node again and wait until it is healthy. Raises also what ``EmbeddedServer.start`` does."""
        await server.start(timeout_s, wait_healthy=False)
        await server.wait_healthy(timeout_s)

    async def step_down(self, stream: str, timeout_s: float = 20.0) -> EmbeddedServer:
        """Have the leader of a stream give it to another replica; return the new one."""
        former = await self.leader(stream, timeout_s)
        subject = f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}"

        async def is_accepted(connection: Connection) -> bool:
            return bool((await _ask(connection, subject)).get("success"))

        await self._until(is_accepted, f"have the leader of {stream} step down", timeout_s)
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        while (now := await self.leader(stream, timeout_s)) is former:
            if asyncio.get_running_loop().time() > give_up_at:
                raise NemesisFailed(f"cannot see another leader of {stream} in {timeout_s:g} s", what=stream)
            await asyncio.sleep(_POLL_S)
        return now

    async def step_down_meta(self, timeout_s: float = 20.0) -> None:
        """Have the meta leader step down."""

        async def is_accepted(connection: Connection) -> bool:
            return bool((await _ask(connection, "$JS.API.META.LEADER.STEPDOWN")).get("success"))

        await self._until(is_accepted, "have the meta leader step down", timeout_s, as_system=True)

    async def rolling_restart(self, timeout_s: float = 60.0, *, by_kill: bool = False) -> None:
        """Restart one node after another, each when all replicas of all streams are current: so nothing is
        ever without a majority. `timeout_s` is for each node; `by_kill`: with SIGKILL.
        """
        for server in self.servers:
            await self.wait_current(timeout_s)
            await (server.kill() if by_kill else server.stop())
            await self.start(server, timeout_s)
        await self.wait_current(timeout_s)

    # -- healing ----------------------------------------------------------------------------------------

    async def start_all(self, timeout_s: float = 60.0) -> None:
        """Start what does not run, and wait until all is current."""
        missing = [server for server in self.servers if not server.is_running]
        await asyncio.gather(*(server.start(timeout_s, wait_healthy=False) for server in missing))
        await asyncio.gather(*(server.wait_healthy(timeout_s) for server in self.servers))
        await self.wait_current(timeout_s)

    async def wait_current(self, timeout_s: float = 60.0) -> None:
        """Return once every stream has a leader, and every replica has all that it has."""

        async def is_current(connection: Connection) -> bool:
            listed = await _ask(connection, "$JS.API.STREAM.NAMES")
            names: Iterable[str] = listed.get("streams") or ()
            infos = [await _ask(connection, f"$JS.API.STREAM.INFO.{name}") for name in names]
            return "error" not in listed and all(map(_is_current, infos))

        await self._until(is_current, "see all replicas current", timeout_s)

    async def _until(
        self,
        condition: Callable[[Connection], Awaitable[bool]],
        what: str,
        timeout_s: float,
        *,
        as_system: bool = False,
    ) -> None:
        """Ask again, over a new connection, after every error: the node that is asked may have died."""
        last = "nobody answered"
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        async with await self._connect(as_system=as_system) as connection:
                            while not await condition(connection):
                                last = "not yet so"
                                await asyncio.sleep(_POLL_S)
                            return
                    except AegisError as error:
                        last = error.message
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise NemesisFailed(
                f"cannot {what} within {timeout_s:g} s: {last}; look into the logs of the nodes", what=what
            ) from None

    async def _connect(self, *, as_system: bool) -> Connection:
        urls = [server.system_url if as_system else server.url for server in self.running]
        if not urls:
            raise NemesisFailed("cannot ask the cluster: no node runs; start one", what="cluster")
        options = ConnectOptions(
            ",".join(urls), name="chaos cluster", connect_timeout_s=_API_S, require_jetstream=not as_system
        )
        return await Connection.open(options)


async def _ask(connection: Connection, subject: str) -> dict[str, Any]:
    """The answer of the JetStream API; an error is an answer, too, under ``error``."""
    answer = await connection.request(subject, b"", timeout_s=_API_S)
    said = json.loads(answer.payload)
    return said if isinstance(said, dict) else {"error": said}


def _is_current(info: dict[str, Any]) -> bool:
    cluster = info.get("cluster", {})
    return bool(cluster.get("leader")) and all(
        replica.get("current") and not replica.get("offline") and not replica.get("lag")
        for replica in cluster.get("replicas") or ()
    )

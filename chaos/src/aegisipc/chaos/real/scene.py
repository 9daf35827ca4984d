"""One run's servers and processes: started, broken, healed and ended here."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aegisipc.chaos.history import Fault
from aegisipc.chaos.nemeses.disks import SmallDisk
from aegisipc.chaos.nemeses.namespaces import HOST, Namespaces
from aegisipc.chaos.nemeses.network import FaultyProxy
from aegisipc.chaos.nemeses.skew import WallClock
from aegisipc.chaos.nemeses.versions import server_binary
from aegisipc.chaos.real.members import LIFE_NUMBERS, Member, Role, Shape, arguments_of, cast, function_of
from aegisipc.chaos.real.recording import now_ns
from aegisipc.chaos.real.zygote import Child, Zygote
from aegisipc.eventstore.errors import AegisError
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.embedded_cluster import running_cluster, three_node_cluster
from aegisipc.router.infrastructure.server_config import ServerTuning

NAMESPACE: Final = "chaos"
READY_S: Final = 60.0
_POLL_S: Final = 0.02
_LAST_LINES: Final = 12
_TOLD: Final = "error: "
"""So begins the line of a command that ends for a reason of which the user is told."""
_PROMISED_BYTES: Final = 8 << 30
"""A server believes in so much room on a disk that is small: it is to find out for itself."""


class NotReady(AegisError):
    """A process did not get ready, or did not end, in time. Field: ``who``."""

    code = "not_ready"


class Scene:
    """Made by :func:`a_scene`. ``broken`` are the faults so far; ``ended`` tells of processes that ended by
    themselves.
    """

    def __init__(
        self, shape: Shape, servers: list[EmbeddedServer], zygote: Zygote, folder: Path, seed: str
    ) -> None:
        self.shape, self.servers, self.folder, self.seed = shape, servers, folder, seed
        self.zygote = zygote
        self.histories = folder / "histories"
        self.members = {member.name: member for member in cast(shape)}
        self.broken: list[Fault] = []
        self.ended: list[str] = []
        self.proxies: dict[str, FaultyProxy] = {}
        self.clocks: dict[str, WallClock] = {}
        self.network: Namespaces | None = None
        self.disk: SmallDisk | None = None
        self._breaking = 0
        self._healed_ns = 0
        self._outputs = itertools.count(1)
        self._locks: dict[str, asyncio.Lock] = {}

    # -- where ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Of all servers, for whoever looks on from outside: through no proxy."""
        return ",".join(server.url for server in self.servers)

    def url_for(self, member: Member) -> str:
        """Where a member finds the servers."""
        proxy = self.proxies.get(member.name)
        return proxy.url if proxy is not None else self.url

    def system_url_for(self, member: Member) -> str | None:
        """Where it finds their system account, if it is to."""
        if not self.shape.system_account or member.role is not Role.ROUTER:
            return None
        system = urlsplit(self.servers[0].system_url)
        who = f"{system.username}:{system.password}@"
        return ",".join(f"nats://{who}{urlsplit(part).netloc}" for part in self.url_for(member).split(","))

    def of(self, *roles: Role) -> list[Member]:
        """Members of these roles."""
        return [member for member in self.members.values() if member.role in roles]

    # -- life -------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start everybody, clients last.

        Raises:
            NotReady: somebody is not ready in time.
        """
        self.histories.mkdir()
        for roles in ((Role.ROUTER,), (Role.INSTANCE,), (Role.CLIENT,)):
            for member in self.of(*roles):
                self.start(member)
            for member in self.of(*roles):
                await self.ready(member)

    def start(self, member: Member) -> None:
        """Begin a new life of a member."""
        member.lives += 1
        output = self.folder / f"{member.name}.{next(self._outputs)}.out"
        told = arguments_of(
            member,
            self.shape,
            url=self.url_for(member),
            system_url=self.system_url_for(member),
            namespace=NAMESPACE,
            folder=self.histories,
            seed=self.seed,
        )
        clock = self.clocks.get(member.name)
        member.child = self.zygote.fork(
            function_of(member.role),
            output,
            told,
            env=clock.environment if clock is not None else None,
            netns=self.network.namespace(member.name) if self.network is not None else "",
        )
        member.is_wanted, member.is_frozen, member.began_ns = True, False, now_ns()
        member.is_asked_to_leave = False

    async def ready(self, member: Member) -> None:
        """Wait until it can be used.

        Raises:
            NotReady: it cannot in time.
        """
        await self.until(lambda: member.has_said("ready"), READY_S, f"{member.name} is ready", member)

    async def until(
        self, condition: Callable[[], bool], within_s: float, what: str, member: Member | None = None
    ) -> None:
        """Wait for it.

        Raises:
            NotReady: it has not come; with the last that the member said.
        """
        give_up_at = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > give_up_at:
                said = f"; it said:\n{self.last_of(member.child)}" if member and member.child else ""
                who = member.name if member is not None else ""
                raise NotReady(f"cannot go on: {what} is not so after {within_s:g} s{said}", who=who)
            await asyncio.sleep(_POLL_S)

    @staticmethod
    def last_of(child: Child) -> str:
        """The end of what a process printed."""
        text = child.output.read_text(encoding="utf-8", errors="replace") if child.output.exists() else ""
        return "\n".join(text.splitlines()[-_LAST_LINES:])

    def look(self) -> None:
        """Note who ended without having been told to, and start it again."""
        for member in self.members.values():
            child = member.child
            if member.is_wanted and child is not None and not child.is_alive:
                has_left = member.is_asked_to_leave and child.code == 0
                if not has_left and not self._could_not_begin(member, child):
                    self.tell_of(member, "ended by itself")
                self.start(member)

    def _could_not_begin(self, member: Member, child: Child) -> bool:
        """Whether it ended as is promised of one that cannot begin because something is broken: it says why
        in a line, and whoever supervises it starts it again. After the end of all faults every one must
        serve.
        """
        said = self.last_of(child).splitlines()
        is_told = child.code == 1 and bool(said) and said[-1].startswith(_TOLD)
        was_broken = bool(self._breaking) or self._healed_ns > member.began_ns
        return is_told and was_broken and not member.has_said("ready")

    def tell_of(self, member: Member, what: str) -> None:
        """Note that a process ended otherwise than it should, with the last that it said."""
        child = member.child
        if child is not None:
            self.ended.append(f"{member.name} {what} with exit code {child.code}: {self.last_of(child)}")

    def read_back(self, must: list[str], may: list[str], for_s: float) -> Member:
        """Start a process that attaches to calls: all that it must, others for `for_s` at most."""
        listed = self.folder / "calls.json"
        listed.write_text(json.dumps([must, may]), encoding="utf-8")
        member = Member("reader", Role.READER, 999, lives=1, is_wanted=False)
        output = self.folder / f"reader.{next(self._outputs)}.out"
        where = {"url": self.url, "namespace": NAMESPACE, "folder": str(self.histories), "name": "reader"}
        base = member.index * 1000 * LIFE_NUMBERS
        told = {**where, "calls": str(listed), "base": base, "for_s": for_s}
        member.child = self.zygote.fork(function_of(Role.READER), output, told)
        return member

    # -- what is broken ---------------------------------------------------------------------------------

    def lock(self, victim: str) -> asyncio.Lock:
        """Of two faults that break the same, the second waits."""
        return self._locks.setdefault(victim, asyncio.Lock())

    @contextmanager
    def fault(self, name: str, victim: str, detail: str = "") -> Iterator[None]:
        """While this lasts, something is broken; it is in the evidence then."""
        at_ns = now_ns()
        self._breaking += 1
        try:
            yield
        finally:
            self._breaking -= 1
            self._healed_ns = now_ns()
            self.broken.append(Fault(name, victim, at_ns, self._healed_ns, detail))


@asynccontextmanager
async def a_scene(shape: Shape, zygote: Zygote, folder: Path, seed: str) -> AsyncIterator[Scene]:
    """Start the servers, and what stands between them and the processes; when this ends, nobody of the scene
    runs any more.

    Raises:
        ServerStartFailed: a server did not start.
        Unavailable: this machine cannot do what the shape asks for.
    """
    async with AsyncExitStack() as stack:
        disk, network = await _surroundings(shape, stack)
        servers = await _servers(shape, stack, folder, disk, network)
        scene = Scene(shape, servers, zygote, folder, seed)
        scene.disk, scene.network = disk, network
        for number, member in enumerate(scene.members.values()):
            if shape.proxied:
                chance = random.Random(f"{seed}:{number}")  # noqa: S311 - it is to be repeated
                proxy = FaultyProxy(servers[0].url, rng=chance)
                scene.proxies[member.name] = await stack.enter_async_context(proxy)
            if shape.skewed:
                scene.clocks[member.name] = stack.enter_context(WallClock())
            if network is not None:
                await network.add(member.name)
        try:
            yield scene
        finally:
            for member in scene.members.values():
                member.kill()


async def _surroundings(shape: Shape, stack: AsyncExitStack) -> tuple[SmallDisk | None, Namespaces | None]:
    disk = network = None
    if shape.disk_bytes:
        disk = await stack.enter_async_context(SmallDisk(shape.disk_bytes))
    if shape.namespaces:
        network = await stack.enter_async_context(Namespaces())
    return disk, network


async def _servers(
    shape: Shape, stack: AsyncExitStack, folder: Path, disk: SmallDisk | None, network: Namespaces | None
) -> list[EmbeddedServer]:
    if shape.nodes > 1:
        cluster = three_node_cluster(folder / "servers")
        await stack.enter_async_context(running_cluster(cluster))
        return cluster
    server = EmbeddedServer(
        (disk.path if disk is not None else folder) / "server",
        host=network.address(HOST) if network is not None else "127.0.0.1",
        binary=await server_binary(shape.server) if shape.server else None,
        tuning=ServerTuning(jetstream_max_store_bytes=_PROMISED_BYTES if disk is not None else None),
    )
    await stack.enter_async_context(server)
    return [server]

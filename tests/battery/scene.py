"""One namespace with its processes, all of whose traffic goes through a proxy, and the ways to end them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import create_engine

from aegisipc.chaos.real.zygote import Child, Zygote
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk.transactions import create_table
from tests.battery.judging import Counted, Effect, Told, count, effects_in
from tests.battery.roles import DATABASE, GO, SERVICE, metadata
from tests.battery.wire_proxy import WireProxy
from tests.support.waiting import eventually

NUMBER: Final = 7
ENDED_S: Final = 30.0
_names = (f"b{number}" for number in itertools.count(1))


class Role(StrEnum):
    """Who dies."""

    CLIENT = "client"
    INSTANCE = "instance"
    ROUTER = "router"
    SERVER = "nats-server"


class Scene:
    """Made by :func:`a_scene`. ``flaws`` are what roles do wrong, where the battery itself is tested."""

    def __init__(
        self,
        server: EmbeddedServer,
        proxy: WireProxy,
        zygote: Zygote,
        folder: Path,
        *,
        deed: str,
        pool: bool,
        key: str | None,
        standby: bool,
        flaws: dict[Role, str],
    ) -> None:
        self.server, self.proxy, self.folder = server, proxy, folder
        self.namespace = next(_names)
        self.deed, self.pool, self.key, self.standby = deed, pool, key, standby
        self._zygote = zygote
        self._flaws = flaws
        self._counts = itertools.count(1)
        self.children: dict[str, Child] = {}
        self.worker = "i1"
        """The instance that is to die, if one is."""

    @property
    def is_once(self) -> bool:
        """Whether the method is one that may end in doubt."""
        return self.deed == "once"

    # -- life -------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the database."""
        engine = create_engine(f"sqlite:///{self.folder / DATABASE}")
        create_table(engine)
        metadata.create_all(engine)
        engine.dispose()

    async def begin(self) -> None:
        """Start everybody but the client."""
        self.start_router("r1")
        await self.until(lambda: _events(self.children["r1"], "ready"), "the router is ready")
        self.start_instance("i1")
        await self.until(lambda: self.events("i1", "ready"), "the instance is ready")
        if self.standby:
            self.start_router("r2")
            self.start_instance("i2")
            await self.until(
                lambda: self.events("i2", "ready") and _events(self.children["r2"], "ready"),
                "the standbys are ready",
            )

    def end(self) -> None:
        """Kill everybody."""
        for child in self.children.values():
            child.kill()

    # -- roles ------------------------------------------------------------------------------------------

    def start_router(self, name: str) -> None:
        """Start a router that knows deaths by the servers' word, and is in no hurry about silence."""
        words = ["router", "--json", "--name", name, "--url", self.proxy.url, "--namespace", self.namespace]
        words += ["--suspect-after-ms", "3000", "--lost-after-ms", "20000"]
        system = urlsplit(self.server.system_url)
        words += [
            "--system-url",
            f"nats://{system.username}:{system.password}@{urlsplit(self.proxy.url).netloc}",
        ]
        self._start(name, "router", {"words": words})

    def start_instance(self, name: str) -> None:
        """Start an instance."""
        where = {"url": self.proxy.url, "namespace": self.namespace, "folder": str(self.folder)}
        flaw = self._flaws.get(Role.INSTANCE, "")
        self._start(name, "instance", {**where, "name": name, "pool": self.pool, "flaw": flaw})

    def start_client(self) -> None:
        """Start the program that makes the call."""
        where = {"url": self.proxy.url, "namespace": self.namespace, "pool": self.pool, "key": self.key}
        flaw = self._flaws.get(Role.CLIENT, "")
        call = {"number": NUMBER, "target": f"{SERVICE}.{self.deed}", "flaw": flaw}
        self._start("caller", "client", {**where, **call})

    def _start(self, name: str, function: str, args: dict[str, Any]) -> None:
        output = self.folder / f"{name}.{next(self._counts)}.out"
        self.children[name] = self._zygote.fork(f"tests.battery.roles:{function}", output, args)

    async def kill(self, role: Role) -> None:
        """SIGKILL; when this returns, it is gone."""
        if role is Role.SERVER:
            await self.server.kill()
        else:
            self.children[self._name_of(role)].kill()

    async def restart(self, role: Role) -> None:
        """Start it again, as whoever supervises it would."""
        if role is Role.SERVER:
            await self.server.start()
        elif role is Role.CLIENT:
            self.start_client()
        elif role is Role.INSTANCE:
            self.start_instance(self.worker)
        else:
            self.start_router(self._name_of(role))

    def _name_of(self, role: Role) -> str:
        return {Role.CLIENT: "caller", Role.INSTANCE: self.worker, Role.ROUTER: "r1"}[role]

    def let_go(self) -> None:
        """Handlers that have begun go on."""
        (self.folder / GO).touch()

    # -- what they say ----------------------------------------------------------------------------------

    @property
    def instances(self) -> list[str]:
        """The names of the instances."""
        return [name for name in self.children if name.startswith("i")]

    @property
    def began(self) -> list[str]:
        """The instances whose handlers have begun."""
        return [name for name in self.instances if self.events(name, "began")]

    def events(self, name: str, kind: str) -> list[dict[str, Any]]:
        """What a process said of that kind."""
        child = self.children[name]
        return [line for line in child.said() if line.get("event") == kind]

    async def until(self, condition: Any, what: str) -> None:
        """Wait for it; should it not come, say what all processes said."""
        try:
            await eventually(condition, within_s=ENDED_S, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.everything_said()}") from None

    def everything_said(self) -> str:
        """What all processes printed."""
        outputs = sorted(self.folder.glob("*.out"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in outputs)

    async def count(self) -> Counted:
        """What the log holds. Not through the proxy."""
        return await count(self.server.url, self.namespace, pool=self.pool)

    def effects(self) -> list[Effect]:
        """What the ledgers hold."""
        return effects_in(self.folder)

    async def told(self) -> list[Told]:
        """What the caller was told, and what a new process is."""
        await self.until(lambda: self.events("caller", "ended"), "the caller is told")
        caller = [_told("the caller", line) for line in self.events("caller", "ended")]
        return caller + await self.told_to_readers()

    async def told_to_readers(self) -> list[Told]:
        """What a new process is told that attaches to all calls."""
        args = {"url": self.proxy.url, "namespace": self.namespace, "key": self.key, "pool": self.pool}
        self._start("reader", "reader", {**args, "call_ids": list((await self.count()).calls)})
        await self.until(lambda: self.events("reader", "read"), "a reader is told")
        return [
            _told(f"a reader of {line['call_id'] or 'the key'}", line)
            for line in self.events("reader", "ended")
        ]


def _events(router: Child, word: str) -> bool:
    return any(line.get(word) for line in router.said())


def _told(who: str, line: dict[str, Any]) -> Told:
    return Told(who, line.get("value"), line.get("error"))


@asynccontextmanager
async def a_scene(
    server: EmbeddedServer,
    zygote: Zygote,
    folder: Path,
    *,
    deed: str,
    pool: bool = False,
    key: str | None = None,
    standby: bool = False,
    flaws: dict[Role, str] | None = None,
) -> AsyncIterator[Scene]:
    """Everybody but the client runs, in a namespace of their own."""
    async with WireProxy(server.url) as proxy:
        scene = Scene(
            server,
            proxy,
            zygote,
            folder,
            deed=deed,
            pool=pool,
            key=key,
            standby=standby,
            flaws=flaws or {},
        )
        scene.prepare()
        try:
            await scene.begin()
            yield scene
            assert proxy.failures == []
        finally:
            scene.end()

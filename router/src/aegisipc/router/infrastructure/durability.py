"""What the servers do before they acknowledge a record, told to clients that ask (the verb ``durability``).

Whether a server syncs the log to the disk first is in its configuration, and that can only be read through
its system account: a router without that takes no such questions. Of a replicated log every server that keeps
it must say so; a server that does not answer leaves it unknown.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload
from aegisipc.eventstore.jetstream_api import read_json
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import Subjects, may_answer

VERB: Final = "durability"
ALWAYS, INTERVAL, UNKNOWN = "always", "interval", "unknown"

_HOW: Final = "$SYS.REQ.SERVER.PING.JSZ"
_COLLECT_S: Final = 0.5
_INFO_TIMEOUT_S: Final = 2.0
_KNOWN_S: Final = 30.0
"""After so long the servers are asked anew, behind the next answer."""

_log = structlog.get_logger("aegisipc.router")


class Syncing(NamedTuple):
    """How one server keeps streams."""

    server: str
    always: bool
    interval_s: float


def read_syncing(payload: bytes) -> Syncing:
    """Read a server's answer.

    Raises:
        MalformedPayload: it is none, or does not say how it keeps streams.
    """
    try:
        answer = json.loads(payload)
        config = answer["data"]["config"]
        name, always = answer["server"]["name"], config.get("sync_always", False)
        interval_ns = config.get("sync_interval", 0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise MalformedPayload(f"cannot read how a server keeps streams: {error!r}") from error
    if type(name) is not str or type(always) is not bool or type(interval_ns) is not int:
        raise MalformedPayload("cannot read how a server keeps streams: a part has the wrong type")
    return Syncing(name, always, interval_ns / 1e9)


def keepers_in(info: dict[str, Any]) -> set[str] | None:
    """Return the names of the servers that keep a stream, as its information tells; ``None``: there is just
    one server, which does not say its name.
    """
    cluster = info.get("cluster")
    if not isinstance(cluster, dict):
        return None
    replicas = cluster.get("replicas") or []
    names = {cluster.get("leader"), *(peer.get("name") for peer in replicas if isinstance(peer, dict))}
    return {name for name in names if isinstance(name, str) and name} or None


def judge(told: list[Syncing], keepers: set[str] | None) -> tuple[str, float]:
    """Return whether all who keep the log sync it ``always``, some of them only now and then (``interval``,
    and how often at worst, in seconds), or whether that is ``unknown``.
    """
    by_name = {syncing.server: syncing for syncing in told}
    if keepers is None:
        relevant = told if len(by_name) == 1 else []
    else:
        relevant = [by_name[name] for name in keepers if name in by_name]
    lazy = [syncing.interval_s for syncing in relevant if not syncing.always]
    if lazy:
        return INTERVAL, max(lazy)
    is_whole = bool(relevant) and (keepers is None or keepers <= by_name.keys())
    return (ALWAYS, 0.0) if is_whole else (UNKNOWN, 0.0)


class HasSystemAccount(Protocol):
    """What is needed of a router's options."""

    @property
    def system_url(self) -> str | None:
        """Credentials of the system account, if there are any."""
        ...


async def tell_durability(
    connection: Connection, subjects: Subjects, options: HasSystemAccount, router: str
) -> DurabilityDesk | None:
    """Begin to answer, if this router has access to the system account."""
    if options.system_url is None:
        return None
    name = f"aegis:router:{router}:durability"
    desk = DurabilityDesk(connection, subjects, options.system_url, name=name)
    await desk.start()
    return desk


class DurabilityDesk:
    """Answers clients, with a connection of its own to the system account."""

    def __init__(self, connection: Connection, subjects: Subjects, system_url: str, *, name: str) -> None:
        self._connection = connection
        self._subjects = subjects
        self._options = ConnectOptions(system_url, name=name, require_jetstream=False)
        self._system: Connection | None = None
        self._subscription: Subscription | None = None
        self._known: tuple[float, bytes] | None = None
        self._reading: asyncio.Task[bytes] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unlisten: Callable[[], None] | None = None

    async def start(self) -> None:
        """Take questions, and find out what the first one will want to know."""
        self._unlisten = self._connection.on_event(self._on_event)
        self._read_soon()
        self._subscription = await self._connection.subscribe(
            self._subjects.api(VERB), self._on_question, queue="routers"
        )

    async def stop(self) -> None:
        """Take none any more. Idempotent."""
        if self._unlisten is not None:
            self._unlisten()
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None
        tasks: list[asyncio.Task[Any]] = [*self._tasks, *([self._reading] if self._reading else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        system, self._system = self._system, None
        if system is not None:
            await system.close()

    def _on_question(self, message: Message) -> None:
        if not may_answer(message.reply):
            return
        task = asyncio.get_running_loop().create_task(self._answer(message.reply), name="router durability")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Connected):  # it may have been started again with another configuration
            self._known = None

    def _read_soon(self) -> asyncio.Task[bytes]:
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
        return self._reading

    async def _answer(self, reply: str) -> None:
        known = self._known
        if known is None or time.monotonic() - known[0] > _KNOWN_S:
            reading = self._read_soon()
            answer = await asyncio.shield(reading) if known is None else known[1]
        else:
            answer = known[1]
        with suppress(AegisError):  # whoever gets no answer claims nothing
            self._connection.publish_nowait(reply, answer)

    async def _read(self) -> bytes:
        answer: dict[str, Any] = {"ok": True, "fsync": UNKNOWN, "interval_s": 0.0}
        try:
            info = await self._info()
            config = info.get("config") or {}
            answer |= {"replicas": config.get("num_replicas", 1), "storage": config.get("storage", "")}
            answer["fsync"], answer["interval_s"] = judge(await self._ask_servers(), keepers_in(info))
        except AegisError as error:
            _log.warning("durability_unknown", error=error.message)
        finally:
            self._reading = None
        encoded = json.dumps(answer).encode()
        self._known = (time.monotonic(), encoded)
        return encoded

    async def _info(self) -> dict[str, Any]:
        stream = self._subjects.stream
        answer = await self._connection.request(
            f"$JS.API.STREAM.INFO.{stream}", b"", timeout_s=_INFO_TIMEOUT_S
        )
        return read_json(answer.payload)

    async def _ask_servers(self) -> list[Syncing]:
        """Ask all servers; those that do not answer in time are not in the list."""
        if self._system is None:
            self._system = await Connection.open(self._options)
        told: list[Syncing] = []

        def take(message: Message) -> None:
            with suppress(MalformedPayload):
                told.append(read_syncing(message.payload))

        inbox = f"_INBOX.{secrets.token_hex(11)}"
        subscription = await self._system.subscribe(inbox, take)
        try:
            await self._system.publish(_HOW, b"{}", reply=inbox)
            await asyncio.sleep(_COLLECT_S)
        finally:
            await subscription.unsubscribe()
        return told

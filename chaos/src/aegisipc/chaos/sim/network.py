"""The simulated network: sessions between processes and servers, with delays, silence and breaks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from random import Random
from typing import Any, Final, Protocol

from aegisipc.chaos.sim.loop import ACTOR, WORLD, Actor, SimLoop
from aegisipc.chaos.sim.wire import ModelWire
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ServerInfo

type Pieces = tuple[bytes, ...]

UP: Final = 0
"""From a client to a server."""

DOWN: Final = 1
"""From a server to a client."""

SERVER_PATIENCE_S: Final = 240.0
"""After how long a server gives up a client that it does not hear of: two pings of two minutes."""


class Server(Protocol):
    """What a server is to the network."""

    @property
    def is_up(self) -> bool:
        """Whether it takes connections."""
        ...

    @property
    def is_frozen(self) -> bool:
        """Whether it is stopped: what is sent to it waits."""
        ...

    def info(self, number: int) -> ServerInfo:
        """What it says of itself to the client `number`."""
        ...

    def on_connected(self, session: Session) -> None:
        """A client logged in."""
        ...

    def on_pieces(self, session: Session, pieces: Pieces) -> None:
        """A client sent something; if its session is over by now, nothing happens."""
        ...

    def on_closed(self, session: Session) -> None:
        """A session is over, as far as the server can see."""
        ...


class _Lane:
    """One direction of a session: items arrive in order, each after a delay, unless it is held up.

    What is sent at the same moment arrives at the same moment.
    """

    __slots__ = ("_deliver", "_last_s", "_loop", "_queue", "_sent_s", "context", "is_held")

    def __init__(self, loop: SimLoop, context: Context, deliver: Callable[[Any], None]) -> None:
        self._loop, self.context, self._deliver = loop, context, deliver
        self._queue: deque[tuple[float, Any]] = deque()
        self._last_s = self._sent_s = 0.0
        self.is_held = False

    def follows(self) -> bool:
        """Whether what is sent now arrives together with what was sent before."""
        now_s = self._loop.now_s
        return self._sent_s == now_s < self._last_s and bool(self._queue)

    def put(self, item: Any, delay_s: float) -> None:
        """Send an item."""
        self._sent_s = self._loop.now_s
        self._last_s = max(self._last_s, self._sent_s + delay_s)
        self._queue.append((self._last_s, item))
        self._loop.call_at(self._last_s, self.flow, context=self.context)

    def put_along(self, item: Any) -> None:
        """Send an item together with the last one."""
        self._queue.append((self._last_s, item))

    def flow(self) -> None:
        """Deliver what is due."""
        queue, now_s = self._queue, self._loop.now_s
        while queue and not self.is_held and queue[0][0] <= now_s:
            self._deliver(queue.popleft()[1])

    def cut(self, keep: int) -> None:
        """Lose all but the first `keep` items that are on their way."""
        while len(self._queue) > keep:
            self._queue.pop()

    def __len__(self) -> int:
        return len(self._queue)


_CLOSE: Final[Any] = []
"""In the place of a batch, or of what a client's end is to do: there is nothing more."""


class Session:
    """A connection of a process to a server. Its end is seen by each side when the news arrives there."""

    __slots__ = (
        "actor",
        "down",
        "info",
        "is_over",
        "is_system",
        "name",
        "network",
        "number",
        "server",
        "up",
        "wire",
    )

    def __init__(self, network: Network, wire: ModelWire, server: Server, number: int) -> None:
        self.network, self.wire, self.server, self.number = network, wire, server, number
        self.actor: Actor = wire.actor
        self.name = wire.options.name
        self.is_system = not wire.options.require_jetstream
        """Whether it belongs to the system account."""
        self.info = server.info(number)
        self.is_over = False
        """Whether the server is done with it."""
        loop, world = network.loop, network.world
        self.up = _Lane(loop, world, self._arrived)
        self.down = _Lane(loop, network.context_of(self.actor), self._came_down)

    # -- sending ----------------------------------------------------------------------------------------

    def send_up(self, batch: list[Pieces]) -> None:
        """The client sends: what was written in one turn is on its way together."""
        self.up.put(batch, self.network.delay_s(self))

    def send_down(self, item: tuple[Callable[..., None], tuple[Any, ...]]) -> None:
        """The server sends: `item` is what the client's end is to do."""
        if self.is_over:
            return
        if self.down.follows():
            self.down.put_along(item)
        else:
            self.down.put(item, self.network.delay_s(self))

    def _arrived(self, batch: list[Pieces]) -> None:
        if self.is_over:
            return
        if batch is _CLOSE:
            self.over()
            return
        for pieces in batch:
            self.server.on_pieces(self, pieces)

    def _came_down(self, item: Any) -> None:
        if item is _CLOSE:
            self.wire.end("unexpected EOF")
            return
        act, args = item
        act(*args)

    # -- ends -------------------------------------------------------------------------------------------

    def closed_by_client(self) -> None:
        """The client's end is closed; the server hears of it after what was sent before."""
        self.up.put(_CLOSE, self.network.delay_s(self))

    def over(self) -> None:
        """The server is done with it."""
        if not self.is_over:
            self.is_over = True
            self.network.sessions.pop(self.number, None)
            self.server.on_closed(self)

    def broken(self, *, told: bool = True, server_told: bool = True) -> None:
        """It breaks in the middle: of what is under way in either direction only a part arrives. The client
        is `told` (a reset), or finds out by itself (half-open). So does the server, by its own pings, which
        takes minutes.
        """
        if self.is_over:
            return
        chance = self.network.random
        self.up.cut(chance.randint(0, len(self.up)))
        self.down.cut(chance.randint(0, len(self.down)))
        self.up.put(_CLOSE, self.network.delay_s(self) if server_told else SERVER_PATIENCE_S)
        if told:
            self.down.put(_CLOSE, self.network.delay_s(self))

    def lost_by_server(self) -> None:
        """The server died: nothing more is read, and the client hears of it."""
        self.is_over = True
        self.network.sessions.pop(self.number, None)
        self.up.cut(0)
        self.down.cut(self.network.random.randint(0, len(self.down)))
        self.down.put(_CLOSE, self.network.delay_s(self))

    def message(self, sid: int, message: Message) -> None:
        """Send a message down."""
        self.send_down((self.wire.on_message, (sid, message)))

    def refused(self, reason: str) -> None:
        """The server closes it, and says why."""
        self.send_down((self.wire.end, (reason,)))
        self.over()


class Network:
    """All sessions. ``slow`` gives the one-way delay in seconds for an actor; hosts are servers' names."""

    def __init__(self, loop: SimLoop, random: Random) -> None:
        self.loop, self.random = loop, random
        self.servers: dict[str, Server] = {}
        self.sessions: dict[int, Session] = {}
        self.base_s = 0.0001
        self.jitter_s = 0.0002
        self.extra_s: dict[str, float] = {}
        """Further delay by actor's name."""
        self.silent: dict[str, set[int]] = {}
        """Directions in which nothing comes through, by actor's name."""
        self._contexts: dict[int, Context] = {}
        self._count = 0
        self.world = copy_context()
        self.world.run(ACTOR.set, WORLD)
        loop.network = self

    def context_of(self, actor: Actor) -> Context:
        """The context in which things happen to `actor`."""
        found = self._contexts.get(id(actor))
        if found is None:
            found = self._contexts[id(actor)] = copy_context()
            found.run(ACTOR.set, actor)
            actor.keeps.append(actor)  # its id stays its own
        return found

    def delay_s(self, session: Session) -> float:
        """How long the next item takes."""
        extra = self.extra_s.get(session.actor.name, 0.0)
        return self.base_s + self.random.random() * (self.jitter_s + extra) + extra

    async def connect(self, wire: ModelWire, host: str) -> Session:
        """Make a session. Raises ``ConnectionRefusedError``; waits while nothing comes through."""
        name = wire.actor.name
        await asyncio.sleep(2 * self.base_s)
        while self.silent.get(name) or (host in self.servers and self.servers[host].is_frozen):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        server = self.servers.get(host)
        if server is None or not server.is_up:
            raise ConnectionRefusedError(f"nobody listens at {host}")
        self._count += 1
        session = Session(self, wire, server, self._count)
        self.sessions[session.number] = session
        server.on_connected(session)
        return session

    # -- faults -----------------------------------------------------------------------------------------

    def of(self, actor_name: str) -> list[Session]:
        """The sessions of a process."""
        return [session for session in self.sessions.values() if session.actor.name == actor_name]

    def hold(self, actor_name: str, *directions: int) -> None:
        """Let nothing through in these directions; what is sent waits (as in a kernel's buffers)."""
        self.silent[actor_name] = set(directions)
        self._apply()

    def release(self, actor_name: str) -> None:
        """Let everything through again."""
        self.silent.pop(actor_name, None)
        self._apply()

    def _apply(self) -> None:
        for session in list(self.sessions.values()):
            silent = self.silent.get(session.actor.name, ())
            session.up.is_held = UP in silent or session.server.is_frozen
            session.down.is_held = DOWN in silent
            self.loop.call_soon(session.up.flow, context=self.world)
            self.loop.call_soon(session.down.flow, context=session.down.context)

    def server_changed(self) -> None:
        """A server was frozen, or goes on."""
        self._apply()

    def process_died(self, actor: Actor) -> None:
        """The kernel closes the sockets of a killed process: of what it sent, a part arrives."""
        for session in self.of(actor.name):
            if session.actor is actor:
                session.broken(told=False)

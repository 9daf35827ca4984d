"""A TCP proxy before a nats-server that breaks connections in the ways networks do, and messages, too.

One proxy for each process is the simplest way to break the network of that process only. Where several share
one, :meth:`FaultyProxy.aim` chooses among them by the names under which they connect.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, unquote, urlsplit

from aegisipc.chaos.nemeses.delivery import Delivery, DeliveryCounts
from aegisipc.chaos.nemeses.links import End, Link
from aegisipc.chaos.nemeses.protocol import Picks
from aegisipc.chaos.nemeses.rules import Counts, Flow, Rules, Towards

_HOST: Final = "127.0.0.1"
_BACKLOG: Final = 512
_DIAL_S: Final = 5.0

type Aim = Callable[[str], bool]


class FaultyProxy:
    """Stands between clients and ``target`` (``nats://[user:password@]host:port``); clients connect to
    ``url``, which has the credentials of ``target``. Faults last until :meth:`pass_all`, and several may be
    on at a time. All methods belong to the event loop that entered it.

    What it cannot do: it is no packet filter. A client that connects during a partition gets its TCP
    connection from this host's kernel, and then hears nothing. Nor does it know TLS: then connections have
    no name, and messages cannot be told apart.

    Each direction of a connection keeps 4 MiB at most (:data:`~.links.BUFFER_BYTES`); then it stops to read.
    """

    def __init__(self, target: str, *, rng: random.Random | None = None) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or _HOST, parts.port or 4222)
        self._credentials = (parts.username, parts.password)
        self._rng = rng if rng is not None else random.Random(0)  # noqa: S311 - a schedule, not a secret
        self._aim: Aim | None = None
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._dialing: set[asyncio.Task[None]] = set()
        self._waiting: list[tuple[Link, End]] = []
        self.counts = Counts()
        self.delivered = DeliveryCounts()
        self._delivery = Delivery(self._rng, self.delivered)
        self._rules = {
            Towards.SERVER: Rules(Towards.SERVER, self.counts, self._rng),
            Towards.CLIENT: Rules(Towards.CLIENT, self.counts, self._rng, self._delivery),
        }

    # -- where and who ----------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where clients connect, on 127.0.0.1; it stays the same for life."""
        return self._port

    @property
    def url(self) -> str:
        """The URL for clients."""
        user, password = self._credentials
        login = ""
        if user is not None:
            secret = "" if password is None else f":{quote(unquote(password), safe='')}"
            login = f"{quote(unquote(user), safe='')}{secret}@"
        return f"nats://{login}{_HOST}:{self._port}"

    @property
    def names(self) -> list[str]:
        """The names of the clients that are connected to the server, sorted."""
        return sorted(link.name for link in self._links if link.is_whole)

    @property
    def open_links(self) -> int:
        """Connections of which both sides are open."""
        return sum(link.is_whole for link in self._links)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        for task in list(self._dialing):
            task.cancel()
        await asyncio.gather(*self._dialing, return_exceptions=True)
        for link in list(self._links):
            link.reset()
        await asyncio.sleep(0)  # sockets close in the loop's next round

    def aim(self, at: Aim | None) -> None:
        """Break only connections whose name `at` returns true for (``None``: all). A connection has the
        name "" until its client has said CONNECT.
        """
        self._aim = at
        self._apply()

    def _is_aimed_at(self, name: str) -> bool:
        return self._aim is None or self._aim(name)

    # -- new connections --------------------------------------------------------------------------------

    async def accept(self) -> None:
        """Accept connections (again), on the same port as before."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._greet, _HOST, self._port, backlog=_BACKLOG)
            self._port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Accept nothing: who connects is refused at once. Connections that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _greet(self) -> End:
        link = Link(self._is_aimed_at)
        self._links.add(link)
        return End(lambda end: self._accepted(link, end), lambda _: self._forget(link))

    def _accepted(self, link: Link, client: End) -> None:
        self.counts.accepted += 1
        link.client = client
        client.read(on=False)
        if self._is_silent:
            self._waiting.append((link, client))
        else:
            self._dial(link, client)

    @property
    def _is_silent(self) -> bool:
        """Whether the packets of a handshake would be lost; not if it is for some only, whom we cannot tell
        yet.
        """
        return self._aim is None and any(rules.flow is not Flow.PASS for rules in self._rules.values())

    def _dial(self, link: Link, client: End) -> None:
        task = asyncio.get_running_loop().create_task(self._reach(link, client), name="proxy dials")
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)

    async def _reach(self, link: Link, client: End) -> None:
        server = End(lambda _: None, lambda _: self._forget(link))
        link.server = server
        try:
            async with asyncio.timeout(_DIAL_S):
                await asyncio.get_running_loop().create_connection(lambda: server, *self._target)
        except (OSError, TimeoutError):
            self.counts.unreachable += 1
            client.reset()
            return
        if client.is_lost:
            server.close()
        else:
            link.join(client, server, self._rules)

    def _forget(self, link: Link) -> None:
        if link.is_gone:
            self._links.discard(link)
            self._waiting = [waiting for waiting in self._waiting if waiting[0] is not link]

    # -- the network ------------------------------------------------------------------------------------

    async def pass_all(self) -> None:
        """End every fault. What was held arrives now; connections that lost bytes or one of their sides are
        reset, as TCP would find out; new ones are accepted again. Aims at all.
        """
        self._aim = None
        self._delivery.stop()
        for rules in self._rules.values():
            rules.flow, rules.mean_s, rules.jitter_s = Flow.PASS, 0.0, 0.0
        for link in list(self._links):
            if link.cannot_recover:
                link.reset()
        self._apply()
        await self.accept()

    def partition(self, *, is_lossy: bool = False) -> None:
        """Nothing arrives, either way, and nobody is told. By default what is sent meanwhile arrives
        afterwards, as after an outage shorter than TCP's patience; `is_lossy`: it never does.
        """
        for towards in Towards:
            self.one_way(towards, is_lossy=is_lossy)

    def one_way(self, towards: Towards, *, is_lossy: bool = False) -> None:
        """Nothing arrives at one side, while what that side sends does; see :meth:`partition`. New
        connections come to nothing: a handshake needs both ways.
        """
        self._rules[towards].flow = Flow.LOSE if is_lossy else Flow.HOLD
        self._apply()

    def delay(self, mean_s: float, jitter_s: float = 0.0, *, towards: Towards | None = None) -> None:
        """What arrives does so later, by `mean_s` ± `jitter_s` (uniform), in the same order. ``towards`` one
        side, or by default both. What is sent before the first has arrived does not wait for it.
        """
        for side in Towards if towards is None else (towards,):
            self._rules[side].mean_s, self._rules[side].jitter_s = mean_s, jitter_s

    def half_open(self, closed: Towards) -> int:
        """Close one side of each open connection, the server's or the client's: the other is not told, and
        what it sends is lost. Return of how many. Connections made afterwards are whole.
        """
        links = [link for link in self._links if link.is_whole and link.is_hit]
        for link in links:
            link.half_open(closed)
        self.counts.half_opened += len(links)
        return len(links)

    def reset(self) -> int:
        """Reset each connection (RST to both sides); what was under way is lost. Return how many."""
        links = [link for link in self._links if link.is_hit and not link.is_gone]
        for link in links:
            link.reset()
        self.counts.resets += len(links)
        return len(links)

    def reset_mid_frame(self, towards: Towards) -> int:
        """Reset each open connection in the middle of the next operation that is sent `towards` a side:
        part of it arrives. Return of how many; ``counts.mid_frame_resets`` tells when it happened.
        """
        links = [link for link in self._links if link.is_whole and link.is_hit]
        for link in links:
            link.pipes[towards].is_cut_armed = True
        return len(links)

    # -- messages, from server to client ----------------------------------------------------------------

    def pick(self, picks: Picks) -> None:
        """Choose the messages for the faults below; by default :func:`~.protocol.is_plain`, see
        :mod:`~.delivery`, and :func:`~.protocol.of_subjects`.
        """
        self._delivery.picks = picks

    def drop(self, rate: float) -> None:
        """Do not deliver a share of the messages."""
        self._delivery.drop = rate

    def duplicate(self, rate: float, by_s: float = 0.0) -> None:
        """Deliver a share of the messages twice, the second time up to `by_s` later."""
        self._delivery.duplicate, self._delivery.duplicate_by_s = rate, by_s

    def late(self, rate: float, by_s: float) -> None:
        """Deliver a share of the messages up to `by_s` late, with others overtaking."""
        self._delivery.late, self._delivery.late_by_s = rate, by_s

    def reorder(self, rate: float) -> None:
        """Deliver a share of the messages after the one that came next."""
        self._delivery.reorder = rate

    # ---------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        for link in list(self._links):
            link.apply()
        if not self._is_silent:
            waiting, self._waiting = self._waiting, []
            for link, client in waiting:
                self._dial(link, client)

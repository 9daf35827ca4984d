"""A model of a NATS server: subscriptions, requests without responders, JetStream, and the system account.

There are two accounts. A connection whose options do not require JetStream belongs to the system account: it
hears of connections that end, and may ask how the server keeps streams. All others share one account.
"""

from __future__ import annotations

import json
from asyncio import TimerHandle
from collections.abc import Callable
from contextvars import copy_context
from random import Random
from typing import Any, Final

from aegisipc.chaos.sim.jetstream import JetStream
from aegisipc.chaos.sim.loop import ACTOR, EPOCH_NS, Actor
from aegisipc.chaos.sim.network import Network, Pieces, Session
from aegisipc.chaos.sim.subscriptions import Interest, Route
from aegisipc.eventstore.jetstream_api import format_time
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ServerInfo

MAX_PAYLOAD: Final = 1 << 20
VERSION: Final = "2.15.1"

NO_RESPONDERS: Final = b"NATS/1.0 503\r\n\r\n"

_EVENT_DELAY_S: Final = 0.002
"""How long after a connection's end the system account hears of it."""

_SYNC_INTERVAL_NS: Final = 120_000_000_000


class ModelServer:
    """One server. ``host`` is the name by which the network finds it.

    What it does by itself belongs to an actor of its own, another one for each of its lives.
    """

    def __init__(self, network: Network, random: Random, host: str = "sim") -> None:
        self.network, self.random, self.host = network, random, host
        self.loop = network.loop
        self.is_up = True
        self.is_frozen = False
        self.incarnation = 0
        self.handled = 0
        """How many messages and requests of clients it took."""
        self.interest = Interest()
        self._system = Interest()
        self._sessions: dict[int, Session] = {}
        self._begin_life()
        self.jetstream = JetStream(self)
        network.servers[host] = self

    def _begin_life(self) -> None:
        self.incarnation += 1
        self._actor = Actor(self.host)
        self._context = copy_context()
        self._context.run(ACTOR.set, self._actor)

    def later(self, delay_s: float, act: Callable[..., None], *args: Any) -> TimerHandle:
        """Do something after a while, unless the server dies before; while it is frozen, it waits."""
        return self.loop.call_at(self.loop.now_s + delay_s, act, *args, context=self._context)

    def soon(self, act: Callable[..., None], *args: Any) -> None:
        """Do something next, unless the server dies before."""
        self.loop.call_soon(act, *args, context=self._context)

    # -- what the network asks --------------------------------------------------------------------------

    def info(self, number: int) -> ServerInfo:
        """What it says of itself."""
        return ServerInfo(
            url=f"nats://{self.host}:4222",
            version=VERSION,
            server_id=self._id,
            server_name=self.host,
            max_payload_bytes=MAX_PAYLOAD,
            jetstream=True,
            cluster=None,
            client_id=number,
        )

    @property
    def _id(self) -> str:
        return f"SIM{self.incarnation}"

    def on_connected(self, session: Session) -> None:
        """A client logged in."""
        self._sessions[session.number] = session

    def on_closed(self, session: Session) -> None:
        """A session is over."""
        if self._sessions.pop(session.number, None) is None:
            return
        if session.is_system:
            self._system.remove_session(session.number)
            return
        patterns = self.interest.remove_session(session.number)
        self.jetstream.interest_changed(patterns)
        self.later(_EVENT_DELAY_S, self._tell_end, session, self.loop.now_s)

    def on_pieces(self, session: Session, pieces: Pieces) -> None:
        """A client sent something; if its session is over by now, nothing happens."""
        if session.number not in self._sessions:
            return
        self.handled += 1
        head = pieces[0]
        if head.startswith(b"PUB "):
            _, subject, reply, _ = head.decode().split(" ")
            self._published(session, subject, reply, b"", pieces[1])
        elif head.startswith(b"HPUB "):
            _, subject, reply, _, _ = head.decode().split(" ")
            self._published(session, subject, reply, pieces[1], pieces[2])
        elif head == b"PING":
            session.send_down((session.wire.on_pong, ()))
        elif head == b"SUB":
            pattern = pieces[1].decode()
            route = Route(session, int(pieces[3]), pieces[2].decode())
            if session.is_system:
                self._system.add(route, pattern)
            else:
                self.interest.add(route, pattern)
                self.jetstream.interest_changed((pattern,))
        else:
            interest = self._system if session.is_system else self.interest
            ended = interest.remove(session.number, int(pieces[1]))
            if ended is not None and not session.is_system:
                self.jetstream.interest_changed((ended,))

    # -- messages ---------------------------------------------------------------------------------------

    def _published(self, session: Session, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        if len(headers) + len(payload) > MAX_PAYLOAD:
            session.refused("the server said 'maximum payload violation'")
        elif session.is_system:
            self._ask_system(subject, reply)
        else:
            self.publish(subject, reply, headers, payload)

    def publish(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        """Take a message that somebody published."""
        is_taken = (
            self.jetstream.on_request(subject, reply, payload)
            if subject.startswith("$JS.")
            else self.jetstream.on_publish(subject, reply, headers, payload)
        )
        if not self.deliver(subject, reply, headers, payload) and not is_taken and reply:
            self.deliver(reply, "", NO_RESPONDERS, b"")

    def deliver(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        """Hand a message to who subscribes to it; tells whether anybody does."""
        routes = self.interest.routes(subject)
        if routes:
            self._hand_out(routes, Message(subject, payload, headers, reply))
        return bool(routes)

    def deliver_as(self, to: str, message: Message) -> None:
        """Hand a stored message to who subscribes to `to`: it keeps the subject that it was stored on."""
        self._hand_out(self.interest.routes(to), message)

    def _hand_out(self, routes: list[Route], message: Message) -> None:
        chosen: dict[str, list[Route]] = {}
        for route in routes:
            if route.queue:
                chosen.setdefault(route.queue, []).append(route)
            else:
                route.session.message(route.sid, message)
        for members in chosen.values():
            session, sid, _ = members[self.random.randrange(len(members))]
            session.message(sid, message)

    def has_interest(self, subject: str) -> bool:
        """Whether anybody subscribes to a subject."""
        return bool(self.interest.routes(subject))

    # -- the system account -----------------------------------------------------------------------------

    def _tell_system(self, subject: str, reply: str, body: dict[str, Any]) -> None:
        routes = self._system.routes(subject)
        if routes:
            self._hand_out(routes, Message(subject, json.dumps(body).encode(), b"", reply))

    def _ask_system(self, subject: str, reply: str) -> None:
        names = self.jetstream.node_names()
        if subject == "$SYS.REQ.SERVER.PING.IDZ":
            for name in names:
                self._tell_system(reply, "", {"name": name, "host": self.host, "id": self._id})
        elif subject == "$SYS.REQ.SERVER.PING.JSZ":
            config: dict[str, Any] = {"sync_interval": _SYNC_INTERVAL_NS, "strict": True}
            if self.jetstream.syncs:
                config["sync_always"] = True
            for name in names:
                server = {"name": name, "host": self.host, "id": self._id, "ver": VERSION}
                self._tell_system(reply, "", {"server": server, "data": {"config": config}})
        elif reply:
            routes = self._system.routes(reply)
            self._hand_out(routes, Message(reply, b"", NO_RESPONDERS, ""))

    def _tell_end(self, session: Session, at_s: float) -> None:
        event = {
            "type": "io.nats.server.advisory.v1.client_disconnect",
            "timestamp": format_time(EPOCH_NS + int(at_s * 1e9)),
            "server": {"name": self.host, "host": self.host, "id": session.info.server_id, "ver": VERSION},
            "client": {"id": session.number, "acc": "AEGIS", "name": session.name, "kind": "Client"},
            "reason": "Client Closed",
        }
        self._tell_system("$SYS.ACCOUNT.AEGIS.DISCONNECT", "", event)

    # -- faults -----------------------------------------------------------------------------------------

    def kill(self, *, loses_power: bool = False) -> None:
        """End it at once; with ``loses_power`` what was not synced is gone as well."""
        self.is_up = False
        self.is_frozen = False
        self.loop.kill(self._actor)
        for session in list(self._sessions.values()):
            session.lost_by_server()
        self._sessions.clear()
        self.interest.clear()
        self._system.clear()
        self.jetstream.crash(loses_power=loses_power)
        self.network.server_changed()

    def start(self) -> None:
        """Start it again on what is left on its disk."""
        self._begin_life()
        self.is_up = True
        self.jetstream.recover()
        self.network.server_changed()

    def freeze(self) -> None:
        """Stop it: connections stay, and nothing is read or sent."""
        self.is_frozen = True
        self.loop.freeze(self._actor)
        self.network.server_changed()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self.is_frozen = False
        self.loop.thaw(self._actor)
        self.network.server_changed()

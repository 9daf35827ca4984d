"""A model of JetStream, as far as this system uses it, with what is nasty about it.

What it models is written down in ``docs/jetstream.md``, and each of it is compared with a real server by the
conformance scripts. What a stream has stored survives the death of the server; when its power fails, what was
not synced is gone. Consumers' places are written down now and then: a crash takes them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from aegisipc.chaos.sim.api import Api, encode
from aegisipc.chaos.sim.consumers import Consumer, PushConsumer
from aegisipc.chaos.sim.loop import EPOCH_NS
from aegisipc.chaos.sim.pulling import PullConsumer
from aegisipc.chaos.sim.streams import ModelStream, Refused, Write
from aegisipc.chaos.sim.subscriptions import matching
from aegisipc.eventstore.nats.message import parse_headers

if TYPE_CHECKING:
    from aegisipc.chaos.sim.server import ModelServer

_NODES: Final = 3
_MOST_CACHED: Final = 1 << 12
_UNAVAILABLE: Final = {
    "code": 503,
    "err_code": 10008,
    "description": "JetStream system temporarily unavailable",
}

SLOW_WRITE_S: Final = 0.0005
"""How much longer a write takes at most if it is synced, on a disk that is well."""


class JetStream:
    """The streams and consumers of one server, with the faults that can be switched on.

    ``syncs``: each write is synced before it is acknowledged, else only now and then. ``replicas``: from 3 on
    it answers as a cluster does (one node of which may be what clients are connected to). ``write_s`` and
    ``slow_write_s``: how long a write takes, and how much longer at most with a sync. ``acks_lost``: how
    often, from 0 to 1, a message is stored and its acknowledgement never comes. ``stalls`` and ``stall_s``:
    how often, and for how long, a write takes so long that whoever waits gives up; it is stored later all
    the same. ``is_failing``: the disk refuses writes; a stream that met that takes none until the
    server is started again. ``is_full``: nothing more is stored. ``lag_s``: how far a consumer on a replica
    may be behind. ``early_redelivery``: how often a pull consumer hands out at once, after a restart, what
    is not acknowledged, and does not wait until it is overdue.
    """

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.loop = server.loop
        self.streams: dict[str, ModelStream] = {}
        self.syncs = True
        self.replicas = 1
        self.is_failing = False
        self.is_full = False
        self.write_s = 0.00005
        self.slow_write_s = SLOW_WRITE_S
        self.acks_lost = 0.0
        self.stalls = 0.0
        self.stall_s = 6.0
        self.lag_s = 0.02
        self.early_redelivery = 0.0
        self._is_electing = False
        self._api = Api(self)
        self._by_subject: dict[str, ModelStream | None] = {}
        self._by_inbox: dict[str, list[PushConsumer]] = {}

    @property
    def has_waiting(self) -> bool:
        """Whether a write is still on its way to the disk."""
        return any(stream.waiting for stream in self.streams.values())

    def now_ns(self) -> int:
        """The server's clock, Unix nanoseconds."""
        return EPOCH_NS + int(self.loop.now_s * 1e9)

    def node_names(self) -> list[str]:
        """The names of the servers that keep streams, the leader first."""
        host = self.server.host
        return [host] if self.replicas == 1 else [host, *(f"{host}-{n}" for n in range(2, _NODES + 1))]

    # -- publishing -------------------------------------------------------------------------------------

    def on_publish(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        """Take what a stream stores; tells whether one does, and there is somebody who answers for it."""
        stream = self._stream_of(subject)
        if stream is None or self._is_electing:
            return False
        write = Write(subject, parse_headers(headers) if headers else {}, headers, payload, reply)
        if self.replicas > 1:
            try:
                known = stream.check_arrival(write)
            except Refused as refusal:
                self._refuse(stream, reply, refusal)
                return True
            if known is not None:
                self._acknowledge(stream, reply, known, is_duplicate=True)
                return True
        stream.waiting.append(write)
        is_free = stream.free_at_s <= self.loop.now_s
        stream.free_at_s = max(stream.free_at_s, self.loop.now_s) + self._write_delay_s(may_stall=is_free)
        self.server.later(stream.free_at_s - self.loop.now_s, self._written, stream, write)
        return True

    def _write_delay_s(self, *, may_stall: bool) -> float:
        random = self.server.random.random
        delay_s = self.write_s
        if self.syncs:
            chance = random()
            delay_s += self.slow_write_s * chance * chance
        if may_stall and self.stalls and random() < self.stalls:
            delay_s += self.stall_s
        return delay_s

    def _written(self, stream: ModelStream, write: Write) -> None:
        if not stream.waiting or stream.waiting[0] is not write:  # an election or a deletion dropped it
            return
        stream.waiting.popleft()
        try:
            seq, is_duplicate = stream.store(write)
        except Refused as refusal:
            self._refuse(stream, write.reply, refusal)
            return
        random = self.server.random.random
        if self.acks_lost and random() < self.acks_lost:
            stream.kick(seq)
        elif random() < 0.5:  # who hears first: whoever follows, or whoever published
            stream.kick(seq)
            self._acknowledge(stream, write.reply, seq, is_duplicate=is_duplicate)
        else:
            self._acknowledge(stream, write.reply, seq, is_duplicate=is_duplicate)
            stream.kick(seq)

    def _acknowledge(self, stream: ModelStream, reply: str, seq: int, *, is_duplicate: bool) -> None:
        if reply:
            end = ',"duplicate": true}' if is_duplicate else "}"
            self.server.deliver(reply, "", b"", f'{{"stream":"{stream.name}","seq":{seq}{end}'.encode())

    def _refuse(self, stream: ModelStream, reply: str, refusal: Refused) -> None:
        self.say(reply, {"error": refusal.to_plain(), "stream": stream.name, "seq": 0})

    def _stream_of(self, subject: str) -> ModelStream | None:
        try:
            return self._by_subject[subject]
        except KeyError:
            pass
        found = next(
            (
                stream
                for stream in self.streams.values()
                if any(matching(pattern, subject) for pattern in stream.config["subjects"])
            ),
            None,
        )
        if len(self._by_subject) >= _MOST_CACHED:
            self._by_subject.clear()
        self._by_subject[subject] = found
        return found

    def streams_changed(self) -> None:
        """There is another stream, or one less."""
        self._by_subject.clear()

    # -- requests ---------------------------------------------------------------------------------------

    def on_request(self, subject: str, reply: str, payload: bytes) -> bool:
        """Take a request, or a word to a consumer; tells whether there is somebody for it."""
        if subject.startswith("$JS.ACK."):
            tokens = subject.split(".")
            consumer = self._consumer(tokens[2], tokens[3])
            if not isinstance(consumer, PullConsumer):
                return False
            consumer.on_ack(int(tokens[5]), int(tokens[6]), payload)
            if reply:
                self.server.deliver(reply, "", b"", b"")
            return True
        if subject.startswith("$JS.FC."):
            tokens = subject.split(".")
            consumer = self._consumer(tokens[2], tokens[3])
            if isinstance(consumer, PushConsumer):
                consumer.on_flow_control(subject)
            return consumer is not None
        return self._api.on_request(subject, reply, payload)

    def _consumer(self, stream: str, name: str) -> Consumer | None:
        known = self.streams.get(stream)
        return None if known is None else known.consumers.get(name)

    def cannot_say(self, reply: str) -> bool:
        """While the leader is elected: nobody answers for the streams, or somebody that nobody can."""
        if not self._is_electing:
            return False
        if self.server.random.random() < 0.5:
            self.say(reply, {"error": _UNAVAILABLE})
        return True

    def say(self, reply: str, answer: dict[str, Any]) -> None:
        """Answer a request."""
        if reply:
            self.server.deliver(reply, "", b"", encode(answer).encode())

    # -- interest ---------------------------------------------------------------------------------------

    def listens(self, consumer: PushConsumer) -> None:
        """Tell a consumer from now on who subscribes to its subject."""
        self._by_inbox.setdefault(consumer.deliver_subject, []).append(consumer)

    def listens_not(self, consumer: PushConsumer) -> None:
        """Tell it no more."""
        listening = self._by_inbox.get(consumer.deliver_subject, [])
        if consumer in listening:
            listening.remove(consumer)
        if not listening:
            self._by_inbox.pop(consumer.deliver_subject, None)

    def interest_changed(self, patterns: Sequence[str]) -> None:
        """Somebody subscribed to these, or does no longer."""
        for pattern in patterns:
            if "*" not in pattern and ">" not in pattern:
                for consumer in list(self._by_inbox.get(pattern, ())):
                    consumer.interest_changed()
            elif not pattern.startswith("_INBOX."):
                for listening in list(self._by_inbox.values()):
                    for consumer in list(listening):
                        consumer.interest_changed()

    # -- faults -----------------------------------------------------------------------------------------

    @property
    def is_electing(self) -> bool:
        """Whether no stream has a leader: publishes have no responders, and requests get no answer or 503.

        When it begins, the old leader died: a random part of what was on its way is stored without a word,
        and of the consumers that were kept by one node only, those of the dead node are gone. When it ends,
        the others hand out what was stored so.
        """
        return self._is_electing

    @is_electing.setter
    def is_electing(self, is_electing: bool) -> None:
        if is_electing and not self._is_electing:
            for stream in self.streams.values():
                stream.settle(len(stream.waiting))
                for consumer in list(stream.consumers.values()):
                    if isinstance(consumer, PushConsumer) and consumer.node == 0:
                        consumer.vanish()
        was_electing, self._is_electing = self._is_electing, is_electing
        if was_electing and not is_electing:
            for stream in self.streams.values():
                stream.kick_all()

    def forget_ids(self) -> None:
        """Lose the memory of message ids of all streams."""
        for stream in self.streams.values():
            stream.forget_all_ids()

    # -- life -------------------------------------------------------------------------------------------

    def crash(self, *, loses_power: bool) -> None:
        """The server died."""
        self._is_electing = False
        for stream in self.streams.values():
            stream.crash(loses_power=loses_power)

    def recover(self) -> None:
        """The server started again."""
        for stream in self.streams.values():
            stream.recover()

"""Modelled consumers: ordered push consumers of followers, and the shared pull consumer of a pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import TimerHandle
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aegisipc.chaos.sim.streams import Stored
from aegisipc.chaos.sim.subscriptions import matching
from aegisipc.eventstore.jetstream_api import parse_time
from aegisipc.eventstore.nats.message import Message

if TYPE_CHECKING:
    from aegisipc.chaos.sim.streams import ModelStream


WINDOW_BYTES: Final = 2 << 20
MOST_WINDOW_BYTES: Final = 32 << 20
"""How much a push consumer sends before it waits for an answer: in the beginning, and at most."""

_FLOW_CONTROL: Final = b"NATS/1.0 100 FlowControl Request\r\n\r\n"
_NS: Final = 1_000_000_000


def _filters(config: dict[str, Any]) -> tuple[str, ...]:
    if config.get("filter_subjects"):
        return tuple(config["filter_subjects"])
    return (config["filter_subject"],) if config.get("filter_subject") else ()


def _first(stream: ModelStream, config: dict[str, Any]) -> int:
    policy = config.get("deliver_policy", "all")
    first = stream.first_seq
    if policy == "by_start_sequence":
        first = int(
            config["opt_start_seq"]
        )  # also where nothing is yet: what comes before that is passed over
    elif policy == "by_start_time":
        first = stream.first_from(parse_time(config["opt_start_time"]))
    elif policy == "new":
        first = stream.last_seq + 1
    return max(first, stream.first_seq)


class Consumer(ABC):
    """What both kinds have in common."""

    def __init__(self, stream: ModelStream, name: str, config: dict[str, Any]) -> None:
        self.stream, self.name, self.config = stream, name, config
        self.server = stream.jetstream.server
        self.filters = _filters(config)
        stream.expire()
        self.next_seq = _first(stream, config)
        self.consumer_seq = 0
        self.is_ended = False
        self._wanted: dict[str, bool] = {}

    def wants(self, subject: str) -> bool:
        """Whether what is on a subject passes the filters."""
        wanted = self._wanted.get(subject)
        if wanted is None:
            wanted = not self.filters or any(matching(pattern, subject) for pattern in self.filters)
            self._wanted[subject] = wanted
        return wanted

    def ready(self) -> list[Stored]:
        """Return what there is to send that was not taken yet."""
        last = self.stream.last_seq
        found = [
            stored
            for seq in range(max(self.next_seq, self.stream.first_seq), last + 1)
            if (stored := self.stream.at(seq)) is not None and self.wants(stored.subject)
        ]
        self.next_seq = max(self.next_seq, last + 1)
        return found

    def begin(self) -> None:
        """Be one of the stream's consumers from now on."""
        self.stream.consumers[self.name] = self
        self.stream.consumers_changed()

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Take an update; its place stays."""
        self.config = config
        self.filters = _filters(config)
        self._wanted.clear()
        self.stream.consumers_changed()

    @abstractmethod
    def arrived(self, seq: int) -> None:
        """A message was stored that it wants."""

    @abstractmethod
    def purged(self, pattern: str | None) -> None:
        """Messages were removed: all, or those on subjects that match."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What the server says of its place."""

    def state_to_maker(self) -> dict[str, Any]:
        """What whoever would make it is told of its place."""
        return self.state()

    @abstractmethod
    def end(self, why: str) -> None:
        """It was deleted."""

    @abstractmethod
    def crash(self) -> bool:
        """The server died; tells whether it is there afterwards."""

    @abstractmethod
    def recover(self) -> None:
        """The server started again."""

    def vanish(self) -> None:
        """Be there no more."""
        self.is_ended = True
        if self.stream.consumers.get(self.name) is self:
            del self.stream.consumers[self.name]
        self.stream.consumers_changed()

    def message(self, stored: Stored, delivered: int, pending: int) -> Message:
        """Return a stored message as it is delivered."""
        self.consumer_seq += 1
        reply = (
            f"$JS.ACK.{self.stream.name}.{self.name}.{delivered}.{stored.seq}.{self.consumer_seq}."
            f"{stored.time_ns}.{pending}"
        )
        return Message(stored.subject, stored.payload, stored.headers, reply)


class PushConsumer(Consumer):
    """Ordered, ack-less, with idle heartbeats; forgotten when nobody listened for a while. ``node`` is where
    a cluster keeps it; on others than the leader's (0) it may be behind.
    """

    def __init__(self, stream: ModelStream, name: str, config: dict[str, Any]) -> None:
        super().__init__(stream, name, config)
        self.deliver_subject: str = config["deliver_subject"]
        jetstream = stream.jetstream
        nodes = len(jetstream.node_names())
        self.node = self.server.random.randrange(nodes) if nodes > 1 else 0
        self._lag_s = self.server.random.random() * jetstream.lag_s if self.node else 0.0
        self._heartbeat_s = int(config.get("idle_heartbeat") or 0) / _NS
        self._inactive_s = int(config.get("inactive_threshold") or 5 * _NS) / _NS
        self._has_flow_control = bool(config.get("flow_control"))
        self._has_interest = False
        self._sent_s = jetstream.loop.now_s
        self._beat: TimerHandle | None = None
        self._expiry: TimerHandle | None = None
        self._backlog: deque[Stored] = deque()
        self._floor = 0, self.next_seq - 1
        self._window = WINDOW_BYTES
        self._unanswered = self._asked_for = 0
        """Bytes since the last answer, and up to the question that is open."""
        self._question = ""

    def begin(self) -> None:
        """Begin to deliver; the request may be answered before or after."""
        super().begin()
        self.stream.jetstream.listens(self)
        self._has_interest = self.server.has_interest(self.deliver_subject)
        if not self._has_interest:
            self._expiry = self.server.later(self._inactive_s, self.vanish)
        if self._heartbeat_s:
            self._beat = self.server.later(self._heartbeat_s, self._heartbeat)
        if self.server.random.random() < 0.5:
            self.pump()
        else:
            self.server.soon(self.pump)

    def state(self) -> dict[str, Any]:
        """What the server says of its place."""
        stream = self.stream
        pending = len(self._backlog) + sum(
            (stored := stream.at(seq)) is not None and self.wants(stored.subject)
            for seq in range(max(self.next_seq, stream.first_seq), stream.last_seq + 1)
        )
        state = {
            "delivered": {"consumer_seq": self.consumer_seq, "stream_seq": self._looked_to()},
            "ack_floor": {"consumer_seq": self._floor[0], "stream_seq": self._floor[1]},
            "num_ack_pending": 0,
            "num_redelivered": 0,
            "num_waiting": 0,
            "num_pending": pending,
        }
        return state | {"push_bound": True} if self.server.has_interest(self.deliver_subject) else state

    def _looked_to(self) -> int:
        return (self._backlog[0].seq if self._backlog else self.next_seq) - 1

    def purged(self, pattern: str | None) -> None:  # noqa: ARG002 - it looks at what is left
        """Messages were removed."""
        self._backlog = deque(stored for stored in self._backlog if self.stream.at(stored.seq) is stored)

    def arrived(self, seq: int) -> None:  # noqa: ARG002 - it sends all that there is
        """A message was stored that it wants."""
        if self._lag_s:
            self.server.later(self._lag_s, self.pump)
        else:
            self.pump()

    def pump(self) -> None:
        """Send what there is."""
        if self.is_ended or not self._has_interest:
            return
        backlog = self._backlog
        backlog.extend(self.ready())
        if not backlog:
            return
        self._sent_s = self.stream.jetstream.loop.now_s
        while backlog and (not self._has_flow_control or self._unanswered <= self._window):
            stored = backlog.popleft()
            self.server.deliver_as(self.deliver_subject, self.message(stored, 1, len(backlog)))
            self._floor = self.consumer_seq, stored.seq
            if self._has_flow_control:
                self._count(stored)

    def _count(self, stored: Stored) -> None:
        self._unanswered += len(stored.subject) + len(stored.headers) + len(stored.payload)
        if not self._question and self._unanswered > self._window // 2:
            self._question = f"$JS.FC.{self.stream.name}.{self.name}.{self.server.random.getrandbits(32):08x}"
            self._asked_for = self._unanswered
            self.server.deliver(self.deliver_subject, self._question, _FLOW_CONTROL, b"")

    def on_flow_control(self, subject: str) -> None:
        """Whoever reads has come so far."""
        if subject != self._question:
            return
        self._window = min(2 * self._window, MOST_WINDOW_BYTES)
        self._unanswered = max(0, self._unanswered - self._asked_for)
        self._question = ""
        self.pump()

    def _heartbeat(self) -> None:
        if self.is_ended:
            return
        now_s = self.stream.jetstream.loop.now_s
        left_s = self._sent_s + self._heartbeat_s - now_s
        if left_s > 1e-9:
            self._beat = self.server.later(left_s, self._heartbeat)
            return
        self._sent_s = now_s
        if self._has_interest:
            stalled = f"Nats-Consumer-Stalled: {self._question}\r\n" if self._question else ""
            head = (
                f"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: {self.consumer_seq}\r\n"
                f"Nats-Last-Stream: {self._looked_to()}\r\n{stalled}\r\n"
            )
            self.server.deliver(self.deliver_subject, "", head.encode(), b"")
            self.pump()  # it looks again, also where nobody told it of anything
        self._beat = self.server.later(self._heartbeat_s, self._heartbeat)

    def interest_changed(self) -> None:
        """Somebody subscribed to its subject, or does no longer."""
        has = self.server.has_interest(self.deliver_subject)
        if has == self._has_interest or self.is_ended:
            return
        self._has_interest = has
        if has:
            if self._expiry is not None:
                self._expiry.cancel()
            self.server.soon(self.pump)
        else:
            self._expiry = self.server.later(self._inactive_s, self.vanish)

    def vanish(self) -> None:
        """Deliver nothing more."""
        super().vanish()
        self.stream.jetstream.listens_not(self)
        for timer in (self._beat, self._expiry):
            if timer is not None:
                timer.cancel()

    def end(self, why: str) -> None:  # noqa: ARG002 - a push consumer ends without a word
        """It was deleted."""
        self.vanish()

    def crash(self) -> bool:
        """The server died; tells whether it is there afterwards: it is kept in memory only."""
        self.vanish()
        return False

    def recover(self) -> None:
        """Never called: it did not survive."""

"""Modelled pull consumers: durable, with acknowledgements and redelivery; a crash takes their place back."""

from __future__ import annotations

import json
from asyncio import TimerHandle
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from aegisipc.chaos.sim.consumers import Consumer
from aegisipc.chaos.sim.streams import Stored
from aegisipc.chaos.sim.subscriptions import includes

if TYPE_CHECKING:
    from aegisipc.chaos.sim.streams import ModelStream

FLUSH_S: Final = 0.1
"""How often consumers' places are written down."""

_NO_MESSAGES: Final = b"NATS/1.0 404 No Messages\r\n\r\n"
_TOO_MANY: Final = b"NATS/1.0 409 Exceeded MaxWaiting\r\n\r\n"
_BAD: Final = b"NATS/1.0 400 Bad Request\r\n\r\n"
_NS: Final = 1_000_000_000


@dataclass(slots=True)
class _Out:
    """A message that was handed out and not acknowledged. ``place`` is the first that it had."""

    delivered: int
    place: int
    due_s: float


@dataclass(slots=True, eq=False)
class _Pull:
    reply: str
    left: int
    expiry: TimerHandle | None = None


@dataclass(slots=True)
class _Place:
    """Where a consumer stands, by its own count and by the stream's: what it handed out, and up to where
    everything is acknowledged.
    """

    delivered: tuple[int, int]
    floor: tuple[int, int]


class PullConsumer(Consumer):
    """Durable, with explicit acknowledgements. Its place is written down every ``FLUSH_S``."""

    def __init__(self, stream: ModelStream, name: str, config: dict[str, Any]) -> None:
        super().__init__(stream, name, config)
        self._place = _Place((0, self.next_seq - 1), (0, self.next_seq - 1))
        self._out: dict[int, _Out] = {}
        self._again: deque[int] = deque()
        self._new: deque[Stored] = deque()
        self._pulls: deque[_Pull] = deque()
        self._recovered: dict[str, Any] | None = None
        self._flush: TimerHandle | None = None
        self._check: TimerHandle | None = None
        self._check_s = 0.0
        self._take_settings()
        self._flushed = self._snapshot()
        self._new.extend(self.ready())

    def _take_settings(self) -> None:
        config = self.config
        self._ack_wait_s = int(config.get("ack_wait") or 30 * _NS) / _NS
        self._most_pending = int(config.get("max_ack_pending") or 1000)
        self._most_pulls = int(config.get("max_waiting") or 512)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Take an update; its place stays."""
        super().reconfigure(config)
        self._take_settings()
        self._look_again()

    def _look_again(self) -> None:
        self.next_seq = max(self._place.delivered[1] + 1, self.stream.first_seq)
        self._new.clear()
        self._new.extend(self.ready())

    def purged(self, pattern: str | None) -> None:
        """Messages were removed: what is gone is not waited for, and the place moves on with the stream's
        beginning, or with that of its own messages, if all of those were meant.
        """
        stream, filters = self.stream, self.filters or (">",)
        is_wider = pattern is not None and not all(includes(pattern, one) for one in filters)
        if is_wider and not any(includes(one, pattern or ">") for one in filters):
            return
        start = stream.first_seq
        if pattern is not None and not is_wider:
            start = stream.first_on(pattern)
        delivered, floor = self._place.delivered, self._place.floor
        if delivered[1] < start - 1:
            self._place.delivered = delivered[0], start - 1
        if floor[1] < start:
            gone = [s for s in self._out if s < start or (is_wider and stream.at(s) is None)]
            place = max([floor[0], *(self._out.pop(seq).place for seq in gone)])
            self._place.floor = place, start - 1
        if not self._out:
            self._place.floor = self._place.delivered
        self._again = deque(seq for seq in self._again if seq > self._place.delivered[1])
        self._look_again()

    def state(self) -> dict[str, Any]:
        """What the server says of its place."""
        (consumer_seq, seq), (floor, stream_floor) = self._place.delivered, self._place.floor
        return {
            "delivered": {"consumer_seq": consumer_seq, "stream_seq": seq},
            "ack_floor": {"consumer_seq": floor, "stream_seq": stream_floor},
            "num_ack_pending": len(self._out),
            "num_redelivered": sum(out.delivered > 1 for out in self._out.values()),
            "num_waiting": len(self._pulls),
            "num_pending": len(self._new),
        }

    def state_to_maker(self) -> dict[str, Any]:
        """What whoever would make it is told: after a restart, the first one hears of its place then."""
        recovered, self._recovered = self._recovered, None
        return recovered or self.state()

    # -- requests ---------------------------------------------------------------------------------------

    def on_pull(self, reply: str, payload: bytes) -> None:
        """Somebody asks for messages."""
        try:
            wanted = json.loads(payload) if payload else {}
        except ValueError:
            self._say(reply, _BAD)
            return
        if not isinstance(wanted, dict):
            wanted = {"batch": wanted}
        if len(self._pulls) >= self._most_pulls:
            self._drop_unwanted()
            if len(self._pulls) >= self._most_pulls:
                self._say(reply, _TOO_MANY)
                return
        pull = _Pull(reply, int(wanted.get("batch") or 1))
        self._pulls.append(pull)
        expires_s = int(wanted.get("expires") or 0) / _NS
        if expires_s:
            pull.expiry = self.server.later(expires_s, self._expired, pull)
        asked = pull.left
        self.pump()
        if wanted.get("no_wait") and pull in self._pulls and not (expires_s and pull.left == asked):
            self._end_pull(pull, _NO_MESSAGES)

    def _say(self, reply: str, head: bytes) -> None:
        self.server.deliver(reply, "", head, b"")

    def _expired(self, pull: _Pull) -> None:
        if pull in self._pulls:
            self._end_pull(pull, _timed_out(pull.left))

    def _end_pull(self, pull: _Pull, head: bytes) -> None:
        self._drop(pull)
        self._say(pull.reply, head)

    def _drop(self, pull: _Pull) -> None:
        self._pulls.remove(pull)
        if pull.expiry is not None:
            pull.expiry.cancel()

    def _drop_unwanted(self) -> None:
        for pull in list(self._pulls):
            if not self.server.has_interest(pull.reply):
                self._drop(pull)

    # -- handing out ------------------------------------------------------------------------------------

    def arrived(self, seq: int) -> None:  # noqa: ARG002 - it takes all that there is
        """A message was stored that it wants."""
        self._new.extend(self.ready())
        self.pump()

    def pump(self) -> None:
        """Hand out what there is to those who ask."""
        while self._pulls and not self.is_ended:
            pull = self._pulls[0]
            if not self.server.has_interest(pull.reply):
                self._drop(pull)
                continue
            stored = self._next()
            if stored is None:
                return
            pull.left -= 1
            if pull.left:
                self._pulls.rotate(-1)
            else:
                self._drop(pull)
            self._hand_out(stored, pull.reply)

    def _next(self) -> Stored | None:
        while self._again:
            stored = self.stream.at(self._again.popleft())
            if stored is not None and stored.seq in self._out:
                return stored
        while self._new and len(self._out) < self._most_pending:
            stored = self.stream.at(self._new.popleft().seq)
            if stored is not None:
                return stored
        return None

    def _hand_out(self, stored: Stored, reply: str) -> None:
        seq = stored.seq
        out = self._out.get(seq)
        due_s = self.stream.jetstream.loop.now_s + self._ack_wait_s
        delivered = 1 if out is None else out.delivered + 1
        message = self.message(stored, delivered, len(self._new))
        self._out[seq] = _Out(delivered, self.consumer_seq if out is None else out.place, due_s)
        self._place.delivered = self.consumer_seq, max(seq, self._place.delivered[1])
        self._check_at(due_s)
        self.server.deliver_as(reply, message)
        self._flush_later()

    # -- words about messages ---------------------------------------------------------------------------

    def on_ack(self, seq: int, place: int, word: bytes) -> None:
        """A word about a message that was handed out."""
        out = self._out.get(seq)
        now_s = self.stream.jetstream.loop.now_s
        if not word or word in (b"+ACK", b"+OK") or word.startswith(b"+TERM"):
            if out is not None:
                self._acknowledged(seq, place, out)
        elif word.startswith(b"-NAK"):
            if out is not None and seq not in self._again:
                rest = word[4:].strip()
                delay_s = json.loads(rest).get("delay", 0) / _NS if rest else 0.0
                out.due_s = now_s + delay_s
                if delay_s:
                    self._check_at(out.due_s)
                else:
                    self._again.append(seq)
                    self.pump()
        elif word == b"+WPI" and out is not None:
            out.due_s = now_s + self._ack_wait_s

    def _acknowledged(self, seq: int, place: int, out: _Out) -> None:
        del self._out[seq]
        where = self._place
        if not self._out:
            where.floor = where.delivered
        elif out.place == where.floor[0] + 1 or place == where.floor[0] + 1:
            lowest = min(self._out)
            where.floor = (self._out[lowest].place - 1, lowest - 1) if lowest > seq else (out.place, seq)
        self._flush_later()
        if self._new and self._pulls:
            self.pump()

    def _check_at(self, at_s: float) -> None:
        if self._check is not None:
            if self._check_s <= at_s:
                return
            self._check.cancel()
        self._check_s = at_s
        self._check = self.server.later(at_s - self.stream.jetstream.loop.now_s, self._check_overdue)

    def _check_overdue(self) -> None:
        self._check = None
        now_s = self.stream.jetstream.loop.now_s + 1e-9
        waiting = set(self._again)
        overdue = sorted(seq for seq, out in self._out.items() if out.due_s <= now_s and seq not in waiting)
        self._again.extend(overdue)
        left = [out.due_s for out in self._out.values() if out.due_s > now_s]
        if left:
            self._check_at(min(left))
        self.pump()

    # -- what it remembers ------------------------------------------------------------------------------

    def _flush_later(self) -> None:
        if self._flush is None:
            self._flush = self.server.later(FLUSH_S, self._write_down)

    def _write_down(self) -> None:
        self._flush = None
        self._flushed = self._snapshot()

    def _snapshot(self) -> tuple[_Place, dict[int, _Out]]:
        return replace(self._place), {seq: replace(out) for seq, out in self._out.items()}

    def end(self, why: str) -> None:
        """It was deleted: those who ask are told."""
        self.vanish()
        for pull in list(self._pulls):
            self._end_pull(pull, b"NATS/1.0 409 %s\r\n\r\n" % why.encode())
        self._stop_timers()

    def _stop_timers(self) -> None:
        for timer in (self._flush, self._check):
            if timer is not None:
                timer.cancel()
        self._flush = self._check = None

    def crash(self) -> bool:
        """The server died; it is there afterwards, as it was written down last. Requests are forgotten."""
        self._stop_timers()
        for pull in list(self._pulls):
            self._drop(pull)
        self._again.clear()
        self._new.clear()
        return True

    def recover(self) -> None:
        """The server started again, and knows what was written down."""
        place, out = self._flushed
        last = self.stream.last_seq
        self._place = replace(place)
        if place.delivered[1] > last:
            self._place.delivered = place.delivered[0], last
        self.consumer_seq = place.delivered[0]
        self._look_again()
        self._out = {seq: replace(one) for seq, one in out.items() if seq <= last}
        is_early = self.server.random.random() < self.stream.jetstream.early_redelivery
        now_s = self.stream.jetstream.loop.now_s
        for one in self._out.values():  # when it was handed out is kept in whole seconds
            one.due_s = (
                now_s if is_early else max(now_s, int(one.due_s - self._ack_wait_s) + self._ack_wait_s)
            )
        if self._out:
            self._check_at(min(one.due_s for one in self._out.values()))
        self._recovered = self.state()


def _timed_out(left: int) -> bytes:
    return (
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: %d\r\nNats-Pending-Bytes: 0\r\n\r\n" % left
    )

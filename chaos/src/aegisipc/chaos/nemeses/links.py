"""One connection through the proxy: two ends, and between them a pipe for each direction."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from aegisipc.chaos.nemeses.delivery import Delivery
from aegisipc.chaos.nemeses.protocol import NotNats, Splitter, client_name, read_frame
from aegisipc.chaos.nemeses.rules import Flow, Rules, Towards

BUFFER_BYTES: Final = 4 * 1024 * 1024
"""A pipe that keeps so much stops to read, until half of it is gone: its sender's kernel fills up."""

_LINGER_ZERO: Final = struct.pack(
    "ii", 1, 0
)  # closing with this option sends RST and discards what is unsent


class End(asyncio.Protocol):
    """One socket of a link."""

    def __init__(self, made: Callable[[End], None], lost: Callable[[End], None]) -> None:
        self._made = made
        self._lost = lost
        self.transport: asyncio.Transport | None = None
        self.into: Pipe | None = None
        self.out_of: Pipe | None = None
        self.is_full = False
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream's
        self.transport = transport
        self._made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self.out_of is not None:
            self.out_of.feed(data)

    def eof_received(self) -> bool:
        """The other side sends no more."""
        if self.out_of is not None:
            self.out_of.source_ended()
        return True  # closed when all that came before has been passed on

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        """It is closed."""
        self.is_lost = True
        if self.out_of is not None:
            self.out_of.source_ended()
        if self.into is not None:
            self.into.stop()
        self._lost(self)

    def pause_writing(self) -> None:
        """The other side does not take what it is sent."""
        self.is_full = True

    def resume_writing(self) -> None:
        """It does again."""
        self.is_full = False
        if self.into is not None:
            self.into.flush()

    def reset(self) -> None:
        """Close with RST; what the kernel has not sent is lost."""
        if self.transport is None or self.is_lost:
            return
        raw = self.transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    def close(self) -> None:
        """Close with FIN once everything written has been sent."""
        if self.transport is not None and not self.is_lost:
            self.transport.close()

    def read(self, *, on: bool) -> None:
        """Begin or stop to take bytes from the kernel."""
        if self.transport is None or self.is_lost or self.transport.is_closing():
            return
        if on and not self.transport.is_reading():
            self.transport.resume_reading()
        elif not on and self.transport.is_reading():
            self.transport.pause_reading()


class Pipe:
    """One direction of one link: bytes of ``source``, in order, to ``sink``, as the rules say."""

    def __init__(self, link: Link, source: End, sink: End, rules: Rules) -> None:
        self._link = link
        self._source = source
        self._sink = sink
        self._rules = rules
        self._splitter: Splitter | None = Splitter()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._late: list[tuple[float, int, bytes]] = []
        self._overtaken: deque[tuple[float, bytes]] = deque()
        self._order = itertools.count()
        self._kept_bytes = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._has_ended = False
        self._is_over = False
        self._is_reading = True
        self.is_cut_armed = False
        self.is_swallowing = False
        self.has_lost = False
        source.out_of, sink.into = self, self

    @property
    def _flow(self) -> Flow:
        return self._rules.flow if self._link.is_hit else Flow.PASS

    @property
    def _keeps(self) -> bool:
        return bool(self._queue or self._late or self._overtaken)

    # -- bytes come in ----------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take in what the source sent."""
        if self.is_swallowing or self._is_over:
            self._rules.counts.lost_bytes += len(data)
            return
        whole, bounds = self._split(data)
        if self.is_cut_armed and self._link.is_hit:
            self._cut(whole + (self._splitter.rest() if self._splitter is not None else b""))
        elif not whole:
            return
        elif self._flow is Flow.LOSE:
            self.has_lost = True
            self._rules.counts.lost_bytes += len(whole)
        elif not self._link.is_hit or self._rules.is_plain_pass:
            self._pass(whole)
        else:
            self._keep(whole, bounds)
            self.flush()

    def _split(self, data: bytes) -> tuple[bytes, list[tuple[int, int]]]:
        if self._splitter is None:
            return data, []
        try:
            whole, bounds = self._splitter.feed(data)
        except NotNats:
            self._rules.counts.not_nats += 1
            rest, self._splitter = self._splitter.rest(), None
            return rest, []
        if self._rules.towards is Towards.SERVER and self._has_said_name(whole, bounds):
            whole, self._splitter = whole + self._splitter.rest(), None
        return whole, bounds

    def _has_said_name(self, whole: bytes, bounds: list[tuple[int, int]]) -> bool:
        """What a client sends is cut into operations until then, and not after."""
        for begin, end in bounds:
            name = client_name(whole[begin:end])
            if name is not None:
                self._link.name = name
                return True
        return False

    def _pass(self, whole: bytes) -> None:
        if self._keeps or self._sink.is_full:
            self._enqueue(self._loop.time(), whole)
            self.flush()
        else:
            self._write(whole)

    def _keep(self, whole: bytes, bounds: list[tuple[int, int]]) -> None:
        now, delivery = self._loop.time(), self._rules.delivery
        due = now + self._rules.delay_s()
        if delivery is None or not delivery.is_on or not bounds:
            self._enqueue(due, whole)
            return
        for begin, end in bounds:
            self._deliver(whole[begin:end], due, delivery)

    def _deliver(self, raw: bytes, due: float, delivery: Delivery) -> None:
        frame = read_frame(raw)
        if not frame.is_message:
            self._enqueue(due, raw)
            return
        overtakes = False
        for planned in delivery.plan(frame, has_room=self._kept_bytes < BUFFER_BYTES // 2):
            if planned.overtaken:
                self._overtaken.append((due + planned.after_s, raw))
                self._kept_bytes += len(raw)
            elif planned.after_s > 0:
                heapq.heappush(self._late, (due + planned.after_s, next(self._order), raw))
                self._kept_bytes += len(raw)
            else:
                self._enqueue(due, raw)
                overtakes = True
        if overtakes:
            self._let_overtaken_follow(due)

    def _let_overtaken_follow(self, due: float) -> None:
        while self._overtaken:
            _, raw = self._overtaken.popleft()
            self._kept_bytes -= len(raw)
            self._enqueue(due, raw)

    def _enqueue(self, due: float, raw: bytes) -> None:
        self._last_due = max(self._last_due, due)
        self._queue.append((self._last_due, raw))
        self._kept_bytes += len(raw)

    def _cut(self, data: bytes) -> None:
        """Pass on a part that ends inside of an operation (only a whole one ends with a line), and reset."""
        place = max(1, len(data) // 2)
        if data[:place].endswith(b"\r\n"):
            place -= 1
        self._write(b"".join(raw for _, raw in self._queue) + data[:place])
        self._rules.counts.mid_frame_resets += 1
        self._link.reset()

    # -- bytes go out -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Pass on what is due, and see when the next is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_over:
            return
        flow = self._flow
        if flow is Flow.PASS:
            self._write_due(self._loop.time())
            if self._has_ended and not self._keeps:
                self._end()
                return
        self._regulate(flow)

    def _write_due(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now and not self._sink.is_full:
            self._write_kept(self._queue.popleft()[1])
        while self._late and self._late[0][0] <= now and not self._sink.is_full:
            self._write_kept(heapq.heappop(self._late)[2])
        while self._overtaken and self._overtaken[0][0] <= now and not self._sink.is_full:
            self._write_kept(self._overtaken.popleft()[1])
        heads = [kept[0][0] for kept in (self._queue, self._late, self._overtaken) if kept]
        if heads and not self._sink.is_full:
            self._timer = self._loop.call_at(min(heads), self.flush)

    def _regulate(self, flow: Flow) -> None:
        """Stop or begin to read."""
        if self._kept_bytes >= BUFFER_BYTES or flow is Flow.HOLD:
            self._is_reading = False
        elif self._kept_bytes <= BUFFER_BYTES // 2:
            self._is_reading = True
        self._source.read(on=self._is_reading)

    def _write_kept(self, raw: bytes) -> None:
        self._kept_bytes -= len(raw)
        self._write(raw)

    def _write(self, raw: bytes) -> None:
        if self._sink.transport is None or self._sink.is_lost or self._sink.transport.is_closing():
            return
        counts = self._rules.counts
        if self._rules.towards is Towards.SERVER:
            counts.to_server_bytes += len(raw)
        else:
            counts.to_client_bytes += len(raw)
        self._sink.transport.write(raw)

    # -- an end ends ------------------------------------------------------------------------------------

    def source_ended(self) -> None:
        """Nothing more comes: the sink is told after the last byte, and not while the network holds it."""
        if self._is_over or self.is_swallowing:
            self._source.close()
        elif not self._has_ended:
            self._has_ended = True
            if self._splitter is not None and (rest := self._splitter.rest()):
                self._enqueue(self._loop.time(), rest)
            self.flush()

    def _end(self) -> None:
        self.stop()
        self._source.close()
        self._sink.close()

    def stop(self) -> None:
        """Keep nothing, wait for nothing."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.clear()
        self._late.clear()
        self._overtaken.clear()
        self._kept_bytes = 0


class Link:
    """One client's connection. ``name`` is what its CONNECT says, "" until then."""

    def __init__(self, aim: Callable[[str], bool]) -> None:
        self._aim = aim
        self.name = ""
        self.client: End | None = None
        self.server: End | None = None
        self.pipes: dict[Towards, Pipe] = {}

    @property
    def is_hit(self) -> bool:
        """Whether faults are aimed at this connection."""
        return self._aim(self.name)

    @property
    def is_whole(self) -> bool:
        """Whether bytes flow between two open ends."""
        ends = (self.client, self.server)
        return all(end is not None and not end.is_lost for end in ends) and not self._is_half_open

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is left."""
        return all(end is None or end.is_lost for end in (self.client, self.server))

    @property
    def cannot_recover(self) -> bool:
        """Whether it lost bytes, or one side: a network that is whole again would reset it."""
        return self._is_half_open or any(pipe.has_lost for pipe in self.pipes.values())

    @property
    def _is_half_open(self) -> bool:
        return any(pipe.is_swallowing for pipe in self.pipes.values())

    def join(self, client: End, server: End, rules: dict[Towards, Rules]) -> None:
        """Let bytes flow."""
        self.server = server
        self.pipes = {
            Towards.SERVER: Pipe(self, client, server, rules[Towards.SERVER]),
            Towards.CLIENT: Pipe(self, server, client, rules[Towards.CLIENT]),
        }
        self.apply()

    def apply(self) -> None:
        """Do as the rules say from now on."""
        for pipe in self.pipes.values():
            pipe.flush()

    def half_open(self, closed: Towards) -> None:
        """Close one side, and do not tell the other."""
        for pipe in self.pipes.values():
            pipe.is_swallowing = True
            pipe.stop()
        end = self.server if closed is Towards.SERVER else self.client
        if end is not None:
            end.reset()

    def reset(self) -> None:
        """RST to both sides, and nothing is passed on any more."""
        for pipe in self.pipes.values():
            pipe.stop()
        for end in (self.client, self.server):
            if end is not None:
                end.reset()

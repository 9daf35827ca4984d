"""Call frames of a pool, from the one durable pull consumer that all its workers share.

The consumer's memory (acks, delivery counts) is a hint: the server may forget the last moments of it when it
is killed. So a frame that was handed out before, or that is older than the latest reconnect, is checked
against the log before its calls run. Frames that arrive while others are being checked share the next reading
of the log.

A frame that is not heard of for a second goes to another worker. So a worker that is dead, or whose event
loop stands still, is replaced within about that time; one whose handlers are slow is not, as its event loop
goes on telling that it has the frame.

A frame that is handed out again makes suspects of its calls, as the worker before may have died of one of
them. A worker that gives a frame back did not, and says so to the others; who misses that is more careful
than need be.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import structlog

from aegisipc.eventstore.errors import AegisError, MalformedPayload, PermissionDenied
from aegisipc.eventstore.frames import CallFrame, decode_calls, decode_pen
from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.jetstream_api import AckPlace, api_error, parse_ack_subject, place_of
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.log import Start as From
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription
from aegisipc.eventstore.subjects import CALL, CANCEL, DEAD
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.core.pool import PoolWorker
from aegisipc.sdk.core.pool_facts import Known
from aegisipc.sdk.hosts.base import Site, describe

_log = structlog.get_logger("aegisipc.instance")

ACK_WAIT_S: Final = 1.0
"""How long the server waits for a word about a frame. An update of it holds for the frames that are out, too.
"""
PROGRESS_S: Final = ACK_WAIT_S / 4
ACK: Final = b"+ACK"
NAK: Final = b"-NAK"
NAK_LATER: Final = b"-NAK " + json.dumps({"delay": 30_000_000_000}).encode()
IN_PROGRESS: Final = b"+WPI"
_NEVER: Final = b"+TERM"
_PULL_EXPIRES_S: Final = 5.0
_PULL: Final = json.dumps({"batch": 1, "expires": int(_PULL_EXPIRES_S * 1e9)}).encode()
_PULL_NOW: Final = json.dumps({"batch": 1, "no_wait": True}).encode()
_API_TIMEOUT_S: Final = 2.0
_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 2.0
_BEHIND_S: Final = 0.005
_MAX_CHECKED: Final = 32
"""Frames to ask for at once while frames are being checked: reading the log costs the same for one as for
many.
"""
_MAX_FRAME_CALLS: Final = 64
_MAX_RETURNED: Final = 10_000


class Handed(NamedTuple):
    """A frame as it was handed out: by ``token`` the server is told of it; ``delivered`` counts how often it
    was, as far as the server remembers.
    """

    token: str
    record: Record
    frame: CallFrame
    delivered: int


type Take = Callable[[Handed, Mapping[CallId, Known] | None], None]
"""Takes a frame, with what the log says of its calls if it had to be checked."""


class PoolConsumer:
    """One worker's end of the shared consumer."""

    def __init__(
        self,
        site: Site,
        identity: Identity,
        worker: PoolWorker,
        take: Take,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._site, self._worker, self._take, self._spawn = site, worker, take, spawn
        self._loop = asyncio.get_running_loop()
        self._stream = site.subjects.stream
        self._durable = f"pool-{identity.service}"
        self._calls_filter = site.subjects.of_kind(identity.service, identity.group, CALL)
        self._conclusions = site.subjects.conclusions(identity.service, identity.group)
        self._dead_filter = site.subjects.of_kind(identity.service, identity.group, DEAD)
        self._cancel_filter = site.subjects.of_kind(identity.service, identity.group, CANCEL)
        self._inbox = f"_INBOX.pull-{secrets.token_hex(10)}"
        self._peers_subject = site.subjects.peers(identity.service, identity.group)
        self._peers: Subscription | None = None
        self._returned: OrderedDict[int, int] = OrderedDict()
        self._subscription: Subscription | None = None
        self._unlisten: Callable[[], None] | None = None
        self._pulls = 0
        self._pulled_at = 0.0
        self._doubtful_before = 0
        self._is_sure = False
        self._check = 0
        self._doubtful: list[Handed] = []
        self._in_check: list[Handed] = []
        self._mean_calls = float(_MAX_FRAME_CALLS)

    # -- beginning and end ------------------------------------------------------------------------------

    def listen(self) -> None:
        """Note reconnects from here on."""
        self._unlisten = self._site.connection.on_event(self._on_event)

    async def start(self, first_followed: int) -> None:
        """Make sure of the consumer, and be ready to be handed frames. What the log says of calls before
        sequence `first_followed` this worker has not followed.
        """
        self._doubtful_before = max(self._doubtful_before, first_followed)
        self._is_sure = self._check == 0
        await self._read_cancels(await self.ensure(), first_followed)
        with suppress(PermissionDenied):  # without it, all are only more careful
            self._peers = await self._site.connection.subscribe(self._peers_subject, self._on_returned)
        self._subscription = await self._site.connection.subscribe(self._inbox, self._on_pulled)

    async def _read_cancels(self, floor: int, first_followed: int) -> None:
        """Learn who wants calls cancelled of frames that are not acknowledged: that came after the call."""
        async for record in self._site.log.read([self._cancel_filter], start=From(floor + 1)):
            if record.seq >= first_followed:
                break
            self._worker.on_cancel(record)

    async def stop(self) -> None:
        """Take nothing more."""
        if self._unlisten is not None:
            self._unlisten()
        self._check += 1
        for subscription in (self._subscription, self._peers):
            if subscription is not None:
                await subscription.unsubscribe()

    def unchecked(self) -> Iterator[str]:
        """Iterate over the tokens of the frames that nobody else has, and that were not taken yet."""
        return (handed.token for handed in [*self._in_check, *self._doubtful])

    def give_back(self, tokens: Sequence[str]) -> None:
        """Let other workers have frames, none of which has done any harm here."""
        if tokens:
            seqs = [parse_ack_subject(token).stream_seq for token in tokens]
            if self._peers is not None:
                self.tell(self._peers_subject, json.dumps(seqs).encode())
        for token in tokens:
            self.tell(token, NAK)

    def _on_returned(self, message: Message) -> None:
        """A worker gave frames back. Its word has no reply subject; a record that is delivered here has."""
        if message.reply:
            return
        with suppress(ValueError, TypeError, KeyError):
            for seq in json.loads(message.payload)[:_MAX_RETURNED]:
                self._returned[seq] = self._returned.pop(seq, 0) + 1
        while len(self._returned) > _MAX_RETURNED:
            self._returned.popitem(last=False)

    def is_suspect(self, handed: Handed) -> bool:
        """Whether a worker that had the frame before may have died of it."""
        return handed.delivered - 1 > self._returned.get(handed.record.seq, 0)

    def tell(self, token: str, word: bytes) -> None:
        """Tell the server something about a frame. All of these are hints: it hands out again what it did not
        hear of.
        """
        with suppress(AegisError):
            self._site.connection.publish_nowait(token, word)

    # -- the consumer -----------------------------------------------------------------------------------

    async def ensure(self) -> int:
        """Create the consumer, or bring one up to date that another release made; its place stays. Returns up
        to where all frames are acknowledged.

        Raises:
            AegisError: the server refuses, or does not answer.
        """
        config = {
            "durable_name": self._durable,
            "name": self._durable,
            "filter_subject": self._calls_filter,
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * 1e9),
            "deliver_policy": "all",
            "max_deliver": -1,
            "max_ack_pending": 10_000,
            "replay_policy": "instant",
        }
        request = json.dumps({"stream_name": self._stream, "config": config, "action": ""}).encode()
        answer = await self._site.connection.request(
            f"$JS.API.CONSUMER.CREATE.{self._stream}.{self._durable}.{self._calls_filter}",
            request,
            timeout_s=_API_TIMEOUT_S,
        )
        told = json.loads(answer.payload)
        error = told.get("error")
        if error is not None:
            raise api_error(error, self._stream)
        return int(told.get("ack_floor", {}).get("stream_seq", 0))

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Connected):
            self._pulls = 0
            self._make_sure()

    def _make_sure(self) -> None:
        """The consumer may have forgotten its last moments: until it is known up to where, every frame is
        doubtful.
        """
        self._is_sure = False
        self._check += 1
        self._spawn(self._check_consumer(self._check))

    async def _check_consumer(self, check: int) -> None:
        retry_s = _RETRY_S
        while check == self._check:
            try:
                before = (await self._site.log.bounds()).last_seq + 1
                await self.ensure()
            except AegisError as error:
                _log.warning("consumer_not_checked", consumer=self._durable, error=describe(error))
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                continue
            if check == self._check:
                self._doubtful_before = before
                self._is_sure = True
                self.pull()
            return

    # -- asking for frames ------------------------------------------------------------------------------

    def pull(self) -> None:
        """Ask for as many frames as the worker can do with."""
        me = self._worker.me
        if self._subscription is None or me is None or not me.is_ready:
            return
        if self._pulls and self._loop.time() - self._pulled_at > _PULL_EXPIRES_S + 1.0:
            self._pulls = 0  # the server never ends a request later than that: it forgot this one
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        while self._pulls < self._room():
            body = _PULL_NOW if self._in_check or self._doubtful else _PULL
            try:
                self._site.connection.publish_nowait(subject, body, reply=self._inbox)
            except AegisError:
                return  # the next session asks again
            self._pulls += 1
            self._pulled_at = self._loop.time()

    def _room(self) -> int:
        """How many requests for a frame may be under way."""
        wants = self._worker.wants
        if wants == 0:
            return 0
        checked = [*self._in_check, *self._doubtful]
        if not checked:
            return max(1, wants - self._worker.frames.busy)
        free = self._worker.free - sum(len(handed.frame.entries) for handed in checked)
        return min(_MAX_CHECKED - len(self._doubtful), int(free / self._mean_calls))

    # -- what is handed out -----------------------------------------------------------------------------

    def _on_pulled(self, message: Message) -> None:
        place = place_of(message.reply, self._stream, self._durable)
        if place is None and message.reply:
            return  # another consumer delivered it, which somebody has pointed here
        self._pulls = max(0, self._pulls - 1)
        if place is None:
            self._on_status(message)
            return
        record = Record(place.stream_seq, message.subject, message.payload, place.timestamp_ns)
        try:
            self._site.subjects.parse(record.subject)
            frame = decode_calls(record.payload)
        except MalformedPayload as error:
            _log.error("frame_unreadable", seq=record.seq, error=describe(error))
            self.tell(message.reply, _NEVER)
            return
        handed = Handed(message.reply, record, frame, place.delivered)
        if not self.is_doubtful(place) and not _dead_letters([frame]):
            self._take(handed, None)
            return
        self._doubtful.append(handed)
        if not self._in_check:
            self._spawn(self._check_doubtful())
        self.pull()

    def _on_status(self, message: Message) -> None:
        status = message.headers.get("Status", "")
        if status in ("409", "503"):
            if self._is_sure:
                self._make_sure()
        elif status == "408":  # 404 says that there is nothing more to check: the next tick asks on
            self.pull()

    def is_doubtful(self, place: AckPlace) -> bool:
        """Whether a frame at that place may have been in work before."""
        return not self._is_sure or place.delivered > 1 or place.stream_seq < self._doubtful_before

    async def _check_doubtful(self) -> None:
        while self._doubtful:
            checked, self._doubtful = self._doubtful, []
            self._in_check = checked
            try:
                known = await self._look_up(checked)
            except AegisError as error:
                _log.warning("frames_not_checked", count=len(checked), error=describe(error))
                known = None
            finally:
                self._in_check = []
            self._mean_calls = sum(len(handed.frame.entries) for handed in checked) / len(checked)
            for handed in checked:
                if known is None:
                    self.tell(handed.token, NAK)
                else:
                    self._take(handed, known)

    async def _look_up(self, frames: list[Handed]) -> dict[CallId, Known]:
        """Read once what the log says of the calls of these frames."""
        wanted = {entry.call_id for handed in frames for entry in handed.frame.entries}
        dead = _dead_letters([handed.frame for handed in frames])
        return await self.look_up(wanted, min(handed.record.seq for handed in frames), dead)

    async def look_up(
        self, wanted: set[CallId], seq: int, dead: Mapping[CallId, int] | None = None
    ) -> dict[CallId, Known]:
        """Read what the log says of calls whose frames stand at `seq` or later. `dead`: calls that came back
        from there, and are known to have been dead letters at that place. Returns when the worker has
        followed as far as was read: what is known must not be ahead of what is still to be folded.

        Raises:
            AegisError: the log cannot be read now.
        """
        facts = self._worker.facts
        look_up = facts.look_up(wanted, dead)
        try:
            start = await self._first_word(dead, seq) if dead else seq
            async for record in self._site.log.read(self._conclusions, start=From(start + 1)):
                if writer := self._site.subjects.writer(record.subject):  # no fold can read others
                    look_up.read(record, writer)
            while self._worker.keys.position < look_up.read_to:  # noqa: ASYNC110 - a few milliseconds, rarely
                await asyncio.sleep(_BEHIND_S)
        finally:
            known = facts.finish(look_up)
        return known

    async def _first_word(self, dead: Mapping[CallId, int], seq: int) -> int:
        """Return the place before `seq` from which on there may be words about dead letters: nothing is said
        of one before a word that deals with it, and those are stored apart.
        """
        async for record in self._site.log.read([self._dead_filter], start=From(min(dead.values()) + 1)):
            if record.seq > seq:
                break
            with suppress(MalformedPayload):
                for _, call_id in decode_pen(record.payload, bodies=False).entries:
                    if record.seq > dead.get(call_id, record.seq):
                        return record.seq - 1
        return seq


def _dead_letters(frames: Sequence[CallFrame]) -> dict[CallId, int]:
    """Return the dead letters that are to run again by these frames, and where they stand."""
    found: dict[CallId, int] = {}
    for frame in frames:
        for entry in frame.entries:
            if entry.options is not None and entry.options.requeue is not None:
                found[entry.call_id] = max(found.get(entry.call_id, 0), entry.options.requeue[0])
    return found

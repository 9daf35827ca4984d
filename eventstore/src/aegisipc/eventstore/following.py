"""Following the log on JetStream: one supervised, ordered, ack-less push consumer at a time.

A consumer is made anew from the last delivered record whenever the session with the server changed, a
consumer sequence is missing, or heartbeats stop. A new consumer starts *at* that last record and not behind
it: finding another record there, or none, shows that the log is not the one that was followed so far
(restored from an older copy, or made anew), which no fold survives. Then, and when `deliver` raises,
following ends and says so.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from aegisipc.eventstore.errors import AckUnknown, AegisError, LogFailed, NoResponders, NotConnected
from aegisipc.eventstore.jetstream_api import AckPlace, api_error, format_time, place_of, read_json
from aegisipc.eventstore.jetstream_last import last_record
from aegisipc.eventstore.log import Deliver, Record, Start
from aegisipc.eventstore.memory import matches
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.events import Connected
from aegisipc.eventstore.nats.events import Event as ConnectionEvent
from aegisipc.eventstore.nats.message import Message

_log = structlog.get_logger("aegisipc.log")

HEARTBEAT_S: Final = 0.5
SILENCE_S: Final = 3 * HEARTBEAT_S
BEHIND_PATIENCE_S: Final = 3.0
_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 1.0
_API_TIMEOUT_S: Final = 2.0
_FLOW_CONTROL: Final = "$JS.FC."
_NOT_THERE: Final = "there is no record of these subjects at that place"


class JetStreamFollowing:
    """One supervised, ordered, ack-less consumer. ``restarts`` counts how often it had to be made anew."""

    def __init__(
        self, connection: Connection, stream: str, subjects: Sequence[str], deliver: Deliver, start: Start
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subjects = without_covered(subjects)
        self._deliver = deliver
        self._start = start
        self._position = self._position_ns = 0
        self._scanned = 0
        self._caught_up = False
        self._end_seq = 0
        self._failure: BaseException | None = None
        self._attempt = 0
        self._consumer_seq = 0
        self._heard_at = 0.0
        self._restart = asyncio.Event()
        self._moved = asyncio.Event()
        self._consumer = ""
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._unlisten: Callable[[], None] | None = None
        self._is_held = False
        self._held_reply = ""
        self._behind_since: float | None = None
        self._is_position_there = False
        """Whether the log holds the record of ``_position``, as of the last look."""
        self.restarts = 0

    # -- what is known ----------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Sequence of the last record delivered (0: none yet)."""
        return self._position

    @property
    def failure(self) -> BaseException | None:
        """Why it ended by itself, or ``None``."""
        return self._failure

    @property
    def is_caught_up(self) -> bool:
        """Whether everything that was there at the start has been delivered."""
        return self._caught_up

    async def caught_up(self, timeout_s: float) -> None:
        """Wait until everything that was in the log at the start has been delivered."""
        await self._until(lambda: self._caught_up, timeout_s, "read the log to its end")

    async def reached(self, seq: int, timeout_s: float) -> None:
        """Wait until record `seq` has been delivered."""
        await self._until(lambda: self._position >= seq, timeout_s, f"read the log to sequence {seq}")

    async def moved(self, timeout_s: float) -> None:
        """Wait until something more was delivered, or the end was reached."""
        before = self._position
        await self._until(lambda: self._position > before or self._caught_up, timeout_s, "read on in the log")

    async def _until(self, true: Callable[[], bool], timeout_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not true():
                    if self._failure is not None:
                        raise LogFailed(f"cannot {what}: following failed") from self._failure
                    await self._moved.wait()
        except TimeoutError:
            raise AckUnknown(
                f"cannot {what} within {timeout_s:g} s: at sequence {self._position}; is the server there?"
            ) from None

    # -- beginning and end ------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Create the first consumer; raises what the server answers."""
        self._unlisten = self._connection.on_event(self._on_event)
        try:
            self._end_seq = await self._find_end()
            await self._create()
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.get_running_loop().create_task(
            self._supervise(), name=f"follow {self._stream}"
        )

    async def _find_end(self) -> int:
        """Return the sequence of the last record that there is to deliver now; 0 if there is none.

        What a new consumer says of its backlog would not do: in a cluster it may live on a replica that does
        not have the latest records yet.
        """
        end_seq = 0
        for subject in self._subjects:
            last = await last_record(self._connection, self._stream, subject)
            if (
                last is not None
                and last.seq >= self._start.seq
                and last.timestamp_ns >= (self._start.time_ns or 0)
            ):
                end_seq = max(end_seq, last.seq)
        return end_seq

    async def stop(self) -> None:
        """End it; nothing is delivered afterwards."""
        self._attempt += 1
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait({supervisor})
        await self._drop_consumer()

    def hold(self) -> None:
        """Ask the server to pause: what is under way (some megabytes at most) is still delivered."""
        self._is_held = True

    def release(self) -> None:
        """Let the server go on after :meth:`hold`."""
        self._is_held = False
        reply, self._held_reply = self._held_reply, ""
        if reply:
            self._publish(reply, b"")

    # -- supervision ------------------------------------------------------------------------------------

    def _on_event(self, event: ConnectionEvent) -> None:
        if isinstance(event, Connected):  # a new session: whatever the old one was about to deliver is gone
            self._restart.set()

    async def _supervise(self) -> None:
        try:
            while self._failure is None:
                await self._trouble()
                if self._failure is None:
                    await self._recreate()
        except Exception as error:  # noqa: BLE001 - whatever it was, the owner must learn that this has ended
            self._fail(error)
        await self._drop_consumer()

    async def _trouble(self) -> None:
        """Return when the consumer must be replaced: somebody said so, or it has been silent for too long."""
        loop = asyncio.get_running_loop()
        while not self._restart.is_set():
            left_s = self._heard_at + SILENCE_S - loop.time()
            if left_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._restart.wait()

    async def _recreate(self) -> None:
        pause_s, last_reason = _RETRY_S, ""
        while self._failure is None:
            if self._connection.is_closed:
                self._fail(NotConnected("cannot follow the log any more: the connection was closed"))
                return
            try:
                await self._connection.wait_connected(_API_TIMEOUT_S)
                await self._check_continuity()
                if self._failure is None:
                    self.restarts += 1
                    await self._create()
            except AegisError as error:
                if error.message != last_reason:
                    last_reason = error.message
                    _log.warning(
                        "follow_retry", stream=self._stream, position=self._position, error=last_reason
                    )
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_RETRY_S, 2 * pause_s)
            else:
                return

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._restart.set()
        _log.error("follow_failed", stream=self._stream, position=self._position, exc_info=error)
        self._wake()

    def _replace_consumer(self) -> None:
        self._attempt += 1  # whatever else comes from this consumer is stale
        self._restart.set()

    # -- the consumer -----------------------------------------------------------------------------------

    async def _create(self) -> None:
        await self._drop_consumer()
        self._restart.clear()  # before anything is sent: what is said from here on is about the new consumer
        self._attempt += 1
        attempt = self._attempt
        self._consumer_seq = 0
        self._held_reply = ""
        name = f"follow-{secrets.token_hex(10)}"
        inbox = f"_INBOX.{name}"
        subscription = await self._connection.subscribe(
            inbox, lambda message: self._on_message(attempt, message)
        )
        self._consumer, self._unsubscribe = name, subscription.unsubscribe
        request = json.dumps(
            {"stream_name": self._stream, "config": self._config(name, inbox), "action": "create"}
        )
        answer = await self._connection.request(
            f"$JS.API.CONSUMER.CREATE.{self._stream}.{name}", request.encode(), timeout_s=_API_TIMEOUT_S
        )
        created = read_json(answer.payload)
        if "error" in created:
            raise api_error(created["error"], self._stream)
        self._heard_at = asyncio.get_running_loop().time()
        self._note_progress()

    def _config(self, name: str, inbox: str) -> dict[str, Any]:
        config: dict[str, Any] = {
            "name": name,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(10e9),
        }
        if len(self._subjects) == 1:
            config["filter_subject"] = self._subjects[0]
        else:
            config["filter_subjects"] = list(self._subjects)
        if self._position == 0 and self._start.time_ns is not None:
            return config | {
                "deliver_policy": "by_start_time",
                "opt_start_time": format_time(self._start.time_ns),
            }
        return config | {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, self._position or self._start.seq),
        }

    async def _check_continuity(self) -> None:
        """Before going on: is what comes next there, and is it the same log? The stream's leader knows."""
        position = self._position  # the old consumer may still deliver while we ask
        if position == 0:
            return
        answer = await self._connection.request(
            f"$JS.API.STREAM.INFO.{self._stream}", b"", timeout_s=_API_TIMEOUT_S
        )
        info = read_json(answer.payload)
        if "error" in info:
            raise api_error(info["error"], self._stream)
        first_seq, last_seq = int(info["state"]["first_seq"]), int(info["state"]["last_seq"])
        if last_seq < position:
            self._note_behind(last_seq)
            return
        self._behind_since = None
        self._is_position_there = first_seq <= position
        if first_seq > max(self._position, self._scanned) + 1:
            self._fail(
                LogFailed(
                    f"cannot go on from sequence {self._position}: the log starts at {first_seq} now, so "
                    "records have aged out unread; fold the log anew from what it still holds",
                    position=self._position,
                    first_seq=first_seq,
                )
            )

    def _note_behind(self, last_seq: int) -> None:
        """The log ends before what was read of it. A leader elected just now may only have to catch up."""
        now = asyncio.get_running_loop().time()
        self._behind_since = self._behind_since or now
        if now - self._behind_since >= BEHIND_PATIENCE_S:
            self._fail(self._another_log(f"it ends at {last_seq} now"))
            return
        raise NoResponders(
            f"cannot follow stream {self._stream!r} yet: it ends at {last_seq}", stream=self._stream
        )

    def _another_log(self, why: str) -> LogFailed:
        return LogFailed(
            f"cannot go on from sequence {self._position}: this is not the log that was read so far ({why}): "
            "acknowledged records were lost, or the stream was made anew; start again from the beginning",
            position=self._position,
        )

    async def _drop_consumer(self) -> None:
        name, self._consumer = self._consumer, ""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            with suppress(AegisError):
                await unsubscribe()
        if (
            name and self._connection.is_connected
        ):  # otherwise the server forgets it when it has been unused for 10 s
            self._publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}", b"")

    # -- what the consumer sends ------------------------------------------------------------------------

    def _on_message(self, attempt: int, message: Message) -> None:
        if attempt != self._attempt or self._failure is not None:
            return
        place = place_of(message.reply, self._stream, self._consumer)
        if place is None and message.reply and not message.reply.startswith(_FLOW_CONTROL):
            return  # another consumer delivered it, which somebody has pointed here
        self._heard_at = asyncio.get_running_loop().time()
        if place is None:
            self._on_status(message)
            return
        if place.consumer_seq != self._consumer_seq + 1:
            self._replace_consumer()
            return
        self._consumer_seq = place.consumer_seq
        if place.consumer_seq == 1 and self._is_position_there and place.stream_seq > self._position:
            self._fail(self._another_log(_NOT_THERE))
        elif place.stream_seq > self._position:
            if place.stream_seq >= self._start.seq or self._start.time_ns is not None:
                self._hand_over(place, message)
        elif place.stream_seq == self._position and place.timestamp_ns != self._position_ns:
            self._fail(self._another_log("there is another record at that place"))
        if self._failure is None:
            self._note_progress()

    def _hand_over(self, place: AckPlace, message: Message) -> None:
        try:
            self._deliver(Record(place.stream_seq, message.subject, message.payload, place.timestamp_ns))
        except Exception as error:  # noqa: BLE001 - a fold that raises must not be fed on: stop here, loudly
            _log.error("deliver_raised", seq=place.stream_seq, subject=message.subject)
            self._fail(error)
            return
        self._position, self._position_ns = place.stream_seq, place.timestamp_ns

    def _on_status(self, message: Message) -> None:
        headers = message.headers
        reply = message.reply or headers.get("Nats-Consumer-Stalled", "")
        if reply.startswith(_FLOW_CONTROL):  # nothing is sent to other subjects, whoever names them
            self._answer_flow_control(reply)
        last = headers.get("Nats-Last-Consumer", "")
        if not last.isdigit():
            return
        if int(last) > self._consumer_seq:
            self._replace_consumer()
        elif int(last) == self._consumer_seq and not reply:  # idle: there is nothing more to send
            told = headers.get("Nats-Last-Stream", "")
            scanned = int(told) if told.isdigit() else 0
            if self._consumer_seq == 0 and self._is_position_there and scanned >= self._position:
                self._fail(self._another_log(_NOT_THERE))
                return
            self._scanned = max(self._scanned, scanned)
            self._note_progress()

    def _answer_flow_control(self, reply: str) -> None:
        if self._is_held:
            self._held_reply = reply
        else:
            self._publish(reply, b"")

    def _publish(self, subject: str, payload: bytes) -> None:
        async def publish() -> None:
            with suppress(AegisError):
                await self._connection.publish(subject, payload)

        task = asyncio.get_running_loop().create_task(publish())
        _BACKGROUND.add(task)
        task.add_done_callback(_BACKGROUND.discard)

    def _note_progress(self) -> None:
        """Caught up is: all that was there when following began. (Under load, "nothing pending" may never
        come.) It was passed, too, if the server looked beyond it and did not find it any more.
        """
        if max(self._position, self._scanned) >= self._end_seq:
            self._caught_up = True
        self._wake()

    def _wake(self) -> None:
        self._moved.set()  # wakes whoever waits now
        self._moved.clear()


_BACKGROUND: set[asyncio.Task[None]] = set()
"""Keeps short tasks alive until they are done; the event loop itself holds them only weakly."""


def without_covered(subjects: Sequence[str]) -> tuple[str, ...]:
    """Return `subjects` without those that another one includes: the server refuses filters that overlap."""
    distinct = list(dict.fromkeys(subjects))
    return tuple(
        subject
        for subject in distinct
        if not any(other != subject and matches(other, subject) for other in distinct)
    )

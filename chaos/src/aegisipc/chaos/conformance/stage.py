"""What a conformance script does things with: one connection to a server, and what was seen there.

What is seen is kept by channel: the answers to requests, and what each subscription got. Between channels no
order is promised by any server, and none is compared.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from aegisipc.chaos.conformance.saying import is_heartbeat, shown_json, shown_message
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.subscription import Subscription

ANSWERS: Final = "answers"

_REQUEST_S: Final = 3.0
_LOOK_S: Final = 0.002
_RECONNECT_S: Final = 15.0

type Transcript = dict[str, list[str]]
"""What was seen, by channel."""


class Site(Protocol):
    """A server to run scripts on: the model, or a real one. ``replicas`` is how many keep each stream."""

    @property
    def replicas(self) -> int:
        """How many servers keep each stream."""
        ...

    async def connect(self, name: str) -> Connection:
        """Open a connection of a client."""
        ...

    async def connect_system(self, name: str) -> Connection:
        """Open a connection to the system account."""
        ...

    async def restart(self) -> None:
        """Kill the server, and start it again."""
        ...


class Publish(NamedTuple):
    """A message to publish, with what is to hold for it to be stored."""

    subject: str
    payload: bytes = b"x"
    id: str | None = None
    last: int | str | None = None
    of: str | None = None
    stream: str | None = None

    def headers(self) -> dict[str, str]:
        """The headers that say so."""
        wanted = {
            "Nats-Msg-Id": self.id,
            "Nats-Expected-Last-Subject-Sequence": self.last,
            "Nats-Expected-Last-Subject-Sequence-Subject": self.of,
            "Nats-Expected-Stream": self.stream,
        }
        return {name: str(value) for name, value in wanted.items() if value is not None}


class Stage:
    """One run of a script. ``root`` is the first token of all its subjects, ``name`` that of its streams."""

    def __init__(self, site: Site, connection: Connection, root: str) -> None:
        self.site, self.connection, self.root = site, connection, root
        self.name = root.upper()
        self.seen: Transcript = {ANSWERS: []}
        self.heard: dict[str, list[Message]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._last_beat: dict[str, str] = {}

    def subject(self, tail: str) -> str:
        """Return a subject of this script."""
        return f"{self.root}.{tail}"

    def note(self, line: str) -> None:
        """Write something down among the answers."""
        self.seen[ANSWERS].append(line)

    # -- asking -----------------------------------------------------------------------------------------

    async def api(self, verb: str, body: object = None, *, is_quiet: bool = False) -> dict[str, Any]:
        """Ask the JetStream API; returns the answer, and writes it down."""
        payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        answer, line = await self._ask(f"$JS.API.{verb}", payload)
        if not is_quiet:
            self.note(f"{verb} -> {line}")
        return answer

    async def create_stream(self, **config: Any) -> dict[str, Any]:
        """Make a stream as this system makes them, but for what `config` says."""
        wanted = stream_config(self.name, [f"{self.root}.>"], self.site.replicas) | config
        return await self.api(f"STREAM.CREATE.{wanted['name']}", wanted)

    async def create_consumer(self, name: str, action: str = "create", **config: Any) -> dict[str, Any]:
        """Make a consumer of the script's stream."""
        body = {"stream_name": self.name, "config": {"name": name, **config}, "action": action}
        return await self.api(f"CONSUMER.CREATE.{self.name}.{name}", body)

    async def publish(self, *wanted: Publish) -> None:
        """Publish these one after another; the answers are written down."""
        for message in wanted:
            self.note(await self._publish(message))

    async def publish_at_once(self, *wanted: Publish) -> None:
        """Publish these without waiting in between; the answers are written down in the same order."""
        for line in await asyncio.gather(*map(self._publish, wanted)):
            self.note(line)

    async def _publish(self, message: Publish) -> str:
        headers = message.headers()
        _, line = await self._ask(message.subject, message.payload, headers)
        shown = " ".join(f"{name}={value}" for name, value in headers.items())
        return f"publish {message.subject} {shown} -> {line}"

    async def request(self, subject: str, payload: bytes = b"", connection: Connection | None = None) -> None:
        """Ask whoever serves a subject; the answer is written down."""
        _, line = await self._ask(subject, payload, connection=connection)
        self.note(f"request {subject} -> {line}")

    async def _ask(
        self,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None = None,
        connection: Connection | None = None,
    ) -> tuple[dict[str, Any], str]:
        try:
            answer = await (connection or self.connection).request(
                subject, payload, timeout_s=_REQUEST_S, headers=headers or None
            )
        except AegisError as error:
            return {}, type(error).__name__
        if answer.header_block or not answer.payload.startswith(b"{"):
            return {}, shown_message(answer._replace(subject="", reply="")).strip()
        body: dict[str, Any] = json.loads(answer.payload)
        return body, shown_json(body)

    # -- listening --------------------------------------------------------------------------------------

    async def listen(self, channel: str, subject: str, queue: str = "") -> None:
        """Write down what comes on a subject, as a channel of its own. Of heartbeats that say the same, only
        the first.
        """
        self.heard[channel], self.seen[channel] = [], []
        self._subscriptions[channel] = await self.connection.subscribe(
            subject, lambda message: self.hear(channel, message), queue=queue
        )

    def hear(self, channel: str, message: Message) -> None:
        """Write down a message."""
        line = shown_message(message)
        if is_heartbeat(message):
            if self._last_beat.get(channel) == line:
                return
            self._last_beat[channel] = line
        self.heard[channel].append(message)
        self.seen[channel].append(line)

    async def listen_no_more(self, channel: str) -> None:
        """End a subscription."""
        await self._subscriptions.pop(channel).unsubscribe()

    async def until(self, channel: str, count: int, within_s: float = 5.0) -> None:
        """Wait until so many messages came to a channel; if they do not, that is written down."""
        await self.wait(lambda: len(self.heard[channel]) >= count, within_s)
        if len(self.heard[channel]) < count:
            self.note(f"{channel}: only {len(self.heard[channel])} of {count} messages came")

    async def wait(self, true: Callable[[], bool], within_s: float = 5.0) -> None:
        """Wait until something holds, or the time is over."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + within_s
        while not true() and loop.time() < give_up_at:  # noqa: ASYNC110 - any condition
            await asyncio.sleep(_LOOK_S)

    async def pause(self, duration_s: float) -> None:
        """Let the server's own clocks run."""
        await asyncio.sleep(duration_s)

    # -- pulling ----------------------------------------------------------------------------------------

    async def pull(self, consumer: str, channel: str, **wanted: Any) -> None:
        """Ask a consumer for messages, which come to a channel."""
        body = json.dumps(wanted).encode() if wanted else b""
        await self.connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{consumer}", body, reply=self.subject_of(channel)
        )

    def subject_of(self, channel: str) -> str:
        """Return the subject that a channel listens to."""
        return self._subscriptions[channel].subject

    async def word(self, message: Message, word: bytes) -> None:
        """Say something about a message, and wait until the server took it."""
        _, line = await self._ask(message.reply, word)
        self.note(f"{word.decode()} for {shown_message(message)} -> {line or 'taken'}")

    # -- life -------------------------------------------------------------------------------------------

    async def restart(self) -> None:
        """Kill the server, start it again, and wait until it serves this connection."""
        generation = self.connection.generation
        await self.site.restart()
        async with asyncio.timeout(_RECONNECT_S):
            while self.connection.generation == generation:  # noqa: ASYNC110 - it is an attribute
                await asyncio.sleep(0.01)
        self.note("restarted")


type Script = Callable[[Stage], Awaitable[None]]


def stream_config(name: str, subjects: Sequence[str], replicas: int) -> dict[str, Any]:
    """Return the configuration of a stream as this system makes them, but for its refusal to be purged."""
    return {
        "name": name,
        "subjects": list(subjects),
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": replicas,
        "max_bytes": -1,
        "max_age": 0,
        "deny_delete": True,
        "allow_direct": True,
        "duplicate_window": 120_000_000_000,
    }


async def play(site: Site, root: str, script: Script) -> Transcript:
    """Run a script on a server; returns what was seen.

    Raises:
        AegisError: the server cannot be reached.
    """
    connection = await site.connect(f"conformance-{secrets.token_hex(4)}")
    try:
        stage = Stage(site, connection, root)
        await script(stage)
        return stage.seen
    finally:
        await connection.close()

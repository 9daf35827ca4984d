"""Where a history is read from: a log on a server, a bundle in a file, or records in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from aegisipc.eventstore.checkpoints import NoBeginning, beginning
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.log import Log
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import dump_state, load_state


class Claim(NamedTuple):
    """Somebody says which state the log comes to after record ``seq``. ``why_not`` says why there is no
    telling whether that is true, if so.
    """

    who: str
    seq: int
    digest: str
    why_not: str = ""


@dataclass(frozen=True)
class Source:
    """A history to replay. Nothing is ever written to it.

    ``pulses`` holds the heartbeats, ``None`` if there are none. ``base`` makes the earliest state from which
    one can fold on; ``None``: the empty one, for the log begins at the beginning. ``about`` says for people
    what this is.
    """

    log: Log
    subjects: Subjects
    about: str
    pulses: Log | None = None
    base: Callable[[], SystemState] | None = None
    connection: Connection | None = field(default=None, repr=False)
    """Of a log on a server: whoever wants to ask its routers, too."""
    claims: tuple[Claim, ...] = ()
    """What whoever made it says that its records come to."""


@asynccontextmanager
async def open_live(url: str, namespace: str) -> AsyncIterator[Source]:
    """Connect to a server, and give the log of a namespace.

    Raises:
        NotConnected, BadCredentials, ServerUnsuitable: as the connection found it.
        LogMissing, LogMisconfigured: the namespace has no log that could be read.
        InvalidName: that cannot be a namespace.
    """
    subjects = subjects_of(namespace)
    async with await Connection.open(ConnectOptions(url, name="aegis:replay")) as connection:
        log = await open_log(connection, subjects)
        pulses = JetStreamLog(connection, subjects.pulse_stream)
        servers = ",".join(endpoint.url for endpoint in ConnectOptions(url).endpoints())
        about = f"namespace {namespace} at {servers}"
        base = await _base_of(log, subjects)
        yield Source(log, subjects, about, pulses, base=base, connection=connection)


async def _base_of(log: Log, subjects: Subjects) -> Callable[[], SystemState] | None:
    """Of an imported log, which begins in the middle: what its first snapshot says of what came before."""
    if (await log.bounds()).first_seq <= 1:
        return None
    try:
        plain = dump_state(await beginning(log, subjects))
    except NoBeginning:
        return None
    return lambda: load_state(plain, subjects)

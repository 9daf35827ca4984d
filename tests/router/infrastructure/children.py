"""Processes of their own that hold one connection each: to be killed and frozen."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aegisipc.eventstore.pulses import ConnectionId

_PROGRAM: Final = """
import asyncio, json, sys
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions

url, name, subject, answer = sys.argv[1:]

async def main():
    connection = await Connection.open(ConnectOptions(url, name=name))
    if subject:
        reply = lambda message: connection.publish_nowait(message.reply, answer.encode())
        await connection.subscribe(subject, reply)
    print(json.dumps([connection.server.server_id, connection.server.client_id]), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


class Child:
    """A process with a connection."""

    def __init__(self, popen: subprocess.Popen[str], connection: ConnectionId) -> None:
        self._popen = popen
        self.connection = connection

    def kill(self) -> None:
        self._popen.kill()

    def freeze(self) -> None:
        self._popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._popen.send_signal(signal.SIGCONT)


@asynccontextmanager
async def connected_child(
    url: str, name: str, *, subject: str = "", answer: str = ""
) -> AsyncIterator[Child]:
    """A process that is connected under `name`, and answers what comes on `subject`."""
    with subprocess.Popen(  # noqa: ASYNC220 - it starts at once; what waits is in a thread
        [sys.executable, "-c", _PROGRAM, url, name, subject, answer], stdout=subprocess.PIPE, text=True
    ) as popen:
        try:
            assert popen.stdout is not None
            server, client_id = json.loads(await asyncio.to_thread(popen.stdout.readline))
            yield Child(popen, ConnectionId(server, client_id))
        finally:
            popen.kill()

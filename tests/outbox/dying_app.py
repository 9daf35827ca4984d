"""An application that dies at a given step: ``python -m tests.outbox.dying_app STEP DATABASE HOW WHERE…``.

STEP: ``added`` (before it commits), ``committed``, ``submitted`` (before that is noted), ``accepted`` (it is
noted, and there is no outcome yet), ``some`` (it adds fifty entries, and whoever started it kills it at any
time), or ``none``: it only relays what is there, until all is done.
HOW: ``file LOG`` submits to a database that stands for the log, ``nats URL NAMESPACE`` to a real one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from typing import Any

from aegisipc.eventstore.ids import format_call_id, parse_call_id
from aegisipc.sdk import connect
from aegisipc.sdk.encoded import EncodedArguments
from aegisipc.sdk.errors import CallTimeout
from aegisipc.sdk.outbox import Outbox, Status
from tests.support.waiting import eventually

KEY = "order-1"
ID = "01a3185c-5000-7000-8004-b80000000000"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FileClient:
    """Accepts calls into a database: each submission is a row, and a key has one call."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA synchronous=OFF")  # a kill loses nothing of it
        self._database.execute("CREATE TABLE IF NOT EXISTS calls (id INTEGER PRIMARY KEY, key UNIQUE, body)")
        self._database.execute("CREATE TABLE IF NOT EXISTS submissions (key)")

    async def submit(self, target: str, /, *args: Any, **options: Any) -> Any:
        assert type(args[0]) is EncodedArguments
        key = options["idempotency_key"]
        self._database.execute("INSERT INTO submissions VALUES (?)", (key,))
        self._database.execute("INSERT OR IGNORE INTO calls (key, body) VALUES (?, ?)", (key, args[0].body))
        return self._pending(key)

    async def attach(self, call_id: str, **_: Any) -> Any:
        (key,) = self._database.execute(
            "SELECT key FROM calls WHERE id = ?", (parse_call_id(call_id)[-1],)
        ).fetchone()
        return self._pending(key)

    def _pending(self, key: str) -> Any:
        (number,) = self._database.execute("SELECT id FROM calls WHERE key = ?", (key,)).fetchone()
        return FilePending(format_call_id(parse_call_id(ID)[:-1] + bytes([number])))


class FilePending:
    """Its outcome is there when a file says so."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id

    async def result(self, timeout: float | None = None) -> Any:
        if not os.access(os.environ["MAY_END"], os.F_OK):
            raise CallTimeout("no outcome yet", call_id=self.call_id)
        return "done"


class DyingClient:
    """Submits with another client, and ends the process as soon as that has succeeded."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.attach = client.attach

    async def submit(self, target: str, /, *args: Any, **options: Any) -> Any:
        pending = await self._client.submit(target, *args, **options)
        die()
        return pending


async def relay(outbox: Outbox, client: Any, step: str) -> None:
    async with outbox.relay(DyingClient(client) if step == "submitted" else client) as relay:
        if step == "accepted":
            await eventually(lambda: outbox.counts()[Status.ACCEPTED], within_s=30)
            die()
        await relay.idle(60)


async def main(step: str, path: str, how: str, *where: str) -> None:
    outbox = Outbox(path)
    if step == "some":
        for number in range(50):
            outbox.put("orders.place", number, resource_id=f"acc_{number % 3}")
            print(number, flush=True)  # noqa: T201 - whoever kills waits for some of these
    elif step != "none":
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE IF NOT EXISTS orders (number INTEGER)")
        database.execute("INSERT INTO orders VALUES (1)")
        outbox.add(database, "orders.place", 1, resource_id="acc_1", idempotency_key=KEY)
        if step == "added":
            die()
        database.commit()
        if step == "committed":
            die()
    if how == "file":
        await relay(outbox, FileClient(*where), step)
    else:
        url, namespace = where
        async with connect(url, namespace=namespace) as client:
            await relay(outbox, client, step)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

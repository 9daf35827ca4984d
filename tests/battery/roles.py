"""What the processes of the battery run: an instance, a client, a reader. Each prints what it did as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

from sqlalchemy import BigInteger, Column, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import create_async_engine

from aegisipc.eventstore.calls import EVENT_OF
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.frames import Mark
from aegisipc.router.cli.main import main
from aegisipc.sdk import Context, Service, connect

IMPORTED: Final = (
    "tests.battery.roles",
    "aegisipc.router.cli.dispatch",
    "aegisipc.router.cli.router",
    "aegisipc.router.cli.routing",
    "aegisipc.router.application.router",
    "aegisipc.eventstore.cli.running",
    "aegisipc.eventstore.cli.logs",
    "aegisipc.sdk.instance",
    "aegisipc.sdk.transactions.opening",
    "aiosqlite",
    "sqlalchemy.dialects.sqlite.aiosqlite",
)
"""What the process that forks these roles imports first."""

SERVICE: Final = "bank"
RESOURCE: Final = "acc_1"
LEDGER: Final = "ledger.jsonl"
DATABASE: Final = "bank.db"
GO: Final = "go"
POISON: Final = -1

_POLL_S: Final = 0.002
_PATIENCE_S: Final = 60.0
_IMPATIENCE_S: Final = 0.3

metadata: Final = MetaData()
rows: Final = Table(
    "ledger",
    metadata,
    Column("number", BigInteger, nullable=False),
    Column("call_id", String(36), nullable=False),
    Column("token", String(32), nullable=False),
)
"""Nothing in it is unique: a second effect of a call makes a second row."""


def say(**what: Any) -> None:
    """Print a line, at once and in one piece."""
    os.write(1, json.dumps(what).encode() + b"\n")


def note(folder: Path, number: int, call_id: str) -> str:
    """Have the effect: append a line to the ledger, and force it to disk. Returns its token."""
    token = secrets.token_hex(8)
    line = json.dumps({"number": number, "call_id": call_id, "token": token}).encode() + b"\n"
    descriptor = os.open(folder / LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return token


# -- instance ---------------------------------------------------------------------------------------------


def instance(url: str, namespace: str, folder: str, name: str, *, pool: bool, flaw: str = "") -> None:
    """Serve until killed. With a flaw it is one that the battery must catch."""
    if flaw == "no claims":
        del EVENT_OF[Mark.CLAIMED]
    bank(Path(folder), flaw).run(
        url=url,
        namespace=namespace,
        instance=name,
        resources=() if pool else (RESOURCE,),
        pulse_ms=100,
        on_ready=lambda _: say(event="ready"),
    )


def bank(folder: Path, flaw: str = "") -> Service:
    """The service. A handler says that it has begun, and then waits until it may go."""
    service = Service(SERVICE)
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / DATABASE}")

    async def begin(number: int, ctx: Context) -> None:
        say(event="began", number=number, call_id=ctx.call_id)
        while not (folder / GO).exists():  # noqa: ASYNC110 - the test is another process
            await asyncio.sleep(_POLL_S)

    @service.method(effect="once")
    async def once(number: int, ctx: Context) -> str:
        await begin(number, ctx)
        if flaw == "twice":
            note(folder, number, ctx.call_id)
        return note(folder, number, ctx.call_id)

    @service.method(effect="idempotent")
    async def transactional(number: int, ctx: Context) -> str:
        token = secrets.token_hex(8)
        row = {"number": number, "call_id": ctx.call_id, "token": token}
        if flaw == "no transaction":
            await begin(number, ctx)
            async with engine.begin() as connection:
                await connection.execute(insert(rows).values(row))
            return token
        async with ctx.transaction(engine) as session:
            await begin(number, ctx)
            await session.execute(insert(rows).values(row))
            return token

    return service


def poisoned(url: str, namespace: str, name: str, resources: list[str]) -> None:
    """Serve until killed, or until a call that is poison ends the process."""
    service = Service(SERVICE)

    @service.method(effect="idempotent")
    async def work(number: int) -> int:
        if number == POISON:
            os._exit(1)
        return number

    service.run(
        url=url,
        namespace=namespace,
        instance=name,
        resources=resources,
        pulse_ms=100,
        on_ready=lambda _: say(event="ready"),
    )


# -- router -----------------------------------------------------------------------------------------------


def router(words: list[str]) -> int:
    """Run the command with these words."""
    return main(words)


# -- client -----------------------------------------------------------------------------------------------


def client(url: str, namespace: str, number: int, target: str, **options: Any) -> None:
    """Make one call, and say what came of it."""
    asyncio.run(_call(url, namespace, number, target, **options))


async def _call(
    url: str,
    namespace: str,
    number: int,
    target: str,
    *,
    pool: bool,
    key: str | None = None,
    flaw: str = "",
) -> None:
    resource = None if pool else RESOURCE
    calling: dict[str, Any] = {"resource_id": resource, "timeout": _PATIENCE_S, "idempotency_key": key}
    async with connect(url, namespace=namespace, name="caller", connect_timeout_s=_PATIENCE_S) as caller:
        try:
            if flaw == "impatient":
                try:
                    async with asyncio.timeout(_IMPATIENCE_S):
                        await caller.submit(target, number, **calling)
                except TimeoutError:
                    say(event="again")  # as a new call: the old one may be in the log, or not
            pending = await caller.submit(target, number, **calling)
            say(event="accepted", call_id=pending.call_id)
            value = await pending.result()
        except AegisError as error:
            say(event="ended", error=error.code, message=error.message)
        else:
            say(event="ended", call_id=pending.call_id, value=value)


# -- reader -----------------------------------------------------------------------------------------------


def reader(url: str, namespace: str, call_ids: list[str], key: str | None, *, pool: bool) -> None:
    """Attach to calls, and say what came of each."""
    asyncio.run(_read(url, namespace, call_ids, key, pool=pool))


async def _read(url: str, namespace: str, call_ids: list[str], key: str | None, *, pool: bool) -> None:
    resource = None if pool else RESOURCE
    async with connect(url, namespace=namespace, connect_timeout_s=_PATIENCE_S) as found:
        for call_id in call_ids:
            await _tell(call_id, found.attach(call_id))
        if key is not None:
            await _tell("", found.attach(idempotency_key=key, service=SERVICE, resource_id=resource))
    say(event="read")


async def _tell(call_id: str, attaching: Any) -> None:
    try:
        value = await (await attaching).result(_PATIENCE_S)
    except AegisError as error:
        say(event="ended", call_id=call_id, error=error.code, message=error.message)
    else:
        say(event="ended", call_id=call_id, value=value)

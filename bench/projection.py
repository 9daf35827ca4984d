"""How far the SQL read model is behind the log while calls come at a steady rate.

Own processes for server, router, service and projector; the calls come from this one. Every fifth of a second
the checkpoint in the database is compared with the host's clock, which is the server's, too. In the end every
call has to be in the tables, with its outcome; and the tables are filled anew, to see how fast that is when
nothing else runs.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import Engine, create_engine, func, make_url, select

from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.replay import open_live
from aegisipc.eventstore.sql.models import Call, Checkpoint
from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.sdk import connect
from bench.load import Load
from bench.processes import memory_mib, run
from bench.relay import RESOURCES, Relayed
from bench.stage import AEGIS, child
from bench.workload import ORDER

_NAMESPACE: Final = "default"
_LOOK_S: Final = 0.2
_CATCH_UP_S: Final = 600.0
_NOBODY: Final = Relayed(symbol="", instance="", epoch=0)


class Plan(NamedTuple):
    """At what rate (calls per second), for how many seconds, into which database (default: a file)."""

    rate: int
    seconds: int
    sql: str | None
    fsync: bool


class Site(NamedTuple):
    """The processes of the measurement, and the database that the projector writes."""

    url: str
    sql: str
    projector: ChildProcess
    database: Engine


@asynccontextmanager
async def _site(plan: Plan) -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as made:
        folder = Path(made)
        sql = plan.sql or f"sqlite:///{folder / 'model.db'}"
        await run("aegis migrate", (*AEGIS, "migrate", "up", "--sql", sql))
        async with EmbeddedServer(folder / "server", fsync=plan.fsync) as server, AsyncExitStack() as stack:
            where = ("--url", server.url)
            resources = [word for resource in RESOURCES for word in ("--resource", resource)]
            projector: ChildProcess | None = None
            for name, words in (
                ("router", ("router",)),
                ("service", ("serve", "bench.workload:service", *resources)),
                ("projector", ("projector", "--sql", sql)),
            ):
                started = child(name, (*AEGIS, *words, *where), folder / f"{name}.log")
                projector = await stack.enter_async_context(started)
            assert projector is not None  # noqa: S101 - for the type checker
            database = create_engine(_plain_driver(sql))
            stack.callback(database.dispose)
            yield Site(server.url, sql, projector, database)


def _plain_driver(sql: str) -> str:
    """The tables are looked at with a driver that needs no event loop."""
    url = make_url(sql)
    plain = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg"
    return url.set(drivername=plain).render_as_string(hide_password=False)


async def report(plan: Plan, *, as_json: bool) -> int:
    """Measure and print; exit code 1 if a call is not in the tables, or not with its outcome."""
    found = await measure(plan)
    if as_json:
        print_json(found)
    else:
        print(_shown(found))
    return 0 if found["missing"] == 0 else 1


async def measure(plan: Plan) -> dict[str, Any]:
    """Run the whole plan."""
    async with _site(plan) as site:
        load, lags = await _pour(plan, site)
        began = time.perf_counter()
        await _reached(site, await _last_seq(site.url))
        caught_up_s = time.perf_counter() - began
        memory = memory_mib(site.projector.pid)
        rows = await asyncio.to_thread(_succeeded, site.database)
        rebuilt = await run(
            "aegis migrate rebuild",
            (*AEGIS, "migrate", "rebuild", "--sql", site.sql, "--url", site.url, "--json"),
        )
        rows_rebuilt = await asyncio.to_thread(_succeeded, site.database)
        rebuilt_s = float(json.loads(rebuilt.output.splitlines()[-1])["seconds"])
    lags.sort()
    return {
        "database": make_url(site.sql).get_backend_name(),
        "fsync": plan.fsync,
        "rate": plan.rate,
        "calls": load.made,
        "made_per_s": round(load.made / load.poured_s, 1),
        "errors": dict(load.errors),
        "lag_p50_s": round(lags[len(lags) // 2], 3),
        "lag_worst_s": round(lags[-1], 3),
        "caught_up_s": round(caught_up_s, 3),
        "projector_mib": round(memory, 1),
        "missing": load.made - load.errors.total() - rows,
        "rebuild_s": rebuilt_s,
        "rebuild_calls_per_s": round(rows_rebuilt / rebuilt_s),
        "rebuild_peak_mib": rebuilt.peak_mib,
        "missing_after_rebuild": rows - rows_rebuilt,
    }


async def _pour(plan: Plan, site: Site) -> tuple[Load, list[float]]:
    lags: list[float] = []
    async with connect(site.url, name="bench", max_open=200_000) as client:

        async def call(number: int) -> Relayed:
            resource = RESOURCES[number % len(RESOURCES)]
            await client.call("bench.idempotent", ORDER, resource_id=resource, timeout=60.0)
            return _NOBODY

        load = Load(call, plan.rate)
        stop = asyncio.Event()
        pouring = asyncio.create_task(load.pour(stop))
        ends = time.monotonic() + plan.seconds
        while time.monotonic() < ends:
            await asyncio.sleep(_LOOK_S)
            lags.append(await asyncio.to_thread(_lag_s, site.database))
        stop.set()
        await pouring
        await load.settled(60.0)
    return load, lags


async def _last_seq(url: str) -> int:
    async with open_live(url, _NAMESPACE) as source:
        return (await source.log.bounds()).last_seq


async def _reached(site: Site, seq: int) -> None:
    async with asyncio.timeout(_CATCH_UP_S):
        while await asyncio.to_thread(_position, site.database) < seq:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_LOOK_S / 4)


def _position(database: Engine) -> int:
    with database.connect() as connection:
        return connection.scalar(select(Checkpoint.position)) or 0


def _lag_s(database: Engine) -> float:
    """How old the last record is that is in the tables; there is always a newer one while calls come."""
    with database.connect() as connection:
        at_ns = connection.scalar(select(Checkpoint.position_ns)) or 0
    return max(0.0, (time.time_ns() - at_ns) / 1e9) if at_ns else 0.0


def _succeeded(database: Engine) -> int:
    with database.connect() as connection:
        return connection.scalar(select(func.count()).where(Call.status == "succeeded")) or 0


def _shown(found: dict[str, Any]) -> str:
    made = (
        f"{found['calls']:,} calls at {found['made_per_s']:,.0f}/s (wanted {found['rate']:,}/s), into "
        f"{found['database']}: missing {found['missing']}"
    )
    behind = (
        f"behind the log: {found['lag_p50_s']:.2f} s in the middle, {found['lag_worst_s']:.2f} s at worst; "
        f"nothing was left {found['caught_up_s']:.2f} s after the last call"
    )
    rebuilt = (
        f"filled anew in {found['rebuild_s']:.1f} s (without the start of the program): "
        f"{found['rebuild_calls_per_s']:,} calls/s; peak memory {found['rebuild_peak_mib']:,.0f} MiB"
    )
    return "\n".join([made, behind, rebuilt])

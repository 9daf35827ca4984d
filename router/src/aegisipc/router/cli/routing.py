"""A router in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aegisipc.eventstore.cli import say
from aegisipc.eventstore.cli.output import print_json
from aegisipc.eventstore.cli.waiting import patiently
from aegisipc.eventstore.errors import LogFailed
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import LogOptions
from aegisipc.router.application.router import Router, RouterOptions
from aegisipc.router.application.snapshotting import SnapshotOptions
from aegisipc.router.domain.decide import Policy
from aegisipc.router.infrastructure.sweeping import SweepOptions

_LOOK_S: Final = 0.2


async def route(args: Namespace) -> int:
    """Start a router, and run it until a signal comes or it fails."""
    options = RouterOptions(
        args.url,
        args.namespace,
        id=args.name,
        log=LogOptions(
            replicas=args.replicas, max_bytes=args.max_bytes, objects_max_bytes=args.objects_max_bytes
        ),
        sweep=SweepOptions(grace_s=args.objects_grace_s),
        policy=Policy(suspect_after_ms=args.suspect_after_ms, lost_after_ms=args.lost_after_ms),
        system_url=args.system_url,
        probe_ms=args.probe_ms,
        snapshots=SnapshotOptions(every_entries=args.snapshot_every, every_s=args.snapshot_seconds),
    )
    stopping = asyncio.Event()
    starting = asyncio.get_running_loop().create_task(patiently(lambda: _started(options), args.wait))

    def stop() -> None:
        stopping.set()
        starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        router = await starting
    except asyncio.CancelledError:
        if stopping.is_set():
            return 0
        raise
    try:
        async with _read_model(args, router):
            _announce(args, router)
            await _until_over(router, stopping)
    finally:
        await router.stop()
    say(f"stopped router {router.me.id}")
    return 0


async def _started(options: RouterOptions) -> Router:
    router = Router(options)
    await router.start()
    return router


@asynccontextmanager
async def _read_model(args: Namespace, router: Router) -> AsyncIterator[None]:
    """Run a projector beside the router, if a database is named.

    Raises:
        DatabaseUnsupported: the database can be none. Whatever else is wrong with it does not stop a router.
    """
    if args.sql is None:
        yield
        return
    from aegisipc.router.cli.projecting import options_of  # noqa: PLC0415 - heavy, and rarely needed
    from aegisipc.router.infrastructure.projection import ProjectionTask  # noqa: PLC0415 - as above

    projection = ProjectionTask(args.url, args.namespace, args.sql, options_of(args))
    router.beside["projector"] = projection.status
    projection.start()
    try:
        yield
    finally:
        await projection.stop()


def _announce(args: Namespace, router: Router) -> None:
    servers = ",".join(endpoint.url for endpoint in ConnectOptions(args.url).endpoints())
    if args.json:
        print_json(
            {
                "ready": True,
                "router": router.me.id,
                "url": servers,
                "namespace": args.namespace,
                "pid": os.getpid(),
                "position": router.state.position,
                "began_at": router.snapshots.began_at,
                "replay_s": router.replay_s,
                "system_account": router.status()["system_account"],
            }
        )
        return
    began_at = router.snapshots.began_at
    read = f"read {router.state.position - began_at} records"
    if began_at:
        read += f" behind the snapshot of {began_at}"
    print(
        f"ready router {router.me.id} of {args.namespace} at {servers} ({read} in {router.replay_s:.2f} s)",
        flush=True,
    )


async def _until_over(router: Router, stopping: asyncio.Event) -> None:
    """Return when a signal came.

    Raises:
        LogFailed: the router cannot go on: its fold failed.
    """
    while not stopping.is_set():
        if router.failure is not None:
            raise LogFailed(
                f"cannot route any more: the router failed at sequence {router.state.position} "
                f"({type(router.failure).__name__}: {router.failure}); start the router again"
            )
        try:
            async with asyncio.timeout(_LOOK_S):
                await stopping.wait()
        except TimeoutError:
            continue

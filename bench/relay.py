"""The service whose active instance is killed: ``python -m bench.relay --url URL --instance ID --runs FILE``.

Each start of a handler is written to a file of its own, outside of the log and at once: what was written
survives the process. So what ran, and how often, can be counted without believing the log.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from aegisipc.sdk import Context, Service
from aegisipc.sdk.instance import Instance
from bench.workload import Order

ID_BYTES: Final = 16
"""Size of one entry of the file of runs: a call's id."""

RESOURCES: Final = tuple(f"acc_{number}" for number in range(1, 501))
"""What the calls are about, in turn. Those about one of them run one after another: with few, the rate would
be limited by how long a call takes.
"""

relay = Service("relay", max_running=1024)


class Relayed(BaseModel):
    """Who carried out the call, and in which epoch."""

    symbol: str
    instance: str
    epoch: int


class Runs:
    """The file to which handlers write that they begin."""

    def __init__(self) -> None:
        self._file = -1

    def open(self, path: Path) -> None:
        """Write to `path` from now on, behind what is there."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, call_id: bytes) -> None:
        """Write that this call begins; it survives this process, not the machine."""
        if self._file >= 0:
            os.write(self._file, call_id)


runs = Runs()


@relay.method(effect="idempotent")
async def idempotent(order: Order, ctx: Context) -> Relayed:
    """May run again: a standby runs what has no outcome."""
    return _relay(order, ctx)


@relay.method(effect="once")
async def once(order: Order, ctx: Context) -> Relayed:
    """Is claimed before it starts: in doubt if it may have run."""
    return _relay(order, ctx)


def _relay(order: Order, ctx: Context) -> Relayed:
    runs.add(ctx.raw_call_id)
    return Relayed(symbol=order.symbol, instance=ctx.instance, epoch=ctx.epoch)


def started(paths: Sequence[Path]) -> tuple[set[bytes], int]:
    """Return which calls were begun, and how many times one was begun that had been before."""
    seen: set[bytes] = set()
    total = 0
    for path in paths:
        data = path.read_bytes() if path.exists() else b""
        whole = len(data) - len(data) % ID_BYTES
        total += whole // ID_BYTES
        seen.update(data[at : at + ID_BYTES] for at in range(0, whole, ID_BYTES))
    return seen, total - len(seen)


def _announce(instance: Instance) -> None:
    print(f"ready {instance.id}", flush=True)


def main() -> None:
    """Run one instance until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--instance", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--pulse-ms", required=True, type=int)
    args = parser.parse_args()
    runs.open(args.runs)
    relay.run(
        url=args.url,
        group="relay",
        instance=args.instance,
        resources=RESOURCES,
        pulse_ms=args.pulse_ms,
        on_ready=_announce,
    )


if __name__ == "__main__":
    main()

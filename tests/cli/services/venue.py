"""For the tests of dead letters and cancelling: a venue that is closed as long as there is a file of
that name beside the trace.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aegisipc.sdk import Context, Service, ServiceError
from aegisipc.sdk.retry import Retry

venue = Service("venue")
TRIES = Retry(attempts=2, base_s=0.01, max_s=0.02, jitter=0.0, on=("closed",))


def _note(what: str) -> None:
    with Path(os.environ["TRACE"]).open("a", encoding="utf-8") as trace:
        trace.write(f"{what}\n")


def _exists(name: str) -> bool:
    return (Path(os.environ["TRACE"]).parent / name).exists()


@venue.method(effect="once", retry=TRIES)
async def place(number: int, ctx: Context) -> str:
    _note(f"place {number} {ctx.call_id}")
    if _exists("closed"):
        raise ServiceError("closed", "the venue is closed", number=number)
    return f"placed {number}"


@venue.method(effect="once")
async def wait(number: int) -> str:
    _note(f"wait {number}")
    while _exists(f"hold-{number}"):  # noqa: ASYNC110 - told by a file
        await asyncio.sleep(0.01)
    return f"waited {number}"

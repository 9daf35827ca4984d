"""A pool for the tests of doubts: its workers take their time if they are told so."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aegisipc.sdk import Context, Service

crew = Service("crew")


@crew.method(effect="once")
async def errand(number: int, ctx: Context) -> str:
    root = Path(os.environ["TRACE"]).parent
    (root / f"errand-{number}").touch()
    while (root / f"hold-errand-{number}").exists():  # noqa: ASYNC110 - told by a file
        await asyncio.sleep(0.01)
    return f"{number} by {ctx.instance}"

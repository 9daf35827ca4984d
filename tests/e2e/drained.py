"""A small service for a process of its own: ``python -m tests.e2e.drained URL NAMESPACE``.

Prints ``ready`` when it is, and ``running`` at each start of its method.
"""

from __future__ import annotations

import asyncio
import sys

from aegisipc.sdk import Service

slow = Service("slow")


@slow.method(effect="once")
async def work(milliseconds: int) -> int:
    print("running", flush=True)  # noqa: T201 - the test waits for this line
    await asyncio.sleep(milliseconds / 1000)
    return milliseconds


if __name__ == "__main__":
    slow.run(
        url=sys.argv[1],
        namespace=sys.argv[2],
        resources=["x"],
        pulse_ms=50,
        on_ready=lambda _: print("ready", flush=True),  # noqa: T201 - as above
    )

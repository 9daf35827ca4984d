"""A worker of a pool in a process of its own: ``python -m tests.e2e.pool_worker URL NAMESPACE INSTANCE HOW``.

With HOW ``stuck`` its methods never return, with ``failing`` they raise; with ``deadly`` the number 13 ends
the process. Prints ``ready`` when it is, and ``running`` at each start of a method that is stuck, or fails.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

from aegisipc.sdk import Service
from aegisipc.sdk.retry import Retry

POISON = 13


def pool(on_run: Callable[[str, int], Any] | None = None, **options: int) -> Service:
    """A pool whose methods return what they are given, after `on_run` was called (and awaited) with the
    method's name and the number.
    """
    service = Service("pool", **options)

    async def run(method: str, number: int) -> int:
        done = on_run(method, number) if on_run is not None else None
        if done is not None:
            await done
        return number

    @service.method(effect="idempotent")
    async def echo(number: int) -> int:
        return await run("echo", number)

    @service.method(effect="once")
    async def pay(number: int) -> int:
        return await run("pay", number)

    @service.method(effect="once", retry=Retry(attempts=3, base_s=0.5, factor=1.0, jitter=0.0))
    async def shaky(number: int) -> int:
        return await run("shaky", number)

    return service


def stuck(method: str, number: int) -> Any:
    """Say that it runs, and never return."""
    print("running", method, number, flush=True)  # noqa: T201 - the test waits for this line
    return asyncio.Event().wait()


def failing(method: str, number: int) -> None:
    """Say that it runs, and fail."""
    print("running", method, number, flush=True)  # noqa: T201 - as above
    raise ConnectionError("the venue is busy")


def deadly(method: str, number: int) -> None:
    """The process does not survive the poison."""
    if number == POISON:
        os._exit(1)


if __name__ == "__main__":
    url, namespace, name, how = sys.argv[1:]
    hows: dict[str, Callable[[str, int], Any]] = {"stuck": stuck, "failing": failing, "deadly": deadly}
    pool(hows[how]).run(
        url=url,
        namespace=namespace,
        instance=name,
        pulse_ms=50,
        on_ready=lambda _: print("ready", flush=True),  # noqa: T201 - as above
    )

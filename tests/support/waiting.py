"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_POLL_S = 0.002


async def eventually(condition: Callable[[], object], *, within_s: float, what: str = "") -> None:
    """Return as soon as ``condition()`` is true. Raises ``AssertionError`` after ``within_s`` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition():
        if loop.time() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what or condition}")
        await asyncio.sleep(_POLL_S)

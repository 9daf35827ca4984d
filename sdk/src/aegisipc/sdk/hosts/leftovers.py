"""Runs that outlive the incarnation that began them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Leftovers:
    """Runs that outlive the incarnation that began them, in the process of one instance."""

    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Keep a run until it ends."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self, timeout_s: float) -> None:
        """Give them so long to come to their end, then cancel them."""
        if self.tasks and timeout_s > 0:
            await asyncio.wait(list(self.tasks), timeout=timeout_s)
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=1.0)

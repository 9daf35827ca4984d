"""What ``Client.attach`` gives: a call that is still to be found in the log."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from aegisipc.sdk.pending import Pending


class Attaching:
    """A call by its id or its idempotency key. ``await`` it for the call, or ask at once what became of it::

    fill = await client.attach(call_id).result()

    pending = await client.attach(call_id)
    fill = await pending.result()
    """

    def __init__(self, find: Callable[[], Coroutine[Any, Any, Pending]]) -> None:
        self._find = find

    async def found(self) -> Pending:
        """Find the call; raises what ``Client.attach`` says."""
        return await self._find()

    def __await__(self) -> Generator[Any, None, Pending]:
        return self.found().__await__()

    async def result(self, timeout: float | None = None) -> Any:
        """Find the call and wait for its outcome; see :meth:`Pending.result`."""
        return await (await self._find()).result(timeout)

    async def cancel(self, reason: str = "", timeout: float | None = None) -> None:
        """Find the call and have it cancelled; see :meth:`Pending.cancel`."""
        await (await self._find()).cancel(reason, timeout)

    async def settled(self, timeout: float | None = None) -> Any:
        """Find the call and wait for its final outcome; see :meth:`Pending.settled`."""
        return await (await self._find()).settled(timeout)

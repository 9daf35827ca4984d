"""An event loop in a thread of its own, for those who have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, ClassVar

from aegisipc.eventstore.errors import AegisError, NotConnected


class EventLoopBlocked(AegisError):
    """A blocking call was made in a thread that runs an event loop. Await the asynchronous client there."""

    code: ClassVar[str] = "event_loop_blocked"


class LoopThread:
    """An event loop in a thread of its own, to which other threads hand coroutines."""

    def __init__(self, name: str) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._is_up = threading.Event()
        self._door = threading.Lock()
        self._is_over = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._is_up.wait()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._until_stopped())  # and then the runner cancels what still runs

    async def _until_stopped(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._is_up.set()
        await self._stop.wait()

    def run[T](self, work: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
        """Run a coroutine there, and wait for its result; whatever interrupts the wait cancels it."""
        refuse_event_loop(what)
        with self._door:  # whatever got in before the stop is run or cancelled, and nothing gets in after it
            if self._loop is None or self._is_over:
                raise _closed(what)
            future: Future[T] = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise _closed(what) from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Cancel what still runs, and wait until the thread has ended. Idempotent."""
        with self._door:
            if not self._is_over and self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
            self._is_over = True
        self._thread.join()


def refuse_event_loop(what: str) -> None:
    """Refuse to block a thread that runs an event loop.

    Raises:
        EventLoopBlocked: this one does.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise EventLoopBlocked(
        f"cannot {what} with the blocking client in a thread that runs an event loop, which it would stop; "
        "use aegisipc.sdk.connect and await, or another thread (asyncio.to_thread)"
    )


def _closed(what: str) -> NotConnected:
    return NotConnected(f"cannot {what}: the client is closed; connect another one")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory

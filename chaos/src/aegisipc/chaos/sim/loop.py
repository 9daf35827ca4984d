"""An event loop on a virtual clock, whose callbacks belong to actors that can be killed and frozen.

Nothing waits: when nothing is ready, the clock jumps to the next timer. Each callback runs in the context in
which it was scheduled, and the context names its *actor*: a process of the simulated system. Of a killed
actor nothing runs any more, not even a ``finally``; what a frozen one has to do is put aside until it thaws.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from asyncio import AbstractEventLoop, Future, Handle, Task, TimerHandle, events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

from aegisipc.eventstore.errors import AegisError

EPOCH_NS: Final = 1_800_000_000_000_000_000
"""What a wall clock shows when a simulation begins, in Unix nanoseconds."""


class Stuck(AegisError):
    """Nothing is left to do, and what was waited for did not come. Field: ``at_s``."""

    code = "simulation_stuck"


class TooLong(AegisError):
    """It took more steps than it may. Fields: ``steps``, ``at_s``."""

    code = "simulation_too_long"


class Actor:
    """One simulated process. ``life`` numbers its lives; ``skew_ns`` is how wrong its wall clock is."""

    __slots__ = ("is_dead", "is_frozen", "keeps", "life", "name", "parked", "skew_ns", "steps")

    def __init__(self, name: str, life: int = 1) -> None:
        self.name, self.life = name, f"{name}.{life}"
        self.skew_ns = 0
        self.is_dead = self.is_frozen = False
        self.parked: deque[Handle] = deque()
        self.steps = 0
        self.keeps: list[object] = []
        """What must not be collected before the run is over: collecting it would run its ``finally``."""


WORLD: Final = Actor("world")
"""Who does what no process of the system does: the server's model, the network, the faults."""

ACTOR: Final[ContextVar[Actor]] = ContextVar("actor", default=WORLD)


_Base: Any = AbstractEventLoop
"""Untyped: of the fifty methods that a loop has by its type, a simulation needs a dozen."""


class SimLoop(_Base):  # type: ignore[misc]
    """The loop. Make it, :meth:`run`, and :meth:`close` it; one run each.

    Raises nothing by itself: what nobody handled is gathered in ``unhandled``.
    """

    def __init__(self, *, max_steps: int = 2_000_000) -> None:
        self.now_s = 0.0
        self.steps = 0
        self.max_steps = max_steps
        self.unhandled: list[str] = []
        self.network: Any = None
        """The model of the network that connections of this loop end in."""
        self.on_step: Callable[[Actor], None] | None = None
        """Called before each step with the actor whose step it is; may kill it."""
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._count = 0
        self._tasks: list[Task[Any]] = []
        self._is_closed = False
        self._is_running = False

    # -- running ----------------------------------------------------------------------------------------

    def run[T](self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` as the world, until it is done.

        Raises:
            Stuck: it waits for something that cannot come any more.
            TooLong: ``max_steps`` were taken.
        """
        previous, hooks = events._get_running_loop(), sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        self._is_running = True
        try:
            task = self.create_task(main)
            self._run_until_done(task)
            result: T = task.result()
        finally:
            self._is_running = False
            events._set_running_loop(previous)
            sys.set_asyncgen_hooks(*hooks)
        return result

    def _close_generator(self, generator: AsyncGenerator[Any]) -> None:
        """Somebody left a generator before its end: it is closed, as by every loop."""
        if not self._is_closed and not ACTOR.get().is_dead:
            self.create_task(generator.aclose())

    def _run_until_done(self, task: Task[Any]) -> None:
        ready = self._ready
        while not task.done():
            if not ready:
                self._advance()
            handle = ready.popleft()
            if handle._cancelled:
                continue
            actor: Actor = handle._context.get(ACTOR, WORLD)  # type: ignore[attr-defined]
            if actor is not WORLD and not self._may_step(actor, handle):
                continue
            self.steps += 1
            if self.steps > self.max_steps:
                raise TooLong(
                    f"stopped the simulation after {self.max_steps} steps, at {self.now_s:.3f} s: something "
                    "runs in circles, or the plan is too long",
                    steps=self.steps,
                    at_s=self.now_s,
                )
            handle._run()

    def _may_step(self, actor: Actor, handle: Handle) -> bool:
        """Tell whether `actor` may run a callback; what it may not is put aside."""
        if self.on_step is not None and not actor.is_dead:
            self.on_step(actor)
        if actor.is_dead:
            actor.keeps.append(handle)
            return False
        if actor.is_frozen:
            actor.parked.append(handle)
            return False
        actor.steps += 1
        return True

    def _advance(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Stuck(
                f"nothing is left to do at {self.now_s:.3f} s, and something is still waited for",
                at_s=self.now_s,
            )
        self.now_s = max(self.now_s, timers[0][0])
        while timers and timers[0][0] <= self.now_s:
            self._ready.append(heapq.heappop(timers)[2])

    def freeze(self, actor: Actor) -> None:
        """Let nothing of `actor` run until it is thawed."""
        actor.is_frozen = True

    def thaw(self, actor: Actor) -> None:
        """Let a frozen `actor` go on with everything that it missed."""
        actor.is_frozen = False
        self._ready.extend(actor.parked)
        actor.parked.clear()

    def kill(self, actor: Actor) -> None:
        """End `actor` at once: nothing of it runs any more."""
        actor.is_dead = True
        actor.keeps.extend(actor.parked)
        actor.parked.clear()

    # -- what asyncio asks of a loop --------------------------------------------------------------------

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self.now_s

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Handle:
        """Run a callback in the next turn."""
        handle = Handle(callback, args, self, context)
        if not self._is_closed:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> TimerHandle:
        """Run a callback after `delay` seconds."""
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> TimerHandle:
        """Run a callback at a time."""
        timer = TimerHandle(when, callback, args, self, context)
        if not self._is_closed:
            self._count += 1
            heapq.heappush(self._timers, (when, self._count, timer))
        return timer

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """A cancelled timer is dropped when its time comes."""

    def create_future(self) -> Future[Any]:
        """Return a future of this loop."""
        return Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> Task[Any]:
        """Return a task of this loop."""
        task: Task[Any] = Task(coro, loop=self, name=name or "task", context=context)
        self._tasks.append(task)  # kept: the order in which tasks are collected must not matter
        return task

    def run_in_executor(self, _: Any, func: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do it at once, in this thread: threads have no order."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)
        return future

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whether it runs now."""
        return self._is_running

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note what nobody handled, unless it is of a killed actor."""
        error = context.get("exception")
        handle = context.get("handle")
        actor: Actor = ACTOR.get() if handle is None else handle._context.get(ACTOR, WORLD)
        if not actor.is_dead and not self._is_closed:
            self.unhandled.append(f"{actor.name}: {context.get('message')}: {error!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Note it, too."""
        self.call_exception_handler(context)

    def close(self) -> None:
        """Drop everything that is left, without running it."""
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.clear()

    # -- actors -----------------------------------------------------------------------------------------

    def start_actor[T](self, actor: Actor, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Run `coroutine`, and all that it starts, as `actor`."""
        context = copy_context()
        context.run(ACTOR.set, actor)
        task: Task[T] = self.create_task(coroutine, context=context)
        return task


def current() -> SimLoop:
    """Return the simulated loop that runs now."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, SimLoop):
        raise TypeError("this runs in a simulation only")
    return loop

"""Functions that a service brings along beside its methods: how they are checked, and run within a time."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from aegisipc.sdk.errors import ServiceDefinitionError
from aegisipc.sdk.failures import shown

MAX_SHOWN = 400
"""Characters that are kept of an error's text."""


class HookFailed(Exception):
    """A hook gave no answer. ``reason`` says why, as one line for people: it raised, it took too long, its
    earlier runs hang.
    """

    def __init__(self, reason: str, error: BaseException | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error


class _Answer(NamedTuple):
    value: Any
    error: BaseException | None


class _Run(Protocol):
    """One run of a hook: a task in the event loop, or a thread."""

    @property
    def hangs(self) -> bool:
        """It has not ended, though nobody waits for it any more."""
        ...


class Hook:
    """A function, ``async`` or plain, that is asked something and must answer within ``timeout_s`` seconds.

    Plain functions run in threads of their own, which do not keep the process from ending. A run that does
    not end when its time is up is left alone; while ``max_hanging`` of them hang, no other is begun.
    """

    def __init__(self, function: Callable[..., Any], *, timeout_s: float, max_hanging: int = 1) -> None:
        self.function = function
        self.timeout_s = timeout_s
        self._is_async = is_async(function)
        self._max_hanging = max_hanging
        self._hanging: list[_Run] = []

    async def ask(self, *args: object) -> Any:
        """Run the function and return what it returned.

        Raises:
            HookFailed: it raised, has not answered in time, or was not run because earlier runs hang.
        """
        self._hanging = [run for run in self._hanging if run.hangs]
        if len(self._hanging) >= self._max_hanging:
            raise HookFailed(f"an earlier run, begun over {self.timeout_s:g} s ago, has not ended yet")
        run = _Task(self.function, args) if self._is_async else _Thread(self.function, args)
        try:
            await asyncio.wait([run.answer], timeout=self.timeout_s)
        finally:
            if not run.answer.done():
                run.answer.cancel()
                self._hanging.append(run)
        if not run.answer.done() or run.answer.cancelled():
            raise HookFailed(f"it did not answer within {self.timeout_s:g} s")
        value, error = run.answer.result()
        if error is not None:
            raise HookFailed(f"{type(error).__name__}: {shown(error, MAX_SHOWN)}", error)
        return value


class _Task:
    """A run of an ``async`` function, as a task of its own."""

    def __init__(self, function: Callable[..., Any], args: tuple[object, ...]) -> None:
        self.answer = asyncio.ensure_future(self._run(function, args))

    @staticmethod
    async def _run(function: Callable[..., Any], args: tuple[object, ...]) -> _Answer:
        try:
            return _Answer(await function(*args), None)
        except GeneratorExit:  # this coroutine itself is being thrown away
            raise
        except BaseException as error:  # even an exit or a panic is only a failed answer
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            return _Answer(None, error)

    @property
    def hangs(self) -> bool:
        return not self.answer.done() and not self.answer.get_loop().is_closed()


class _Thread:
    """A run of a plain function, in a thread of its own."""

    def __init__(self, function: Callable[..., Any], args: tuple[object, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[_Answer] = self._loop.create_future()
        run = contextvars.copy_context().run
        self._thread = threading.Thread(
            target=lambda: self._work(lambda: run(function, *args)),
            name=getattr(function, "__name__", "hook"),
            daemon=True,  # one that hangs must not keep the process from ending
        )
        self._thread.start()

    def _work(self, work: Callable[[], Any]) -> None:
        try:
            answer = _Answer(work(), None)
        except BaseException as error:  # noqa: BLE001 - as for a task
            answer = _Answer(None, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, answer)

    def _settle(self, answer: _Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    @property
    def hangs(self) -> bool:
        return self._thread.is_alive()


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether calling it gives something to await."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - not whether it is callable, but how
    )


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's name, for people."""
    return str(getattr(function, "__name__", type(function).__name__))


def check_hook(function: Callable[..., Any], what: str, *, takes: int, shape: str) -> None:
    """Check that `function` can be called with `takes` arguments by position.

    `what` names the decorator and `shape` shows how the function is written, for the error.

    Raises:
        ServiceDefinitionError: it cannot.
    """
    try:
        inspect.signature(function).bind(*[None] * takes)
    except ValueError:  # a builtin that does not tell: there is nothing to check
        return
    except TypeError as error:
        raise ServiceDefinitionError(
            f"cannot use {name_of(function)}() as {what}: {error}; write it as `{shape}`"
        ) from error


def check_plain(function: Callable[..., Any], what: str, *, takes: int, shape: str) -> None:
    """Check as :func:`check_hook`, and that the function does its work when it is called.

    Raises:
        ServiceDefinitionError: it is ``async`` or a generator, or takes other arguments.
    """
    if is_async(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ServiceDefinitionError(
            f"cannot use {name_of(function)}() as {what}: it must do its work at once, in the order of the "
            f"log, and wait for nothing; write it as `{shape}`, without async or yield"
        )
    check_hook(function, what, takes=takes, shape=shape)


def check_seconds(what: str, **given: float) -> None:
    """Check that each of `given` is a time above 0, in seconds.

    Raises:
        ServiceDefinitionError: one is not.
    """
    for name, seconds in given.items():
        given_as: object = seconds
        is_number = isinstance(given_as, int | float) and not isinstance(given_as, bool)
        if not (is_number and 0 < seconds < math.inf):
            raise ServiceDefinitionError(
                f"cannot use {name}={seconds!r} for {what}: it is a number of seconds above 0"
            )

"""A process that dies again and again: it forks, and the fork runs a call and kills itself at one of its
``await``s; others then run all these calls again, to their ends.

    python -m tests.transactions.dying ASYNC_URL MOST

Call 1 dies at the first place, call 2 at the second, and so on, until one has fewer places than that, and
lives. Prints as JSON which were killed, and what two processes were told that ran all of them again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine, Generator
from typing import Any

from sqlalchemy import pool, select
from sqlalchemy.ext.asyncio import create_async_engine

from aegisipc.sdk.context import Context
from aegisipc.sdk.executor import Done
from aegisipc.sdk.service import Service
from tests.transactions.kit import Entry, call, executor

WARM_UP = 0


class Countdown:
    """Dies at the ``at``-th place: each ``await`` that waits has two, as it begins and when it is over."""

    def __init__(self, at: int) -> None:
        self._left = at

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def tasks(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        """A task factory: all tasks count, whoever starts them."""
        return asyncio.Task(self._stepped(work), loop=loop, **options)

    async def _stepped(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await _Stepped(work, self)


class _Stepped:
    def __init__(self, work: Coroutine[Any, Any, Any], countdown: Countdown) -> None:
        self._work = work
        self._countdown = countdown

    def __await__(self) -> Generator[Any, Any, Any]:
        given: Any = None
        raised: BaseException | None = None
        while True:
            try:
                waiting = self._work.send(given) if raised is None else self._work.throw(raised)
            except StopIteration as end:
                return end.value
            given = raised = None
            self._countdown.step()
            try:
                given = yield waiting
            except BaseException as error:  # noqa: BLE001 - passed on
                raised = error
            self._countdown.step()


class Ledger:
    """The service. Made before any fork, and so are SQLAlchemy's caches: forks are to be cheap."""

    def __init__(self, url: str) -> None:
        self.engine = engine = create_async_engine(url, poolclass=pool.NullPool)
        self.service = service = Service("ledger")
        service.on(int, name="Added")(lambda event: None)
        service.snapshot(_taken)
        service.restore(lambda state: None)

        @service.method(effect="idempotent")
        async def add(account: str, ctx: Context) -> int:
            ctx.emit(int(account))
            async with ctx.transaction(engine) as session:
                session.add(Entry(account=account, amount=1))
                await session.flush()
                mine = (await session.execute(select(Entry.id).where(Entry.account == account))).scalar_one()
            await asyncio.sleep(0)
            return mine

    async def run(self, numbers: list[int]) -> list[Any]:
        """Run these calls, each in a new executor, as a new instance would; return their outcomes."""
        told = []
        for number in numbers:
            own = executor(self.service)
            done: Done = await own.execute(call("add", str(number), number=number), 1)
            own.close()
            told.append([done.mark.name, (done.body or b"").hex(), [event.hex() for event in done.emitted]])
        return told


def _taken() -> int:
    return 0


def fork(ledger: Ledger, numbers: list[int], at: int = 0) -> Any:
    """Run the calls in a process of its own that dies at that place; return their outcomes if it lived."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with asyncio.Runner() as runner:
                runner.get_loop().set_task_factory(Countdown(at).tasks)
                os.write(writing, json.dumps(runner.run(ledger.run(numbers))).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.waitstatus_to_exitcode(status) == 0, "the run failed"
    return json.loads(said)


def main(url: str, most: int) -> None:
    ledger = Ledger(url)
    asyncio.run(ledger.run([WARM_UP]))
    killed: list[int] = []
    lived: Any = None
    while lived is None and len(killed) < most:
        place = len(killed) + 1
        lived = fork(ledger, [place], place)
        if lived is None:
            killed.append(place)
    runs = [fork(ledger, killed), fork(ledger, killed)]
    sys.stdout.write("\n" + json.dumps({"killed": killed, "lived": lived, "runs": runs}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

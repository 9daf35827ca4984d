"""Many seeds, run by a few processes side by side.

Each worker is a fresh interpreter: nothing of this process gets in, and each has its own hash seed, of which
no run may know anything. A worker runs the seeds of a chunk one after the other, and tells of each; when its
pipe is closed, because the run is over or this process died, it ends.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from aegisipc.chaos.sim.plan import expand
from aegisipc.chaos.sim.running import Brief, Runner
from aegisipc.eventstore.errors import AegisError

CHUNK: Final = 16
"""How many seeds a worker is given at a time."""

SILENCE_S: Final = 300.0
"""After so long without a word from any worker, one hangs: a run takes a fraction of a second."""

_END_WITHIN_S: Final = 5.0


class WorkerLost(AegisError):
    """A process that ran seeds died, or hangs. Fields: ``seed`` (the one it was at), ``exitcode``."""

    code = "worker_lost"


@dataclass(slots=True)
class Summary:
    """What came of many seeds. ``events`` and ``steps`` are sums; ``trace`` is a digest of all traces in the
    order of their seeds: equal for equal seeds, whoever ran them.
    """

    first_seed: int
    schedules: int = 0
    events: int = 0
    steps: int = 0
    seconds: float = 0.0
    failures: list[Brief] = field(default_factory=list)
    trace: str = ""

    @property
    def per_minute(self) -> int:
        """Schedules per minute."""
        return round(self.schedules * 60 / self.seconds) if self.seconds else 0

    def to_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "schedules": self.schedules,
            "events": self.events,
            "violations": len(self.failures),
            "per_minute": self.per_minute,
            "first_seed": self.first_seed,
            "seconds": round(self.seconds, 3),
            "trace": self.trace,
            "failures": [failure.to_plain() for failure in self.failures],
        }


type Told = Callable[[Summary], None]


def run_many(
    first_seed: int,
    seeds: int,
    *,
    jobs: int | None = None,
    budget_s: float | None = None,
    told: Told | None = None,
) -> Summary:
    """Run the plans of `seeds` seeds from `first_seed` on, in `jobs` processes (default: one for each core).

    After `budget_s` seconds no more are begun: those that were are the first ones, without a gap. `told`
    hears of the summary so far after each.

    Raises:
        WorkerLost: a process died or hangs; the error names the seed.
    """
    jobs = min(jobs or usable_cores(), max(1, -(-seeds // CHUNK)))
    began_s = time.monotonic()
    summary = Summary(first_seed)
    traces: dict[int, str] = {}
    todo = _Chunks(first_seed, seeds, None if budget_s is None else began_s + budget_s)
    with closing(_Pool(jobs).run(todo)) as briefs:
        for brief in briefs:
            traces[brief.seed] = brief.trace
            summary.schedules += 1
            summary.events += brief.events
            summary.steps += brief.steps
            summary.seconds = time.monotonic() - began_s
            if not brief.holds:
                summary.failures.append(brief)
            if told is not None:
                told(summary)
    summary.seconds = time.monotonic() - began_s
    summary.failures.sort(key=lambda brief: brief.seed)
    digest = hashlib.sha256("".join(traces[seed] for seed in sorted(traces)).encode())
    summary.trace = digest.hexdigest()[:16]
    return summary


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Chunks:
    """What is left to be run; nothing more after a time."""

    def __init__(self, first: int, count: int, until_s: float | None) -> None:
        self._next, self._end, self._until_s = first, first + count, until_s

    def take(self) -> tuple[int, int] | None:
        """Return the first seed of the next chunk, and how many they are."""
        is_late = self._until_s is not None and time.monotonic() >= self._until_s
        if self._next >= self._end or is_late:
            return None
        first, self._next = self._next, min(self._end, self._next + CHUNK)
        return first, self._next - first


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    at: int = 0
    """The seed that it is at."""
    left: int = 0

    def give(self, chunk: tuple[int, int]) -> None:
        self.at, self.left = chunk
        self.pipe.send(chunk)


class _Pool:
    """Some workers, from the first chunk to the last."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._workers: dict[Connection, _Worker] = {}

    def run(self, todo: _Chunks) -> Generator[Brief]:
        """Iterate over what the workers tell, as it comes."""
        try:
            for _ in range(self._jobs):
                chunk = todo.take()
                if chunk is not None:
                    self._start().give(chunk)
            while any(worker.left for worker in self._workers.values()):
                yield from self._heard(todo)
        finally:
            self._end()

    def _start(self) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        # Ctrl-C reaches the whole group of processes; this one ends the others.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker = self._workers[ours] = _Worker(process, ours)
        return worker

    def _heard(self, todo: _Chunks) -> Iterator[Brief]:
        busy = [pipe for pipe, worker in self._workers.items() if worker.left]
        ready = wait(busy, SILENCE_S)
        if not ready:
            raise self._lost(self._workers[busy[0]], f"said nothing for {SILENCE_S:g} s")
        for pipe in ready:
            worker = self._workers[pipe]  # type: ignore[index]  # it is one of those that were given
            try:
                brief: Brief = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join(_END_WITHIN_S)
                raise self._lost(worker, f"died (exit code {worker.process.exitcode})") from None
            worker.at, worker.left = brief.seed + 1, worker.left - 1
            if not worker.left:
                chunk = todo.take()
                if chunk is not None:
                    worker.give(chunk)
            yield brief

    @staticmethod
    def _lost(worker: _Worker, what: str) -> WorkerLost:
        return WorkerLost(
            f"cannot go on: the process that ran seed {worker.at} {what}; run that one alone: "
            f"aegis chaos sim --seed {worker.at}",
            seed=worker.at,
            exitcode=worker.process.exitcode,
        )

    def _end(self) -> None:
        for worker in self._workers.values():
            worker.pipe.close()
            if worker.left:
                worker.process.kill()  # it is in the middle of a run that nobody waits for
        for worker in self._workers.values():
            worker.process.join(_END_WITHIN_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()


def _work(pipe: Connection) -> None:
    """Run chunks until the pipe is closed."""
    with suppress(EOFError, OSError), Runner() as runner:  # then nobody waits for it any more
        while True:
            first, count = pipe.recv()
            for seed in range(first, first + count):
                pipe.send(runner.brief(expand(seed)))

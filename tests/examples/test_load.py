"""The open loop of `aegis bench failover`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aegisipc.sdk.errors import CallInDoubt, CallTimeout
from bench.load import Load
from bench.relay import ID_BYTES, Relayed, Runs, started
from tests.support.waiting import eventually


class Callee:
    """Answers when ``open`` is set, with the epoch that holds then."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.epoch = 1
        self.numbers: list[int] = []

    async def __call__(self, number: int) -> Relayed:
        self.numbers.append(number)
        await self.open.wait()
        return Relayed(symbol="A", instance=f"i-{self.epoch}", epoch=self.epoch)


async def test_calls_go_out_while_nobody_answers_and_their_latency_counts_from_when_they_were_due() -> None:
    callee, stop = Callee(), asyncio.Event()
    load = Load(callee, 2000)
    pouring = asyncio.ensure_future(load.pour(stop))
    await eventually(lambda: load.made >= 50, within_s=10)
    assert load.latest is None
    callee.open.set()
    assert await load.reply_after(0, 10) == 1
    stop.set()
    await pouring
    await load.settled(10)
    assert callee.numbers == list(range(load.made))
    assert len(load.latencies_s) == load.made
    assert max(load.latencies_s) >= 49 / 2000  # the first call waited at least until the fiftieth was due
    assert load.made <= load.poured_s * load.rate


async def test_the_first_reply_of_a_later_epoch_is_waited_for() -> None:
    callee, stop = Callee(), asyncio.Event()
    callee.open.set()
    load = Load(callee, 1000)
    pouring = asyncio.ensure_future(load.pour(stop))
    await load.reply_after(0, 10)
    with pytest.raises(TimeoutError):
        await load.reply_after(1, 0.01)
    callee.epoch = 3
    assert await load.reply_after(1, 10) == 3
    assert load.latest is not None
    assert (load.latest.instance, sorted(load.first_reply_s)) == ("i-3", [1, 3])
    stop.set()
    await pouring
    await load.settled(10)


async def test_errors_are_counted_by_code_and_doubts_apart() -> None:
    async def call(number: int) -> Relayed:
        error = CallInDoubt if number % 2 else CallTimeout
        raise error("cannot say", call_id="x")

    stop = asyncio.Event()
    load = Load(call, 1000)
    pouring = asyncio.ensure_future(load.pour(stop))
    await eventually(lambda: load.made >= 4, within_s=10)
    stop.set()
    await pouring
    await load.settled(10)
    assert load.in_doubt == load.made // 2
    assert load.errors == {"call_timeout": load.made - load.in_doubt}


async def test_calls_that_never_end_are_abandoned() -> None:
    stop = asyncio.Event()
    load = Load(Callee(), 1000)
    pouring = asyncio.ensure_future(load.pour(stop))
    await eventually(lambda: load.made, within_s=10)
    stop.set()
    await pouring
    with pytest.raises(TimeoutError):
        await load.settled(0.01)
    await load.abandon()
    await load.settled(0.01)


def test_what_was_begun_is_counted_from_the_files_of_all_instances(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "never-started"]
    for path, numbers in zip(paths, ((1, 2, 3), (3, 4)), strict=False):
        runs = Runs()
        runs.open(path)
        for number in numbers:
            runs.add(bytes([number]) * ID_BYTES)
    with paths[1].open("ab") as file:
        file.write(b"torn")  # the machine died
    seen, again = started(paths)
    assert (len(seen), again) == (4, 1)

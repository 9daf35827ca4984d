"""Histories are on the disk before anybody goes on, and are read back whole."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aegisipc.chaos.history import Deed, Effect, Fault, Operation, Phase, Stage, from_line, to_line
from aegisipc.chaos.real.recording import Ledger, Recorder, began_in, entry_of, gathered, line_of, now_ns


def _operation(number: int, at_ns: int = 0) -> Operation:
    return Operation(number, Stage.INVOKE, Deed.CALL, "c1", at_ns or now_ns(), target="book.add")


@pytest.mark.parametrize(
    "entry",
    [
        Operation(1, Stage.INVOKE, Deed.CALL, "c", 5),
        Operation(
            1, Stage.OK, Deed.ATTACH, "c", 5, "a.b", "pure", "r", "k", 1.5, "id", {"seen": 0}, "e", "m"
        ),
        Operation(1, Stage.OK, Deed.CALL, "c", 5, value=0, timeout_s=0.0),
        Operation(1, Stage.OK, Deed.CALL, "c", 5, value=False),
        Operation(1, Stage.OK, Deed.CALL, "c", 5, value=""),
        Effect(1, Phase.BEGAN, "x", "i", "l", 0, 7),
        Effect(1, Phase.ENDED, "x", "i", "l", 3, 7, "a.b", "once", "r"),
        Fault("kill", "i1", 1, 2),
    ],
)
def test_a_line_is_the_one_that_histories_have(entry: Operation | Effect | Fault) -> None:
    assert json.loads(line_of(entry)) == json.loads(to_line(entry))
    assert from_line(line_of(entry)) == entry_of(to_line(entry)) == entry


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"kind":"effect"}', b'{"kind":"operation","stage":"?"}', b"{}"]
)
def test_a_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"EOF|cannot read|not a valid"):
        entry_of(line)


@pytest.mark.parametrize(
    ("instance", "epoch", "call_id", "found"),
    [
        ("i1", 3, "x", 5),
        ("i1", 0, "x", 5),
        ("i1", 2, "x", None),
        ("i2", 3, "x", None),
        ("i1", 3, "y", None),
    ],
)
def test_the_ledger_tells_who_began_a_call(
    instance: str, epoch: int, call_id: str, found: int | None, tmp_path: Path
) -> None:
    Ledger(tmp_path / "i1.1.1.history", "i1", "i1.1.1")  # of a life in which nothing was begun
    ledger = Ledger(tmp_path / "i1.2.2.history", "i1", "i1.2.2")
    for number, began in ((4, "w"), (5, "x")):
        ledger.write(
            number, Phase.BEGAN, call_id=began, epoch=3, target="book.place", effect="once", resource="g1-1"
        )
    assert began_in(tmp_path, call_id, instance=instance, epoch=epoch) == found


async def test_what_is_kept_is_in_the_file_when_that_returns(tmp_path: Path) -> None:
    async with Recorder(tmp_path / "c1.history") as recorder:
        await recorder.keep(_operation(1))
        assert [o.number for o in gathered(tmp_path).operations] == [1]


async def test_those_who_wait_together_share_a_sync(tmp_path: Path) -> None:
    async with Recorder(tmp_path / "c1.history") as recorder:
        await asyncio.gather(*(recorder.keep(_operation(number)) for number in range(500)))
        assert recorder.syncs < 50
    assert len(gathered(tmp_path).operations) == 500


async def test_what_is_only_noted_is_there_when_the_file_is_closed(tmp_path: Path) -> None:
    async with Recorder(tmp_path / "c1.history") as recorder:
        recorder.note(_operation(1))
    assert len(gathered(tmp_path).operations) == 1


async def test_a_history_that_cannot_be_written_stops_who_writes_it(tmp_path: Path) -> None:
    recorder = Recorder(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        await recorder.keep(_operation(1))
    with pytest.raises(OSError, match="No space left"):
        await recorder.close()


def test_histories_of_all_processes_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "i1.history", "i1", "i1.1")
    ledger.write(
        5, Phase.BEGAN, call_id="x", epoch=1, target="book.add", effect="idempotent", resource="g1-1"
    )
    for name, number, at_ns in (("a", 1, 30), ("b", 2, 10)):
        with (tmp_path / f"{name}.history").open("wb") as file:
            file.write(to_line(_operation(number, at_ns)) + b'{"kind":"operat')  # killed while it wrote
    evidence = gathered(tmp_path, [Fault("kill", "i1", 20, 20)])
    assert [o.number for o in evidence.operations] == [2, 1]
    assert [(e.number, e.instance, e.phase) for e in evidence.effects] == [(5, "i1", Phase.BEGAN)]
    assert len(evidence.faults) == 1

"""``aegis dlq`` and ``aegis calls``: what an operator does about calls that were given up, or should be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aegisipc.router.cli.main import main
from aegisipc.sdk import CallCancelled, DeadLettered, connect
from tests.cli.programs import SERVICES, Aegis, Ended, Program, start_dev, until

NOBODYS = "019a9e6e-8d5b-7000-8000-3b9aca000001"


class Exchange:
    """A system with one router, in which the venue comes and goes; in a group, or in a pool."""

    def __init__(self, aegis: Aegis, root: Path, url: str, *, pool: bool) -> None:
        self.aegis, self.root, self.url = aegis.at(url), root, url
        self.resource = None if pool else "acc"
        self.served: Program | None = None

    def be_served(self) -> None:
        if self.served is None or self.served.popen.poll() is not None:
            self.serve()

    def serve(self) -> None:
        words = [] if self.resource is None else ["--resource", self.resource]
        self.served = self.aegis.start("serve", "venue:venue", "--instance", "venue-1", *words)
        self.served.ready()

    def close(self) -> None:
        (self.root / "closed").touch()

    def open(self) -> None:
        (self.root / "closed").unlink()

    @property
    def trace(self) -> list[str]:
        path = self.root / "trace"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def submit(self, method: str, number: int) -> str:
        return self.submit_all(method, [number])[0]

    def submit_all(self, method: str, numbers: Sequence[int]) -> list[str]:
        async def submit() -> list[str]:
            async with connect(self.url, name="trader") as client:
                resource = self.resource
                made = [await client.submit(method, n, resource_id=resource, timeout=600.0) for n in numbers]
                return [pending.call_id for pending in made]

        return asyncio.run(submit())

    def outcome(self, call_id: str) -> Any:
        async def outcome() -> Any:
            async with connect(self.url, name="reader") as client:
                try:
                    return await client.attach(call_id).result(timeout=20.0)
                except (DeadLettered, CallCancelled) as error:
                    return type(error)

        return asyncio.run(outcome())

    def dlq(self, *words: str) -> Ended:
        return self.aegis("dlq", *words, "--json")

    def listed(self, *options: str) -> list[dict[str, Any]]:
        letters: list[dict[str, Any]] = self.dlq("list", *options).json["dead_letters"]
        return letters

    def given_up(self, *numbers: int) -> list[str]:
        """Let orders fail until they are dead letters."""
        self.close()
        calls = self.submit_all("venue.place", numbers)
        until(lambda: len(self.listed()) == len(numbers), "they are given up")
        return calls

    def story(self, call_id: str) -> dict[str, Any]:
        told: dict[str, Any] = self.aegis("calls", "show", call_id, "--json").json
        return told


@pytest.fixture(scope="module", params=["group", "pool"])
def exchange_of_module(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exchange]:
    root = tmp_path_factory.mktemp("exchange")
    runner = Aegis(environment | {"TRACE": str(root / "trace")}, SERVICES, [])
    try:
        _, told = start_dev(runner, root / "data", "--port", "0")
        yield Exchange(runner, root, told["url"], pool=request.param == "pool")
    finally:
        runner.kill_all()


@pytest.fixture
def exchange(exchange_of_module: Exchange) -> Exchange:
    """The exchange, open, served, and without dead letters: each test ends those that it makes."""
    room = exchange_of_module
    (room.root / "closed").unlink(missing_ok=True)
    room.be_served()
    return room


# -- dead letters -----------------------------------------------------------------------------------------


def test_a_call_whose_last_attempt_failed_is_listed_shown_and_run_again_under_its_own_id(
    exchange: Exchange,
) -> None:
    (call_id,) = exchange.given_up(7)
    assert exchange.outcome(call_id) is DeadLettered
    (letter,) = exchange.listed("--service", "venue", "--method", "place", "--because", "attempts")
    assert (letter["call_id"], letter["attempts"], letter["client"]) == (call_id, 2, "trader")
    assert letter["error"]["code"] == "closed"
    assert any("venue.py" in line for line in letter["stack"])
    table = exchange.aegis("dlq", "list")
    assert "the venue is closed" in table.out
    shown = exchange.aegis("dlq", "show", call_id)
    assert "attempt 1 failed (closed: the venue is closed)" in shown.out
    assert "dead lettered" in shown.out

    exchange.open()
    done = exchange.dlq("requeue", call_id, "--author", "ann", "--reason", "venue is back")
    assert done.code == 0, done.out
    assert done.json["requeued"][0]["call_id"] == call_id
    assert exchange.outcome(call_id) == "placed 7"
    assert exchange.listed() == []
    assert [line for line in exchange.trace if line.startswith("place 7 ")] == [f"place 7 {call_id}"] * 3
    story = exchange.story(call_id)
    assert story["state"] == "succeeded"
    what = [step["what"] for step in story["steps"] if step["counts"]]
    assert what.count("retry_scheduled") == 1
    assert what.index("dead_lettered") < what.index("requeued") < what.index("succeeded")
    (requeued,) = [step for step in story["steps"] if step["what"] == "requeued"]
    assert (requeued["says"]["author"], requeued["says"]["reason"]) == ("ann", "venue is back")

    again = exchange.dlq("requeue", call_id)
    assert (again.code, again.error["code"]) == (1, "not_dead_lettered")
    assert again.error["details"]["state"] == "succeeded"


def test_dead_letters_are_discarded_by_filter_and_requeued_all_together(exchange: Exchange) -> None:
    first, *others = exchange.given_up(1, 2, 3)
    one = exchange.dlq("discard", first, "--reason", "too old")
    assert one.code == 0, one.out
    assert exchange.story(first)["state"] == "discarded"
    assert exchange.outcome(first) is DeadLettered
    gone = exchange.dlq("requeue", first)
    assert (gone.code, gone.error["code"]) == (1, "not_dead_lettered")

    none = exchange.dlq("requeue", "--service", "venue", "--error", "no_such_error", "--all")
    assert (none.code, none.json["requeued"]) == (0, [])
    exchange.open()
    done = exchange.dlq("requeue", "--service", "venue", "--error", "closed", "--all")
    assert done.code == 0, done.out
    assert sorted(each["call_id"] for each in done.json["requeued"]) == sorted(others)
    assert [exchange.outcome(call_id) for call_id in others] == ["placed 2", "placed 3"]
    assert exchange.aegis("dlq", "list").out.strip() == "there are no dead letters"


def test_an_unknown_call_is_no_dead_letter(exchange: Exchange) -> None:
    for verb in ("requeue", "discard", "show"):
        done = exchange.dlq(verb, NOBODYS)
        assert (done.code, done.error["code"]) == (1, "unknown_call"), verb


def test_without_an_instance_nobody_can_record_a_requeue(exchange: Exchange) -> None:
    (call_id,) = exchange.given_up(1)
    assert exchange.served is not None
    exchange.served.stop()
    done = exchange.dlq("requeue", call_id, "--timeout", "1")
    assert (done.code, done.error["code"]) == (1, "no_holder")
    assert [letter["call_id"] for letter in exchange.listed()] == [call_id]
    exchange.open()
    exchange.serve()
    assert exchange.dlq("requeue", call_id).code == 0
    assert exchange.outcome(call_id) == "placed 1"


# -- cancelling -------------------------------------------------------------------------------------------


def test_a_call_that_runs_is_cancelled_and_says_that_it_had_started(exchange: Exchange) -> None:
    (exchange.root / "hold-1").touch()
    call_id = exchange.submit("venue.wait", 1)
    until(lambda: "wait 1" in exchange.trace, "it runs")
    done = exchange.aegis("calls", "cancel", call_id, "--author", "ann", "--reason", "typo", "--json")
    assert done.code == 0, done.out
    assert done.json["state"] == "cancelled"
    assert done.json["outcome"]["says"]["details"]["started"] is True
    assert exchange.outcome(call_id) is CallCancelled
    again = exchange.aegis("calls", "cancel", call_id, "--json")
    assert (again.code, again.error["code"]) == (1, "call_finished")


def test_a_call_that_was_cancelled_while_its_service_was_down_never_runs(exchange: Exchange) -> None:
    assert exchange.served is not None
    exchange.served.kill()
    call_id = exchange.submit("venue.wait", 2)
    late = exchange.aegis("calls", "cancel", call_id, "--timeout", "0.5", "--json")
    assert (late.code, late.error["code"]) == (1, "not_in_time")
    exchange.serve()
    assert exchange.outcome(call_id) is CallCancelled
    assert "wait 2" not in exchange.trace
    story = exchange.story(call_id)
    assert story["outcome"]["says"]["details"]["started"] is False


def test_a_finished_call_and_an_unknown_one_are_not_cancelled(exchange: Exchange) -> None:
    call_id = exchange.submit("venue.wait", 3)
    assert exchange.outcome(call_id) == "waited 3"
    done = exchange.aegis("calls", "cancel", call_id)
    assert done.code == 1
    assert "it is over (succeeded" in done.err
    unknown = exchange.aegis("calls", "cancel", NOBODYS, "--json")
    assert (unknown.code, unknown.error["code"]) == (1, "unknown_call")


# -- bad usage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dlq"], "required"),
        (["dlq", "list", "--limit", "0"], "--limit"),
        (["dlq", "list", "--because", "weather"], "invalid choice"),
        (["dlq", "show", "x"], "call id"),
        (["dlq", "requeue"], "name calls, or add --all"),
        (["dlq", "requeue", "--service", "venue"], "add --all to these options"),
        (["dlq", "requeue", NOBODYS, "--all"], "not both"),
        (["dlq", "requeue", NOBODYS, "--service", "venue"], "not both"),
        (["dlq", "requeue", "x"], "call id"),
        (["dlq", "requeue", NOBODYS, "--deadline", "0"], "--deadline"),
        (["dlq", "discard", NOBODYS, "--reason", "x" * 501], "500"),
        (["calls", "cancel"], "CALL"),
        (["calls", "cancel", "x"], "call id"),
        (["calls", "cancel", NOBODYS, "--timeout", "0"], "number of seconds"),
    ],
    ids=" ".join,
)
def test_bad_usage_says_what_is_wrong(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err

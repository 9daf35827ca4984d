"""``aegis doubt``: what an operator sees of calls of which nobody knows whether they ran, and ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import create_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.cli.main import main
from aegisipc.sdk import connect
from tests.cli.programs import SERVICES, Aegis, Ended, Program, start_dev, until

NOBODYS = "019a9e6e-8d5b-7000-8000-3b9aca000001"
DOUBTS = 4
RESOURCES = [word for number in range(1, DOUBTS + 1) for word in ("--resource", f"acc_{number}")]


class Office:
    """A system with one router, in which instances come and go."""

    def __init__(self, aegis: Aegis, root: Path, url: str) -> None:
        self.aegis, self.root, self.url = aegis.at(url), root, url
        self.calls: dict[int, str] = {}
        """The ids of the orders, by their numbers."""

    def serve(self, instance: str, *options: str, service: str = "desk:desk") -> Program:
        program = self.aegis.start("serve", service, "--instance", instance, *options)
        program.ready()
        return program

    def submit(
        self, method: str, *arguments: object, resource: str | None = None, client: str = "cli"
    ) -> str:
        async def submit() -> str:
            async with connect(self.url, name=client) as connected:
                pending = await connected.submit(method, *arguments, resource_id=resource, timeout=600.0)
                return pending.call_id

        return asyncio.run(submit())

    def hold(self, what: object) -> Path:
        path = self.root / f"hold-{what}"
        path.touch()
        return path

    def order(self, number: int, resource: str) -> None:
        """Submit an order that begins and does not end."""
        self.hold(number)
        self.calls[number] = self.submit("desk.order", number, resource=resource, client=f"trader-{number}")
        trace = self.root / "trace"
        until(lambda: trace.exists() and f"order {number} " in trace.read_text(), f"order {number} has begun")

    def doubt(self, *words: str, **env: str) -> Ended:
        return self.aegis("doubt", *words, **env)

    def listed(self, *options: str) -> dict[str, Any]:
        told: dict[str, Any] = self.doubt("list", "--json", *options).json
        return told

    def story(self, call_id: str) -> dict[str, Any]:
        told: dict[str, Any] = self.doubt("show", call_id, "--json").json
        return told

    def until_in_doubt(self, call_id: str) -> None:
        until(lambda: self.story(call_id)["state"] == "in_doubt", f"{call_id} is in doubt")

    def answer(self, call_id: str) -> Any:
        done = self.aegis("call", "--attach", call_id, "--timeout", "20", "--json")
        assert done.code == 0, done.err
        return done.json["result"]


@pytest.fixture(scope="module")
def office(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """An office in which ``a`` began four orders and died, and ``b`` holds the pen."""
    root = tmp_path_factory.mktemp("office")
    runner = Aegis(environment | {"TRACE": str(root / "trace")}, SERVICES, [])
    try:
        _, told = start_dev(runner, root / "data", "--port", "0")
        office = Office(runner, root, told["url"])
        first = office.serve("a", "--group", "g1", *RESOURCES)
        for number in range(1, DOUBTS + 1):
            office.order(number, f"acc_{number}")
        office.serve("b", "--group", "g1", *RESOURCES)
        first.kill()
        until(lambda: len(office.listed("--group", "g1")["doubts"]) == DOUBTS, "the orders are in doubt")
        yield office
    finally:
        runner.kill_all()


# -- list --------------------------------------------------------------------------------------------------
# The tests of this file end doubts one by one; order 1 is left in doubt.


def test_doubts_are_listed_with_who_claimed_them(office: Office) -> None:
    done = office.doubt("list", "--service", "desk")
    header, *rows = [line.split() for line in done.out.splitlines()]
    assert header == ["CALL", "METHOD", "RESOURCE", "CLIENT", "CLAIMED", "BY", "EPOCH", "SINCE"]
    (row,) = [row for row in rows if row[0] == office.calls[1]]
    assert row[1:6] == ["desk.order", "acc_1", "trader-1", "a", "1"]
    assert row[-1] == "ago"
    assert (done.code, done.err) == (0, "")


def test_programs_are_told_everything_about_doubts(office: Office) -> None:
    told = office.listed()
    assert told["more"] == 0
    (doubt,) = [doubt for doubt in told["doubts"] if doubt["call_id"] == office.calls[1]]
    story = office.story(office.calls[1])
    assert doubt["accepted_seq"] == story["accepted_seq"]
    assert (doubt["service"], doubt["group"], doubt["method"]) == ("desk", "g1", "order")
    assert (doubt["claimed_by"], doubt["claimed_epoch"]) == ("a", 1)


def test_a_list_that_is_cut_says_how_many_are_left_out(office: Office) -> None:
    everything = office.listed()["doubts"]
    told = office.listed("--limit", "1")
    assert told == {"doubts": everything[:1], "more": len(everything) - 1}
    assert f"{len(everything) - 1} more (--limit" in office.doubt("list", "--limit", "1").out


def test_nothing_in_doubt_is_said_so(office: Office) -> None:
    assert office.doubt("list", "--group", "other").out == "no call is in doubt\n"
    assert office.listed("--group", "other") == {"doubts": [], "more": 0}


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--service", "nobody"], "unknown_service"), (["--service", "desk", "--group", "g"], "unknown_group")],
)
def test_who_asks_for_the_doubts_of_nobody_is_told_so(options: list[str], code: str, office: Office) -> None:
    done = office.doubt("list", *options, "--json")
    assert (done.code, done.error["code"]) == (1, code)
    assert done.err.startswith("error: cannot ")


@pytest.mark.parametrize("options", [["--service", "a.b"], ["--group", "*"]])
def test_a_filter_that_cannot_be_a_name_is_an_error(options: list[str], office: Office) -> None:
    done = office.doubt("list", *options, "--json")
    assert (done.code, done.error["code"]) == (1, "invalid_name")


def test_without_a_router_there_is_no_list(office: Office) -> None:
    async def make_log() -> None:
        async with await Connection.open(ConnectOptions(office.url)) as connection:
            await create_log(connection, subjects_of("silent"))

    asyncio.run(make_log())
    done = office.doubt("list", "--json", "--namespace", "silent")
    assert (done.code, done.error["code"]) == (1, "no_router")
    assert "start one with aegis router" in done.err


# -- show --------------------------------------------------------------------------------------------------


def test_the_history_of_a_call_in_doubt_reads_like_a_story(office: Office) -> None:
    done = office.doubt("show", office.calls[1])
    head, timeline, reasons = done.out.split("\n\n")
    assert f"call       {office.calls[1]}" in head
    assert "method     desk.order (group g1, resource acc_1)\narguments  1\nclient     trader-1\n" in head
    assert "state      in doubt" in head
    header, *lines = timeline.splitlines()
    assert header.split() == ["TIME", "SEQ", "WRITER", "EPOCH", "WHAT"]
    ends = ["  accepted", "  claimed", "its connection ended", "found by b"]
    told = [next(index for index, line in enumerate(lines) if end in line) for end in ends]
    assert told == sorted(told)
    assert "dev" in lines[-2]
    assert "b holds the pen as epoch 2 (failover): " in lines[-2]
    assert lines[-1].split()[2:4] == ["b", "2"]
    assert "a claimed it in epoch 1 and lost the pen" in lines[-1]
    assert "a gets the pen as epoch 1 (first), because: first instance of the group\n" in reasons
    assert (
        "b gets the pen as epoch 2 (failover), because: holder 'a' is suspected: its connection " in reasons
    )
    assert "former holder: a, epoch 1, " in reasons
    assert "nothing counts that is written in epoch 1" in reasons.splitlines()[-1]


def test_programs_are_told_the_whole_history(office: Office) -> None:
    told = office.story(office.calls[1])
    assert (told["call_id"], told["state"]) == (office.calls[1], "in_doubt")
    assert told["arguments"] == {"positional": [1], "named": {}}
    assert (told["claimed_by"], told["claimed_epoch"]) == ("a", 1)
    assert (told["holder"], told["epoch"]) == ("b", 2)
    assert told["outcome"]["says"]["code"] == "in_doubt"
    steps = told["steps"]
    assert [steps[0]["what"], steps[1]["what"], steps[-1]["what"]] == ["accepted", "claimed", "in_doubt"]
    assert [step["seq"] for step in steps] == sorted(step["seq"] for step in steps)
    promoted = next(step for step in steps if step["what"] == "promoted")
    assert promoted["data"]["kind"] == "failover"


def test_a_call_that_was_never_in_doubt_has_a_history_too(office: Office) -> None:
    call_id = office.submit("desk.book", 5, resource="acc_4")
    office.answer(call_id)
    assert 'succeeded: "b" (and 1 event)' in office.doubt("show", call_id).out
    story = office.story(call_id)
    assert story["outcome"] == {"mark": "succeeded", "says": "b"}
    assert story["steps"][-1]["emitted"] == [["Booked", {"amount": 5}]]


# -- resolve -----------------------------------------------------------------------------------------------


def test_a_call_that_was_executed_gets_the_operators_result_and_that_is_recorded(office: Office) -> None:
    call_id = office.calls[2]
    done = office.doubt(
        "resolve", call_id, "--executed", '"2 by hand"', "--author", "ann", "--reason", "the venue says so"
    )
    assert done.code == 0, done.err
    assert office.answer(call_id) == "2 by hand"
    executed, succeeded = office.story(call_id)["steps"][-2:]
    assert (executed["what"], succeeded["what"], succeeded["says"]) == ("executed", "succeeded", "2 by hand")
    assert executed["says"] == {
        "source": "operator",
        "author": "ann",
        "reason": "the venue says so",
        "doubt_seq": 0,
    }
    assert done.out == (
        f"call {call_id} (desk.order) is in doubt no more\n"
        f"recorded at sequence {executed['seq']} by b: executed, says ann (operator): the venue says so\n"
        f'recorded at sequence {executed["seq"]} by b: succeeded: "2 by hand"\n'
    )


def test_a_doubt_ends_only_once(office: Office) -> None:
    call_id = office.calls[2]
    if office.story(call_id)["state"] == "in_doubt":
        office.doubt("resolve", call_id, "--executed", '"2 by hand"', "--author", "ann")
    for how in (["--not-executed"], ["--executed", '"2 by hand"', "--author", "ann"]):
        again = office.doubt("resolve", call_id, *how, "--json")
        assert (again.code, again.error["code"]) == (1, "not_in_doubt")
        assert again.error["details"]["state"] == "succeeded"
        assert again.error["details"]["outcome"] == {"mark": "succeeded", "says": "2 by hand"}
        assert "the doubt ended at sequence " in again.err
        assert "says ann (operator)" in again.err


def test_a_call_that_was_not_executed_runs_with_the_present_holder(office: Office) -> None:
    call_id = office.calls[3]
    office.hold(3).unlink()
    done = office.doubt("resolve", call_id, "--not-executed", "--json")
    assert done.code == 0, done.err
    assert done.json["executed"] is False
    assert "@" in done.json["author"]
    assert office.answer(call_id) == "3 by b"
    resolved = next(s for s in office.story(call_id)["steps"] if s["seq"] == done.json["seq"])
    assert (resolved["what"], resolved["counts"]) == ("not_executed", True)


def test_a_result_that_is_not_of_the_methods_type_is_refused_with_the_fault(office: Office) -> None:
    done = office.doubt("resolve", office.calls[1], "--executed", '{"filled": 5}', "--json")
    assert (done.code, done.error["code"]) == (1, "invalid_result")
    assert done.error["details"]["method"] == "order"
    assert done.error["details"]["errors"][0]["field"] == "result"
    assert "result: Input should be a valid string" in done.err
    assert office.story(office.calls[1])["state"] == "in_doubt"


def test_a_call_that_is_not_in_doubt_is_left_alone(office: Office) -> None:
    call_id = office.submit("desk.book", 5, resource="acc_4")
    office.answer(call_id)
    done = office.doubt("resolve", call_id, "--not-executed", "--json")
    assert (done.code, done.error["code"]) == (1, "not_in_doubt")
    assert done.error["details"] == {
        "call_id": call_id,
        "state": "succeeded",
        "outcome": {"mark": "succeeded", "says": "b"},
    }
    assert 'it is not in doubt, but succeeded (succeeded: "b"' in done.err


def test_a_call_that_runs_is_not_in_doubt(office: Office) -> None:
    office.order(7, "acc_4")
    try:
        done = office.doubt("resolve", office.calls[7], "--executed", '"7"', "--json")
    finally:
        office.hold(7).unlink()
    assert (done.code, done.error["code"], done.error["details"]["state"]) == (1, "not_in_doubt", "started")
    assert office.answer(office.calls[7]) == "7 by b"


@pytest.mark.parametrize("words", [["show", NOBODYS], ["resolve", NOBODYS, "--not-executed"]])
def test_a_call_that_nobody_knows_is_an_error(words: list[str], office: Office) -> None:
    done = office.doubt(*words, "--json")
    assert (done.code, done.error["code"]) == (1, "unknown_call")
    assert done.error["details"]["call_id"] == NOBODYS
    assert "older than the log" in done.error["details"]["why"]
    assert "the log holds no such call" in done.err


def test_while_nobody_holds_the_pen_nobody_can_end_a_doubt(office: Office) -> None:
    place = ["--group", "g9", "--resource", "acc_9"]
    first = office.serve("y", *place)
    office.order(9, "acc_9")
    last = office.serve("z", *place)
    first.kill()
    office.until_in_doubt(office.calls[9])
    assert last.stop() == 0
    done = office.doubt("resolve", office.calls[9], "--executed", '"9"', "--json")
    assert (done.code, done.error["code"]) == (1, "no_holder")
    assert (done.error["details"]["service"], done.error["details"]["group"]) == ("desk", "g9")
    assert "start an instance" in done.err
    office.serve("z", *place)
    assert office.doubt("resolve", office.calls[9], "--executed", '"9"').code == 0
    assert office.answer(office.calls[9]) == "9"


def test_a_doubt_of_a_pool_is_listed_told_and_ended_like_any_other(office: Office) -> None:
    first = office.serve("w1", service="crew:crew")
    office.hold("errand-1")
    call_id = office.submit("crew.errand", 1)
    until((office.root / "errand-1").exists, "the errand has begun")
    first.kill()
    second = office.serve("w2", service="crew:crew")
    office.until_in_doubt(call_id)
    (doubt,) = office.listed("--service", "crew", "--group", "_pool")["doubts"]
    assert (doubt["call_id"], doubt["claimed_by"], doubt["resource"]) == (call_id, "w1", None)
    assert "arguments  1\n" in office.doubt("show", call_id).out
    done = office.doubt("resolve", call_id, "--executed", '"by hand"', "--json")
    assert done.code == 0, done.err
    assert (done.json["state"], office.answer(call_id)) == ("succeeded", "by hand")
    second.kill()
    again = office.doubt("resolve", call_id, "--executed", '"by hand"', "--json")
    assert again.error["code"] == "not_in_doubt"


# -- bad usage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "VERB"),
        (["lift"], "invalid choice"),
        (["list", "--limit", "0"], "--limit: give a number from 1 to 1000"),
        (["list", "--limit", "1001"], "--limit: give a number from 1 to 1000"),
        (["show"], "CALL"),
        (["show", "seven"], "cannot read 'seven' as a call id"),
        (["resolve", "seven", "--not-executed"], "cannot read 'seven' as a call id"),
        (["resolve", NOBODYS], "--executed --not-executed is required"),
        (["resolve", NOBODYS, "--not-executed", "--executed", "1"], "not allowed with"),
        (["resolve", NOBODYS, "--executed", "filled"], "--executed is not JSON: 'filled'"),
        (["resolve", NOBODYS, "--executed", ""], "--executed is not JSON: ''"),
        (["resolve", NOBODYS, "--executed", "NaN"], "JSON has no NaN"),
        (["resolve", NOBODYS, "--executed", "[" * 200_000], "--executed is not JSON"),
        (["resolve", NOBODYS, "--not-executed", "--author", ""], "--author: give 1 to 128 characters"),
        (["resolve", NOBODYS, "--not-executed", "--author", "x" * 129], "--author: give 1 to 128"),
        (["resolve", NOBODYS, "--not-executed", "--reason", "x" * 501], "--reason: give at most 500"),
        (["resolve", NOBODYS, "--not-executed", "--timeout", "0"], "is not a number of seconds above 0"),
        (["resolve", NOBODYS, "--not-executed", "--timeout", "nan"], "is not a number of seconds above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doubt", *words])
    assert ended.value.code == 2
    assert says in " ".join(capsys.readouterr().err.replace("|", "").split())


@pytest.mark.parametrize("verb", ["list", "show", "resolve"])
def test_every_verb_explains_itself_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doubt", verb, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"example:\n  aegis doubt {verb}" in out
    assert max(map(len, out.splitlines())) <= 120


def test_the_help_says_that_a_result_changes_no_shared_state(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doubt", "resolve", "--help"])
    assert "--executed carries no events of the shared state" in capsys.readouterr().out


def test_without_a_server_every_verb_fails_in_one_line(aegis: Aegis) -> None:
    for words in (["list"], ["show", NOBODYS], ["resolve", NOBODYS, "--not-executed"]):
        done = aegis("doubt", *words, "--json", "--url", "nats://127.0.0.1:1")
        assert (done.code, done.error["code"]) == (1, "not_connected")
        assert len(done.err.splitlines()) == 1
        assert json.loads(done.out)

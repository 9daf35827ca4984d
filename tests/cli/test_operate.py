"""``aegis drain``, ``promote``, ``pause`` and ``resume``: operators change who serves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from aegisipc.router.cli.main import main
from tests.cli.programs import Aegis, Ended, Program, start_dev, until
from tests.cli.test_failover import Desk

BY = ("--author", "ann@ops", "--reason", "kernel update")


@pytest.fixture
def desk(aegis: Aegis, tmp_path: Path) -> Desk:
    _, told = start_dev(aegis, tmp_path / "data", "--port", "0")
    return Desk(aegis, tmp_path, told["url"])


def ha(desk: Desk) -> list[dict[str, Any]]:
    """The group's events, oldest first."""
    done = desk.aegis("log", "tail", "--from", "1", "--kind", "ha", "--service", "desk", "--json")
    return [json.loads(line) for line in done.out.splitlines()]


def said(desk: Desk, type_name: str) -> dict[str, Any]:
    """What the latest event of that type says."""
    found: dict[str, Any] = [event for event in ha(desk) if event["type"] == type_name][-1]["data"]
    return found


def refused(done: Ended) -> str:
    """The code of a refusal, which is told in one line without a traceback."""
    assert done.code == 1, done.out
    assert done.err.splitlines()[-1] == f"error: {done.error['message']}"
    return str(done.error["code"])


# -- drain -------------------------------------------------------------------------------------------------


def test_draining_the_holder_ends_it_and_tells_who_holds_the_pen_then(desk: Desk) -> None:
    active = desk.serve("a")
    desk.serve("b")
    done = desk.aegis("drain", "a", *BY)
    assert done.code == 0, done.err
    assert "desk/g1/a has left after " in done.out
    assert "desk/g1: b holds the pen, epoch 2" in done.out
    assert active.ended() == 0
    wish = said(desk, "instance.drain_requested.v1")
    assert (wish["author"], wish["reason"]) == ("ann@ops", "kernel update")


def test_draining_a_standby_by_its_whole_place_tells_programs_what_became_of_it(desk: Desk) -> None:
    desk.serve("a")
    standby = desk.serve("b")
    told = desk.aegis("drain", "desk/g1/b", "--json").json
    assert (told["service"], told["group"], told["instance"]) == ("desk", "g1", "b")
    assert (told["ended"], told["holder"], told["epoch"], told["already"]) == ("left", "a", 1, False)
    assert standby.ended() == 0


def test_the_last_instance_is_drained_only_by_force(desk: Desk) -> None:
    last = desk.serve("a")
    assert refused(desk.aegis("drain", "a", "--json")) == "last_instance"
    assert last.popen.poll() is None
    done = desk.aegis("drain", "a", "--force")
    assert done.code == 0, done.err
    assert "nobody holds the pen" in done.out
    assert refused(desk.aegis("drain", "a", "--force", "--json")) == "instance_gone"


def test_a_drain_that_is_not_waited_for_goes_on_and_one_that_takes_too_long_says_so(desk: Desk) -> None:
    desk.serve("a")
    desk.serve("b")
    held = desk.hold("1")
    order = desk.aegis.start("call", "desk.order", "1", "--resource-id", "acc_1", "--timeout", "60")
    until(lambda: desk.traced("order 1"), "the order runs")
    assert desk.aegis("drain", "a", "--no-wait").out.startswith("desk/g1/a is to drain and leave")
    late = desk.aegis("drain", "a", "--timeout", "1", "--json")
    assert refused(late) == "not_in_time"
    assert late.error["details"]["running"] == 1
    held.unlink()
    assert order.ended() == 0
    until(lambda: desk.holder() == "b", "the standby holds the pen")


def test_what_cannot_be_drained_is_told(desk: Desk) -> None:
    desk.serve("a")
    for place, code in (("nobody", "unknown_instance"), ("desk/g2/a", "unknown_group")):
        assert refused(desk.aegis("drain", place, "--json")) == code
    assert refused(desk.aegis("drain", "shop/g1/a", "--json")) == "unknown_service"
    assert refused(desk.aegis("drain", "a b", "--json")) == "invalid_name"


# -- promote -----------------------------------------------------------------------------------------------


def test_promoting_a_standby_hands_over_and_tells_epochs_and_time(desk: Desk) -> None:
    desk.serve("a")
    desk.serve("b")
    done = desk.aegis("promote", "desk", "g1", "b", *BY)
    assert done.code == 0, done.err
    assert "b holds the pen of desk/g1 as epoch 2 after " in done.out
    assert "(a held epoch 1)" in done.out
    assert "planned: promoted by ann@ops: kernel update" in done.out
    assert said(desk, "group.promoted.v1")["author"] == "ann@ops"
    told = desk.aegis("promote", "desk", "g1", "a", "--json").json
    assert (told["epoch"], told["former"], told["former_epoch"], told["kind"]) == (3, "b", 2, "planned")
    assert told["took_s"] >= 0


def test_what_cannot_be_promoted_is_told(desk: Desk) -> None:
    desk.serve("a")
    lost = desk.serve("b")
    other = desk.aegis.start("serve", "desk:desk", "--group", "g2", "--resource", "acc_2", "--instance", "c")
    other.ready()
    lost.kill()
    until(lambda: desk.group()["instances"]["b"]["state"] == "lost", "b is lost")
    for group, instance, code in (
        ("g1", "a", "already_active"),
        ("g1", "b", "instance_gone"),
        ("g1", "c", "unknown_instance"),
        ("g1", "nobody", "unknown_instance"),
        ("g3", "a", "unknown_group"),
    ):
        assert refused(desk.aegis("promote", "desk", group, instance, "--json")) == code
    elsewhere = desk.aegis("promote", "desk", "g1", "c", "--json")
    assert "it is in desk/g2" in elsewhere.error["message"]
    assert refused(desk.aegis("promote", "shop", "g1", "a", "--json")) == "unknown_service"
    assert desk.group()["epoch"] == 1


def test_a_handover_that_is_called_off_says_why(desk: Desk) -> None:
    desk.serve("a")
    heir = desk.serve("b")
    held = desk.hold("1")
    desk.aegis.start("call", "desk.order", "1", "--resource-id", "acc_1", "--timeout", "60")
    until(lambda: desk.traced("order 1"), "the order runs")
    promote = desk.aegis.start("promote", "desk", "g1", "b", "--json")
    until(lambda: desk.group()["handover"], "the handover is under way")
    late = desk.aegis("promote", "desk", "g1", "b", "--timeout", "0.5", "--json")
    assert refused(late) == "not_in_time"
    heir.kill()
    done = finished(promote)
    assert refused(done) == "not_promoted"
    assert "the handover was called off: 'b' cannot take over" in done.error["message"]
    assert done.error["details"]["holder"] == "a"
    held.unlink()
    until(lambda: desk.group()["state"] == "held", "the holder goes on")


def finished(program: Program) -> Ended:
    return Ended(program.ended(), "\n".join(program.out), "\n".join(program.err))


# -- pause and resume --------------------------------------------------------------------------------------


def test_a_paused_group_keeps_calls_until_it_is_resumed(desk: Desk) -> None:
    desk.serve("a")
    assert desk.aegis("pause", "desk/g1", *BY).out.startswith("paused desk/g1, at sequence ")
    assert desk.aegis("pause", "desk/g1").out == "desk/g1 is paused already\n"
    order = desk.aegis.start("call", "desk.order", "1", "--resource-id", "acc_1", "--timeout", "60")
    until(lambda: desk.group()["open_calls"] == 1, "the call is accepted")
    assert desk.group()["paused_by"] == "ann@ops: kernel update"
    assert desk.traced("order") == []
    assert desk.aegis("resume", "desk").out.startswith("resumed desk (groups: g1), at sequence ")
    assert order.ended() == 0
    assert desk.traced("order") == ["order 1 a 1"]


def test_a_service_is_paused_as_a_whole_for_programs(desk: Desk) -> None:
    desk.serve("a")
    told = desk.aegis("pause", "desk", "--json").json
    assert (told["event"], told["groups"], told["already"]) == ("group.paused.v1", ["g1"], False)
    assert "@" in desk.group()["paused_by"]
    assert desk.aegis("resume", "desk/g1", "--json").json["event"] == "group.resumed.v1"


def test_what_cannot_be_paused_is_told(desk: Desk) -> None:
    desk.serve("a")
    for verb in ("pause", "resume"):
        assert refused(desk.aegis(verb, "shop", "--json")) == "unknown_service"
        assert refused(desk.aegis(verb, "desk/g2", "--json")) == "unknown_group"


# -- without a leader --------------------------------------------------------------------------------------


def test_without_a_router_nothing_is_decided_and_the_error_says_what_to_do(
    aegis: Aegis, tmp_path: Path
) -> None:
    _, told = start_dev(aegis, tmp_path / "data", "--port", "0")
    here = aegis.at(told["url"])
    router = int(told["router_pid"])
    os.kill(router, signal.SIGKILL)
    commands = (["drain", "a"], ["promote", "desk", "g1", "a"], ["pause", "desk"], ["resume", "desk"])
    running = [here.start(*words, "--timeout", "0.5", "--json") for words in commands]
    for words, program in zip(commands, running, strict=True):
        done = finished(program)
        assert refused(done) == "no_leader", words
        assert "start one with aegis router" in done.error["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["drain"],
        ["drain", "a/b"],
        ["drain", "a//b"],
        ["drain", "a", "--timeout", "0"],
        ["drain", "a", "--author", ""],
        ["promote", "desk", "g1"],
        ["promote", "desk", "g1", "a", "--timeout", "soon"],
        ["pause", "desk/"],
        ["pause", "desk/g1/a"],
        ["resume", "desk", "--reason", "x" * 501],
        ["verify"],
        ["verify", "desk", "--timeout", "-1"],
    ],
)
def test_operators_verbs_refuse_what_makes_no_sense(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2

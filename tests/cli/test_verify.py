"""``aegis verify``: whether all instances of a group have the same state."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore.events import InstanceRegistered
from aegisipc.eventstore.lifecycles import InstanceState
from aegisipc.eventstore.topology import InstanceView
from aegisipc.router.cli.verifying import Checked, Verdict, judge
from tests.cli.programs import Aegis, Program, System, start_dev, until
from tests.cli.test_failover import Desk


@pytest.fixture
def desk(aegis: Aegis, tmp_path: Path) -> Desk:
    _, told = start_dev(aegis, tmp_path / "data", "--port", "0")
    return Desk(aegis, tmp_path, told["url"])


@contextmanager
def frozen(program: Program) -> Iterator[None]:
    program.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        program.popen.send_signal(signal.SIGCONT)


# -- judging an answer -------------------------------------------------------------------------------------


REGISTERED = InstanceRegistered(incarnation="run-1", mode="owned", contract={}, host="h", pid=1, version="0")
MEMBER = InstanceView("desk", "g1", "a", InstanceState.STANDBY, REGISTERED, 1, 0, admitted=True)


def answer(digests: Any, incarnation: str = "run-1") -> dict[str, Any]:
    return {"ok": True, "incarnation": incarnation, "state_digests": digests}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (answer({"7": {"own": "aa", "log": "aa"}}), Checked("a", Verdict.AGREES, "aa")),
        (answer({"7": {"own": "bb", "log": "aa"}}), Checked("a", Verdict.DIFFERS, "bb")),
        (answer({"7": {"own": "aa", "log": "aa"}}, "run-2"), Checked("a", Verdict.RESTARTED)),
        (answer({"6": {"own": "aa", "log": "aa"}}), None),
        (answer({}), None),
        (answer(None), None),
        (answer({"7": "aa"}), None),
        (None, None),
    ],
)
def test_an_answer_counts_only_for_the_same_place_and_the_same_run(
    told: dict[str, Any] | None, expected: Checked | None
) -> None:
    assert judge(MEMBER, told, 7, "aa") == expected


# -- with real instances -----------------------------------------------------------------------------------


def test_members_that_share_their_state_agree_at_the_same_sequence(desk: Desk) -> None:
    for name in ("a", "b"):
        desk.serve(name)
    for _ in range(3):
        desk.call("book", "5")
    done = desk.aegis("verify", "desk")
    assert done.code == 0, done.out + done.err
    assert done.out.startswith("desk/g1: 2 of 2 instances agree at sequence ")
    told = desk.aegis("verify", "desk", "--group", "g1", "--json").json
    (group,) = told["groups"]
    assert (told["ok"], group["group"], group["holder"], group["epoch"]) == (True, "g1", "a", 1)
    assert {m["instance"]: (m["verdict"], m["digest"]) for m in group["members"]} == {
        "a": ("agrees", group["digest"]),
        "b": ("agrees", group["digest"]),
    }
    assert desk.call("book", "5") == "a"
    after = desk.aegis("verify", "desk", "--json").json["groups"][0]
    assert after["digest"] != group["digest"]
    assert after["seq"] > group["seq"]


def test_a_member_that_does_not_answer_is_named(desk: Desk) -> None:
    desk.serve("a")
    standby = desk.serve("b")
    with frozen(standby):
        done = desk.aegis("verify", "desk", "--timeout", "1", "--json")
    assert (done.code, done.error["code"]) == (1, "state_not_verified")
    assert done.error["details"]["unanswered"] == ["g1/b"]
    verdicts = {m["instance"]: m["verdict"] for m in done.json["groups"][0]["members"]}
    assert verdicts == {"a": "agrees", "b": "no_answer"}


def test_a_holder_that_does_not_answer_is_named(desk: Desk) -> None:
    only = desk.serve("a")
    with frozen(only):
        done = desk.aegis("verify", "desk", "--timeout", "0.5")
    assert done.code == 1
    assert "holder 'a' does not answer" in done.err


def test_no_router_is_needed(aegis: Aegis, tmp_path: Path) -> None:
    _, told = start_dev(aegis, tmp_path / "data", "--port", "0")
    desk = Desk(aegis, tmp_path, told["url"])
    desk.serve("a")
    os.kill(told["router_pid"], signal.SIGKILL)
    assert desk.aegis("verify", "desk").code == 0


def test_a_service_without_instances_cannot_be_verified(desk: Desk) -> None:
    desk.serve("a").stop()
    until(lambda: desk.group()["instances"]["a"]["state"] == "left", "it has left")
    done = desk.aegis("verify", "desk", "--json")
    assert (done.code, done.error["code"]) == (1, "no_holder")
    assert "aegis serve" in done.err


def test_a_service_without_shared_state_says_so(system: System) -> None:
    done = system.aegis("verify", "orders", "--json")
    assert (done.code, done.error["code"]) == (1, "no_shared_state")
    assert "keeps no state" in done.err


def test_a_pool_shares_no_state(system: System) -> None:
    system.aegis.start("serve", "shop:prices").ready()
    for options in ([], ["--group", "_pool"]):
        done = system.aegis("verify", "prices", *options, "--json")
        assert (done.code, done.error["code"]) == (1, "no_shared_state")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nobody"], "unknown_service"),
        (["orders", "--group", "g9"], "unknown_group"),
        (["a.b"], "invalid_name"),
        (["orders", "--group", "*"], "invalid_name"),
    ],
)
def test_what_is_not_there_cannot_be_verified(words: list[str], code: str, system: System) -> None:
    done = system.aegis("verify", *words, "--json")
    assert (done.code, done.error["code"]) == (1, code)
    assert done.err == f"error: {done.error['message']}\n"

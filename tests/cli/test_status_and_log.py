"""``aegis status`` and ``aegis log tail``: what the log says, for people and for programs."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from aegisipc.router.cli.main import main
from tests.cli.programs import System, until

AT = ["--resource-id", "acc_1"]


def call(system: System, *options: str) -> str:
    return system.aegis("call", "orders.position", '"acc_1"', "--submit", *AT, *options).out.strip()


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# -- status ------------------------------------------------------------------------------------------------


def test_status_shows_who_serves_what(system: System) -> None:
    done = system.aegis("status")
    assert done.code == 0
    assert done.out.startswith(f"namespace default at {system.url}, log at sequence ")
    assert "router dev leads term 1 (for " in done.out
    (row,) = [line.split() for line in done.out.splitlines() if line.startswith("orders   g1 ")]
    assert row[:6] == ["orders", "g1", "owned", "1", "orders-1", "-"]
    assert row[-2:] == ["acc_1,", "acc_2"]
    assert "\x1b" not in done.out


def test_status_tells_programs_everything(system: System) -> None:
    told = system.aegis("status", "--json").json
    assert told["leader"]["router"] == told["router"]["router"] == "dev"
    group = told["services"]["orders"]["groups"]["g1"]
    assert (group["holder"], group["open_calls"], group["resources"]) == ("orders-1", 0, ["acc_1", "acc_2"])
    assert group["instances"]["orders-1"]["state"] == "active"
    assert 0 <= group["instances"]["orders-1"]["last_pulse_ms"] < 5000


def test_standbys_are_shown_with_the_active_one(system: System) -> None:
    resource = f"acc-{uuid.uuid4().hex[:8]}"
    for number in (1, 2):
        words = ["serve", "shop:orders", "--resource", resource, "--instance", f"{resource}-{number}"]
        system.aegis.start(*words).ready()
    row = next(line.split() for line in system.aegis("status").out.splitlines() if resource in line)
    assert row[4:6] == [f"{resource}-1", f"{resource}-2"]


def test_programs_are_told_of_roles_doubts_routers_and_the_system_account(system: System) -> None:
    told = system.aegis("status", "--json").json
    assert (told["system_account"], told["routers"]["dev"]["pulse"]["phase"]) == (True, "leading")
    group = told["services"]["orders"]["groups"]["g1"]
    assert (group["doubts"], group["claimed"], group["paused"], group["handover"]) == (0, 0, False, None)
    instance = group["instances"]["orders-1"]
    assert (instance["role"], instance["eligible"], instance["fenced"]) == ("active", True, 0)
    assert instance["pulse"]["healthy"] is True


def test_a_router_that_follows_is_named(system: System) -> None:
    name = f"r-{uuid.uuid4().hex[:8]}"
    system.aegis.start("router", "--name", name).ready()
    until(lambda: name in system.aegis("status", "--json").json["followers"], "it pulses")
    (leading,) = [line for line in system.aegis("status").out.splitlines() if line.startswith("router ")]
    assert leading.startswith("router dev leads term 1 (for ")
    assert name in leading


def test_what_an_operator_asked_for_is_in_the_status_and_in_the_log(system: System) -> None:
    resource = f"acc-{uuid.uuid4().hex[:8]}"
    words = ["serve", "shop:orders", "--resource", resource, "--instance", f"{resource}-1"]
    system.aegis.start(*words, "--quarantine").ready()
    where = f"orders/{resource}"
    quarantined = (
        f"{where}: {resource}-1 is in quarantine: it queues calls, and runs none (aegis resume {where})"
    )
    assert quarantined in system.aegis("status").out.splitlines()
    said = ["--author", "ann@box", "--reason", "checked by hand"]
    assert system.aegis("pause", where, *said).code == 0
    paused = f"{where}: paused by ann@box: checked by hand (aegis resume {where})"
    assert paused in system.aegis("status").out.splitlines()
    assert system.aegis("resume", where, *said).code == 0
    assert where not in system.aegis("status").out
    lines = system.aegis("log", "tail", "--group", resource, "--kind", "ha").out.splitlines()
    assert any(line.endswith("paused, asks ann@box: checked by hand (by dev)") for line in lines)
    assert any(line.endswith("resumed, asks ann@box: checked by hand (by dev)") for line in lines)
    assert any(line.endswith(", in quarantine") for line in lines)


# -- log tail ----------------------------------------------------------------------------------------------


def test_tail_shows_the_last_records_in_order(system: System) -> None:
    call(system)
    done = system.aegis("log", "tail", "-n", "3", "--json")
    assert done.code == 0
    found = records(done.out)
    assert [r["seq"] for r in found] == sorted(r["seq"] for r in found)
    assert len(found) == 3


def test_the_start_of_the_log_reads_like_a_story(system: System) -> None:
    lines = system.aegis("log", "tail", "--from", "1", "-n", "6").out.splitlines()
    assert len(lines) == 6
    assert "router.elected.v1         dev leads term 1: nobody leads" in lines[0]
    assert "orders/g1/contract/orders-1" in lines[1]
    assert "orders/g1/ha/orders-1" in lines[2]
    assert "owned, resources acc_1, acc_2, methods position, record, refuse, pid " in lines[2]
    assert "epoch 1 to orders-1: first instance of the group" in lines[5]


def test_a_call_and_its_outcome_are_found_by_kind(system: System) -> None:
    call_id = call(system, "--name", "strategy-9")
    (frame,) = records(system.aegis("log", "tail", "-n", "1", "--kind", "call", "--json").out)
    assert frame["who"] == "strategy-9"
    assert frame["entries"] == [
        {"call_id": call_id, "method": "position", "timeout_ms": 30000, "resource": "acc_1"}
    ]
    system.aegis("call", "--attach", call_id)
    (pen,) = records(system.aegis("log", "tail", "-n", "1", "--kind", "pen", "--json").out)
    assert pen["entries"] == [{"mark": "succeeded", "call_id": call_id}]
    lines = system.aegis("log", "tail", "--group", "g1", "-n", "4").out
    assert "1 call: position for acc_1 from strategy-9" in lines
    assert "1 succeeded (epoch 1)" in lines


def test_events_of_the_shared_state_and_checks_of_it_are_told(system: System) -> None:
    resource = f"acc-{uuid.uuid4().hex[:8]}"
    system.aegis.start("serve", "desk:desk", "--resource", resource).ready()
    assert system.aegis("call", "desk.book", "5", "--resource-id", resource).code == 0
    checked = system.aegis("verify", "desk", "--group", resource, "--json")
    assert checked.code == 0, checked.err
    lines = system.aegis("log", "tail", "--group", resource, "--kind", "pen").out.splitlines()
    assert any(line.endswith("1 emitted, 1 succeeded (epoch 1)") for line in lines), lines
    assert " epoch 1: state checked: " in lines[-1]
    (frame,) = records(
        system.aegis("log", "tail", "-n", "1", "--group", resource, "--kind", "pen", "--json").out
    )
    (entry,) = frame["entries"]
    assert (entry["mark"], entry["call_id"], len(entry["says"])) == ("checked", None, 64)


def test_filters_reach_back_as_far_as_they_must(system: System) -> None:
    for _ in range(3):
        call(system)
    done = system.aegis("log", "tail", "--kind", "term", "-n", "1", "--json")
    assert [r["type"] for r in records(done.out)] == ["router.elected.v1"]
    done = system.aegis("log", "tail", "--service", "orders", "--kind", "ha", "-n", "100", "--json")
    assert {r["kind"] for r in records(done.out)} == {"ha"}
    assert {r["service"] for r in records(done.out)} == {"orders"}


def test_following_shows_what_is_appended_once_and_in_order(system: System) -> None:
    follow = system.aegis.start("log", "tail", "-n", "1", "-f", "--kind", "call", "--json")
    first = call(system, "--name", "one")
    follow.line(first)
    second = call(system, "--name", "two")
    follow.line(second)
    seqs = [json.loads(line)["seq"] for line in follow.out]
    assert seqs == sorted(set(seqs))


def test_a_filter_that_nothing_matches_shows_nothing(system: System) -> None:
    done = system.aegis("log", "tail", "--service", "nobody")
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("options", [["--service", "a.b"], ["--group", "*"]])
def test_a_filter_that_cannot_be_a_name_is_an_error(options: list[str], system: System) -> None:
    done = system.aegis("log", "tail", *options, "--json")
    assert (done.code, done.error["code"]) == (1, "invalid_name")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["tale"],
        ["tail", "-n", "-1"],
        ["tail", "--from", "0"],
        ["tail", "--kind", "x"],
        ["tail", "--kind", "term", "--service", "orders"],
        ["tail", "--kind", "doubt"],
    ],
)
def test_log_refuses_what_makes_no_sense(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["log", *words])
    assert ended.value.code == 2

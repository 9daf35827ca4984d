"""``aegis call``: results, durable calls, and the ways in which a call can fail."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from aegisipc.router.cli.main import main
from tests.cli.programs import System

AT = ["--resource-id", "acc_1"]
EXPECTED = {"account": "acc_1", "at": 5, "value": "1.50", "time": "2026-01-02T00:00:00Z"}


def test_a_result_is_shown_as_json_for_people(system: System) -> None:
    done = system.aegis("call", "orders.position", '"acc_1"', "5", *AT)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == EXPECTED
    assert done.out.startswith('{\n  "account": "acc_1",\n')
    assert Decimal(json.loads(done.out)["value"]) == Decimal("1.50")


def test_a_result_is_one_line_with_the_call_id_for_programs(system: System) -> None:
    done = system.aegis("call", "orders.position", '"acc_1"', "--kw", "at=5", "--json", *AT)
    assert done.code == 0
    assert done.out.count("\n") == 1
    assert done.json["result"] == EXPECTED
    assert len(done.json["call_id"]) == 36


def test_options_may_stand_between_arguments(system: System) -> None:
    done = system.aegis("call", "orders.position", *AT, '"acc_1"', "--json", "-5")
    assert done.json["result"]["at"] == -5


def test_a_submitted_call_can_be_attached_to_again_and_again(system: System) -> None:
    submitted = system.aegis("call", "orders.position", '"acc_1"', "5", "--submit", *AT)
    call_id = submitted.out.strip()
    for _ in range(2):
        attached = system.aegis("call", "--attach", call_id, "--json")
        assert attached.json == {"call_id": call_id, "result": EXPECTED}


def test_the_clients_name_is_in_the_log(system: System) -> None:
    done = system.aegis(
        "call", "orders.position", '"acc_1"', "--name", "strategy-7", "--submit", "--json", *AT
    )
    assert set(done.json) == {"call_id", "receipt"}
    assert "/call/strategy-7 " in system.aegis("log", "tail", "--kind", "call").out


def test_a_submitted_calls_receipt_says_what_the_servers_word_is_worth(system: System) -> None:
    told = system.aegis("call", "orders.position", '"acc_1"', "--submit", "--json", *AT).json["receipt"]
    assert set(told) == {"durability", "replicas", "seq", "fsync"}
    assert told["durability"] in {"written", "fsynced"}
    assert told["replicas"] == 1
    assert told["seq"] > 0
    shown = system.aegis("call", "orders.position", '"acc_1"', "--submit", *AT)
    assert shown.out.count("\n") == 1
    assert f"durable: {told['durability']}, 1 copy, sync {told['fsync']}, sequence " in shown.err


def test_a_call_with_a_key_runs_once_and_is_found_by_the_key(system: System) -> None:
    words = ["call", "orders.position", '"acc_1"', "5", "--key", "cli-1", "--priority", "high", *AT]
    first = system.aegis(*words, "--json")
    assert first.json["result"] == EXPECTED
    assert system.aegis(*words, "--json").json["result"] == EXPECTED
    found = system.aegis("call", "--attach-key", "cli-1", "orders", "--json", *AT)
    assert found.json == {"call_id": first.json["call_id"], "result": EXPECTED}
    conflict = system.aegis("call", "orders.position", '"acc_1"', "6", "--key", "cli-1", "--json", *AT)
    assert (conflict.code, conflict.error["code"]) == (1, "idempotency_conflict")
    assert first.json["call_id"] in conflict.err


def test_a_finished_call_cannot_be_cancelled(system: System) -> None:
    done = system.aegis("call", "orders.position", '"acc_1"', "5", "--json", *AT)
    cancelled = system.aegis("call", "--cancel", done.json["call_id"], "--reason", "late", "--json")
    assert (cancelled.code, cancelled.error["code"]) == (1, "call_finished")
    assert cancelled.error["details"]["state"] == "succeeded"


def test_a_refusal_of_the_handler_shows_code_and_details(system: System) -> None:
    done = system.aegis("call", "orders.refuse", "--json", *AT)
    assert done.code == 1
    assert done.error["code"] == "insufficient_funds"
    assert done.error["details"]["missing"] == "12.50"
    assert "the order needs more" in done.err
    assert "insufficient_funds" in done.err


def test_a_failed_call_fails_for_whoever_attaches(system: System) -> None:
    call_id = system.aegis("call", "orders.refuse", "--submit", *AT).out.strip()
    done = system.aegis("call", "--attach", call_id, "--json")
    assert (done.code, done.error["code"]) == (1, "insufficient_funds")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["orders.nothing"], "no_route", "position"),
        (["nobody.position"], "no_route", "nobody"),
        (["orders.position", '"acc_1"', "--resource-id", "acc_9"], "no_route", "acc_1"),
        (["orders.position", "[]", *AT], "invalid_arguments", "account"),
        (["orders.position", *AT], "invalid_arguments", "account"),
        (["orders.position", '"a"', "--kw", "other=1", *AT], "invalid_arguments", "other"),
        (["orders", *AT], "invalid_name", "orders.place"),
        (["--attach", "not-an-id"], "malformed_payload", "not-an-id"),
        (["--cancel", "not-an-id"], "malformed_payload", "not-an-id"),
        (["--cancel", "01a1fa7c-d4ac-7000-8000-0742391525c4"], "call_unknown", "older than the log"),
        (["--attach-key", "nobody's", "orders", *AT], "call_unknown", "no call of orders"),
        (["--attach-key", "k", "nobody"], "no_route", "nobody"),
        (["orders.position", '"a"', "--key", "", *AT], "invalid_name", "idempotency key"),
        (["--attach", "01a1fa7c-d4ac-7000-8000-0742391525c4"], "call_unknown", "older than the log"),
        (["orders.position", '"a"', "--name", "a.b", *AT], "invalid_name", "client"),
    ],
)
def test_what_cannot_be_called_is_a_typed_error(
    words: list[str], code: str, says: str, system: System
) -> None:
    done = system.aegis("call", *words, "--json")
    assert (done.code, done.error["code"]) == (1, code)
    assert says in done.err
    assert done.err.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name what to call"),
        (["orders.position", "acc_1"], "argument 1 is not JSON: 'acc_1'"),
        (["orders.position", "1", "acc_1"], """quote text for JSON and for the shell: '"acc_1"'"""),
        (["orders.position", "NaN"], "argument 1 is not JSON"),
        (["orders.position", "{"], "argument 1 is not JSON"),
        (["orders.position", "--kw", "at"], "write NAME=JSON"),
        (["orders.position", "--kw", "at=x"], "--kw at is not JSON"),
        (["orders.position", "--kw", "at=1", "--kw", "at=2"], "given twice"),
        (["orders.position", "--kw", "timeout=1"], "by position"),
        (["orders.position", "--timeout", "0"], "above 0"),
        (["orders.position", "--timeout", "nan"], "above 0"),
        (["--attach", "x", "orders.position"], "--attach takes"),
        (["--cancel", "x", "orders.position"], "--cancel takes"),
        (["--cancel", "x", "--attach", "y"], "not allowed with"),
        (["--cancel", "x", "--key", "k"], "--key and --priority are for calls that are made now"),
        (["--attach", "x", "--priority", "low"], "--key and --priority are for calls that are made now"),
        (["--attach-key", "k"], "--attach-key takes the SERVICE"),
        (["--attach-key", "k", "orders", "5"], "--attach-key takes the SERVICE"),
        (["orders.position", "--reason", "why"], "--reason is for --cancel"),
        (["orders.position", "--priority", "urgent"], "invalid choice"),
        (["orders.position", "--kw", "idempotency_key=1"], "by position"),
        (["orders.position", "--submit", "--attach", "x"], "not allowed with"),
        (["orders.position", "--tim", "1"], "unrecognized arguments"),
    ],
)
def test_what_makes_no_sense_is_bad_usage(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["call", *words])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err

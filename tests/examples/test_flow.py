"""The file format of a flow, and its generator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from examples.demo.flow import (
    MAX_ACCOUNTS,
    SHIPPED,
    AskQuote,
    FlowInvalid,
    Place,
    accounts_of,
    dump_step,
    groups_of,
    parse_flow,
    read_flow,
)
from examples.demo.generate import SHIPPED_ORDERS, SHIPPED_SEED, generate, main
from examples.demo.play import RESULTS, bursts_of, call_of
from examples.demo.summary import BUSINESS_CODES
from tests.examples.gateway import fresh_ledgers, run_step

PLACE: dict[str, Any] = {
    "at_ms": 5,
    "do": "place",
    "account": "acc_1",
    "order_id": "1-1",
    "symbol": "ACME",
    "side": "buy",
    "quantity": 10,
    "limit_price": "101.55",
}


def lines(*steps: dict[str, Any]) -> list[bytes]:
    return [json.dumps(step).encode() for step in steps]


def refusal(*given: bytes) -> tuple[int, str, str]:
    with pytest.raises(FlowInvalid) as caught:
        parse_flow(given, "my.jsonl")
    assert f"my.jsonl, line {caught.value.line}" in caught.value.message
    assert caught.value.field in caught.value.message
    return caught.value.line, caught.value.field, caught.value.message


# -- the generator -------------------------------------------------------------------------------------------


def test_the_shipped_flow_is_what_the_generator_writes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--seed", str(SHIPPED_SEED), "--orders", str(SHIPPED_ORDERS)])
    assert capsys.readouterr().out.encode() == SHIPPED.read_bytes(), (
        "regenerate it: python -m examples.demo.generate > examples/demo/orders.jsonl"
    )


def test_the_generator_writes_the_same_bytes_whatever_the_hash_seed() -> None:
    command = [sys.executable, "-m", "examples.demo.generate", "--seed", "3", "--orders", "50"]
    runs = [
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == "".join(dump_step(step) + "\n" for step in generate(3, 50)).encode()


def test_other_seeds_give_other_flows() -> None:
    assert generate(1, 50) != generate(2, 50)


def test_the_shipped_flow_is_small_and_has_its_orders() -> None:
    assert SHIPPED.stat().st_size < 1_200_000
    steps = read_flow(SHIPPED)
    assert sum(isinstance(step, Place) for step in steps) == SHIPPED_ORDERS
    assert {"place", "cancel", "position", "quote"} == {step.do for step in steps}


async def test_most_of_the_shipped_flow_succeeds_and_every_rule_of_the_desk_but_one_refuses_some() -> None:
    with fresh_ledgers():
        codes = Counter([await run_step(step) for step in read_flow(SHIPPED)])
    assert codes.keys() - {""} == BUSINESS_CODES - {"duplicate_order", "shut_out"}
    assert codes[""] > 0.9 * codes.total()
    assert min(codes.values()) > 20


def test_bursts_are_in_the_flow_of_one_account_in_its_order() -> None:
    steps = read_flow(SHIPPED)
    bursts = bursts_of(steps)
    assert max(len(burst) for own in bursts.values() for burst in own) > 4
    for account, own in bursts.items():
        assert [step for burst in own for step in burst] == [s for s in steps if s.account == account]


# -- reading -------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back() -> None:
    steps = generate(11, 100)
    assert parse_flow([dump_step(step).encode() for step in steps], "x") == steps


def test_blank_lines_are_skipped_and_counted() -> None:
    assert len(parse_flow([b"", *lines(PLACE), b"  "], "x")) == 1
    assert refusal(b"", b"oops")[0] == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"quantity": 0}, "quantity"),
        ({"quantity": "many"}, "quantity"),
        ({"limit_price": "-1"}, "limit_price"),
        ({"limit_price": "1.001"}, "limit_price"),
        ({"side": "hold"}, "side"),
        ({"time_in_force": "gtc"}, "time_in_force"),
        ({"account": ""}, "account"),
        ({"at_ms": -1}, "at_ms"),
        ({"do": "plaec"}, "do"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_field(change: dict[str, Any], field: str) -> None:
    assert refusal(*lines(PLACE, PLACE | change))[:2] == (2, field)


@pytest.mark.parametrize("missing", ["at_ms", "do", "account", "order_id", "limit_price"])
def test_a_missing_field_is_named(missing: str) -> None:
    line, field, message = refusal(*lines({k: v for k, v in PLACE.items() if k != missing}))
    assert (line, field) == (1, missing)
    assert "missing" in message


@pytest.mark.parametrize("line", [b"hello", b"[1]", b"7", b"{", b"\xff\xfe", b'{"at_ms":1'])
def test_a_line_that_is_no_object_is_refused_as_a_whole(line: bytes) -> None:
    assert refusal(line)[:2] == (1, "")


def test_lines_out_of_order_are_refused() -> None:
    assert refusal(*lines(PLACE, PLACE | {"at_ms": 4}))[:2] == (2, "at_ms")


def test_too_many_accounts_are_refused() -> None:
    many = [PLACE | {"account": f"acc_{n + 1}"} for n in range(MAX_ACCOUNTS + 1)]
    assert refusal(*lines(*many))[:2] == (MAX_ACCOUNTS + 1, "account")


def test_a_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowInvalid, match="No such file"):
        read_flow(tmp_path / "none.jsonl")
    with pytest.raises(FlowInvalid, match="directory"):
        read_flow(tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(FlowInvalid, match="it is empty"):
        read_flow(empty)


# -- playing -------------------------------------------------------------------------------------------------


def test_accounts_are_dealt_to_the_groups_so_that_both_have_as_much_to_do() -> None:
    steps = read_flow(SHIPPED)
    groups = groups_of(steps)
    assert sorted(groups["east"] + groups["west"]) == sorted(accounts_of(steps))
    load = Counter({group: sum(s.account in own for s in steps) for group, own in groups.items()})
    assert min(load.values()) > 0.9 * max(load.values())


def test_every_step_is_a_call_of_a_known_method_about_its_account_but_quotes_are_about_none() -> None:
    for step in generate(5, 200):
        call = call_of(step)
        assert call.target in RESULTS
        assert call.resource_id == (None if isinstance(step, AskQuote) else step.account)


def test_an_order_travels_without_the_fields_of_the_file() -> None:
    (step,) = parse_flow(lines(PLACE), "x")
    (order,) = call_of(step).args
    assert order.model_dump(mode="json") == {
        **{k: v for k, v in PLACE.items() if k not in {"at_ms", "do"}},
        "time_in_force": "day",
    }

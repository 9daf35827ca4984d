"""``aegis contract``: what a service offers, and whether another contract can take its place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.programs import System


@pytest.fixture
def shown(system: System) -> Any:
    done = system.aegis("contract", "show", "orders", "--json")
    assert done.code == 0
    return done.json


def written(path: Path, told: Any) -> str:
    path.write_text(json.dumps(told), encoding="utf-8")
    return str(path)


def test_show_lists_methods_and_who_offers_them(system: System) -> None:
    done = system.aegis("contract", "show", "orders")
    assert done.code == 0
    (row,) = [line for line in done.out.splitlines() if line.startswith("position ")]
    assert row.split()[1] == "idempotent"
    assert row.endswith("position(account: str, at: int = …) -> dict[str, Any]")
    fingerprint = row.split()[2]
    (who,) = [line for line in done.out.splitlines() if line.startswith("orders-1 ")]
    assert f"position {fingerprint}" in who


def test_show_tells_programs_the_schemas(shown: Any) -> None:
    assert shown["service"] == "orders"
    position = shown["contract"]["position"]
    assert (position["effect"], position["version"]) == ("idempotent", 1)
    arguments = position["document"]["arguments"]
    assert arguments["properties"] == {"account": {"type": "string"}, "at": {"type": "integer", "default": 0}}
    assert (arguments["required"], arguments["positional"]) == (["account"], ["account", "at"])
    (instance,) = [each for each in shown["instances"] if each["instance"] == "orders-1"]
    assert instance["methods"]["position"] == position["schemas"]
    assert instance["contract_seq"] > 0


def test_show_may_be_bound_to_a_method_or_an_instance(system: System) -> None:
    told = system.aegis("contract", "show", "orders/orders-1", "--method", "record", "--json").json
    assert list(told["contract"]) == ["record"]
    assert [each["instance"] for each in told["instances"]] == ["orders-1"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["show", "nobody"], 1, "no service 'nobody' has joined"),
        (["show", "orders/nobody"], 1, "has no instance 'nobody'"),
        (["show", "or ders"], 1, "as a service name"),
        (["show", "orders", "--method", "fly"], 2, "orders has no method 'fly'; it has position"),
        (["show"], 2, "required"),
        ([], 2, "required"),
        (["diff", "orders"], 2, "required"),
        (["diff", "orders", "nobody"], 2, "no service 'nobody' has joined"),
        (["diff", "no.json", "orders"], 2, "cannot read no.json"),
        (["diff", "or ders", "orders"], 2, "as a service name"),
    ],
)
def test_what_is_not_there_is_told(system: System, words: list[str], code: int, said: str) -> None:
    done = system.aegis("contract", *words)
    assert done.code == code
    assert said in done.err


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"service": "s", "contract": {"m": 1}}', '{"service": "s", "contract": {"m m": {}}}'],
)
def test_a_file_that_holds_no_contract_is_bad_usage(system: System, tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text, encoding="utf-8")
    done = system.aegis("contract", "diff", str(path), "orders")
    assert done.code == 2
    assert "is not the output of aegis contract show --json" in done.err


def test_the_same_contract_is_the_same(system: System, shown: Any, tmp_path: Path) -> None:
    done = system.aegis("contract", "diff", written(tmp_path / "a.json", shown), "orders/orders-1")
    assert (done.code, done.out) == (0, "they are the same\n")


def test_differences_are_told_and_what_breaks_is_marked(system: System, shown: Any, tmp_path: Path) -> None:
    wider = copy.deepcopy(shown)
    arguments = wider["contract"]["position"]["document"]["arguments"]
    arguments["properties"]["note"] = {"type": "string", "default": ""}
    old, new = written(tmp_path / "old.json", shown), written(tmp_path / "new.json", wider)
    done = system.aegis("contract", "diff", old, new)
    assert (done.code, done.out) == (0, "  orders.position argument note: is new and optional\n")
    done = system.aegis("contract", "diff", new, old)
    assert done.code == 1
    assert done.out == "! orders.position argument note: is gone: what callers give there is refused\n"
    told = system.aegis("contract", "diff", new, old, "--json")
    assert told.code == 1
    assert told.json == {
        "compatible": False,
        "differences": [
            {
                "path": "orders.position argument note",
                "message": "is gone: what callers give there is refused",
                "breaking": True,
            }
        ],
    }

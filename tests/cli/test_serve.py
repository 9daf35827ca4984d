"""``aegis serve``: from MODULE:ATTR to an instance, and back."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.free_ports import choose_free_port
from tests.cli.programs import SERVICES, Aegis, System, until

BROKEN = "def helper():\n    return {}['missing']\n\nhelper()\n"


def in_directory(aegis: Aegis, directory: Path, **files: str) -> Aegis:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text, encoding="utf-8")
    return Aegis(aegis.env, directory, aegis.running)


def test_ready_says_what_the_instance_has_become(system: System) -> None:
    resource = f"acc-{uuid.uuid4().hex[:8]}"
    words = ["serve", "shop:orders", "--resource", resource]
    first = system.aegis.start(*words, "--instance", f"{resource}-1")
    assert first.ready() == f"ready orders/{resource} as {resource}-1 (active) at {system.url}"
    second = system.aegis.start(*words, "--instance", f"{resource}-2", "--json")
    told = json.loads(second.ready())
    assert (told["role"], told["instance"], told["resources"]) == ("standby", f"{resource}-2", [resource])
    assert first.stop() == 0
    assert second.stop() == 0
    assert first.err[-1] == f"stopped {resource}-1"


def test_a_service_without_resources_is_a_pool(system: System) -> None:
    program = system.aegis.start("serve", "shop:prices")
    assert program.ready().startswith("ready prices/_pool as prices-")
    done = system.aegis("call", "prices.last", '"ABC"')
    assert (done.code, done.out) == (0, '"ABC"\n')
    assert program.stop() == 0


def test_it_waits_for_server_and_log_and_says_so_once(aegis: Aegis, tmp_path: Path) -> None:
    port = choose_free_port("127.0.0.1")
    here = aegis.at(f"nats://127.0.0.1:{port}")
    service = here.start("serve", "shop:orders", "--resource", "acc_1")
    service.line("waiting for up to 30 s: cannot connect", stream="err")
    dev = here.start("dev", "--data", str(tmp_path), "--port", str(port), "--no-fsync")
    dev.ready()
    service.ready()
    assert sum("cannot connect" in line for line in service.err) == 1
    assert service.stop() == 0
    assert dev.stop() == 0


def test_it_can_be_stopped_while_it_waits(aegis: Aegis) -> None:
    service = aegis.start("serve", "shop:orders", "--url", "nats://127.0.0.1:1")
    service.line("waiting", stream="err")
    assert service.stop() == 0


def test_it_gives_up_when_the_wait_is_over(aegis: Aegis) -> None:
    done = aegis("serve", "shop:orders", "--url", "nats://127.0.0.1:1", "--wait", "0.3", "--json")
    assert (done.code, done.error["code"]) == (1, "not_connected")
    assert "(waited 0.3 s)" in done.err


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("shop", "write MODULE:ATTR"),
        ("shop:", "write MODULE:ATTR"),
        ("./shop.py:orders", "write MODULE:ATTR"),
        ("nowhere:orders", f"there is no module 'nowhere' in {SERVICES}"),
        ("shop.inner:orders", "'shop.inner'"),
        ("shop:order", "'shop' has no attribute 'order'; its services are orders, prices"),
        ("shop:not_a_service", "it is an int, not a Service"),
        ("shop:Decimal", "it is the class Decimal, not a Service"),
    ],
)
def test_what_leads_to_no_service_is_an_error(where: str, says: str, aegis: Aegis) -> None:
    done = aegis("serve", where)
    assert done.code == 1
    assert done.err.startswith(f"error: cannot {'serve' if 'not a Service' in says else 'load'} {where!r}: ")
    assert says in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BROKEN, "importing it raised KeyError: 'missing' ({path}:2)"),
        ("x = (\n", "importing it raised SyntaxError: '(' was never closed ({path}:1)"),
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package' ({path}:1)"),
        ("raise SystemExit(0)\n", "importing it raised SystemExit: 0 ({path}:1)"),
        ("from aegisipc.sdk import Service\nService('a.b')\n", "InvalidName"),
    ],
)
def test_a_module_that_raises_is_named_with_the_place(
    text: str, says: str, aegis: Aegis, tmp_path: Path
) -> None:
    done = in_directory(aegis, tmp_path, mine=text)("serve", "mine:orders")
    assert done.code == 1
    assert says.format(path=tmp_path / "mine.py") in done.err
    assert done.err.count("\n") == 1


def test_verbose_shows_the_traceback_of_a_module_that_raises(aegis: Aegis, tmp_path: Path) -> None:
    program = in_directory(aegis, tmp_path, mine=BROKEN).start("serve", "mine:orders", "-v")
    assert program.ended() == 1
    assert "Traceback (most recent call last):" in program.err
    assert any("in helper" in line for line in program.err)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--instance", "a.b"], "invalid_name"),
        (["--group", "a b", "--resource", "r"], "invalid_name"),
        (["--resource", ""], "invalid_name"),
        (["--group", "g1"], "service_definition"),
        (["--group", "other", "--resource", "acc_1"], "resource_conflict"),
    ],
)
def test_an_instance_that_cannot_join_is_told_why(options: list[str], code: str, system: System) -> None:
    done = system.aegis("serve", "shop:orders", "--json", *options)
    assert (done.code, done.error["code"]) == (1, code)


def test_a_killed_instance_is_followed_by_its_standby(system: System) -> None:
    resource = f"acc-{uuid.uuid4().hex[:8]}"
    words = ["serve", "shop:orders", "--resource", resource]
    first = system.aegis.start(*words)
    first.ready()
    second = system.aegis.start(*words)
    second.ready()
    first.kill()
    done = system.aegis("call", "orders.position", '"a"', "--resource-id", resource)
    assert done.code == 0
    until(
        lambda: "epoch 2 to" in system.aegis("log", "tail", "--kind", "ha", "--group", resource).out,
        "the promotion",
    )


def test_an_instance_that_an_operator_drains_says_so_and_ends_well(system: System) -> None:
    resource = f"acc-{uuid.uuid4().hex[:8]}"
    words = ["serve", "shop:orders", "--resource", resource, "--instance"]
    leaving, staying = (system.aegis.start(*words, f"{resource}-{n}") for n in (1, 2))
    leaving.ready()
    staying.ready()
    answer = asyncio.run(
        drain(system.url, instance=f"{resource}-1", author="alice", reason="new version", force=False)
    )
    assert answer.get("ok") is True, answer
    assert leaving.ended() == 0
    assert f"leaving {resource}-1: drain requested by alice: new version" in leaving.err
    assert leaving.err[-1] == f"stopped {resource}-1"
    done = system.aegis("call", "orders.position", '"a"', "--resource-id", resource)
    assert done.code == 0


async def drain(url: str, **request: Any) -> dict[str, Any]:
    subject = subjects_of("default").api("drain")
    async with await Connection.open(ConnectOptions(url, name="operator")) as connection:
        answer = await connection.request(subject, json.dumps(request).encode(), timeout_s=10.0)
    told: dict[str, Any] = json.loads(answer.payload)
    return told


def test_of_two_with_the_same_id_the_first_ends_with_an_error(system: System) -> None:
    resource = f"acc-{uuid.uuid4().hex[:8]}"
    words = ["serve", "shop:orders", "--resource", resource, "--instance", resource]
    first = system.aegis.start(*words, "--json")
    first.ready()
    second = system.aegis.start(*words)
    second.ready()
    assert first.ended() == 1
    assert (
        f"error: cannot go on as instance {resource!r}: another process registered under that id; "
        "give each process an id of its own, or none"
    ) in first.err
    assert json.loads(first.out[-1])["error"]["code"] == "instance_replaced"
    done = system.aegis("call", "orders.position", '"a"', "--resource-id", resource)
    assert done.code == 0
    assert second.stop() == 0


def test_an_instance_in_quarantine_registers_as_such(system: System) -> None:
    resource = f"acc-{uuid.uuid4().hex[:8]}"
    system.aegis.start("serve", "shop:orders", "--resource", resource, "--quarantine").ready()
    done = system.aegis("log", "tail", "--kind", "ha", "--group", resource, "--json")
    registered = [json.loads(line) for line in done.out.splitlines() if "instance.registered.v1" in line]
    assert [record["data"]["quarantined"] for record in registered] == [True]


@pytest.mark.parametrize("pulse_ms", ["9", "10001", "quick", "0.5"])
def test_a_time_between_pulses_out_of_bounds_is_bad_usage(pulse_ms: str, aegis: Aegis) -> None:
    done = aegis("serve", "shop:orders", "--pulse-ms", pulse_ms)
    assert done.code == 2
    assert f"{pulse_ms!r} is not a number of milliseconds from 10 to 10000" in done.err

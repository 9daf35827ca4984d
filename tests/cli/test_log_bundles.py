"""``aegis log export``, ``verify`` and ``import``: an incident in a file, and back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aegisipc.router.cli.main import main
from aegisipc.sdk import connect
from tests.cli.programs import Aegis, Ended, System

NOBODYS = "019a9e6e-8d5b-7000-8000-3b9aca000001"


def called(system: System, account: str) -> str:
    """Make a call with that account as its argument; returns its id when it has an outcome."""

    async def call() -> str:
        async with connect(system.url, name="trader") as client:
            pending = await client.submit(
                "orders.position", account=account, resource_id="acc_1", timeout=30.0
            )
            await pending.result()
            return pending.call_id

    return asyncio.run(call())


type Run = Callable[..., Ended]


@pytest.fixture
def here(system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs commands in this process, which is quicker."""
    monkeypatch.setenv("AEGIS_URL", system.url)
    monkeypatch.delenv("AEGIS_NAMESPACE", raising=False)

    def run(*words: str) -> Ended:
        code = main(list(words))
        told = capsys.readouterr()
        return Ended(code, told.out, told.err)

    return run


def exported(here: Run, path: Path, *words: str) -> dict[str, Any]:
    done = here("log", "export", *words, "-o", str(path), "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json
    return found


def error_of(done: Ended) -> dict[str, Any]:
    assert done.code == 1, done.out
    assert done.err.startswith("error: cannot ")
    return done.error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "incident.aegis"


def test_a_call_is_exported_verified_and_replayed_without_a_server(
    system: System, here: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = f"konto-{uuid.uuid4().hex}"
    call_id = called(system, account)
    told = exported(here, path, "--around", call_id[:18])
    assert account.encode() in path.read_bytes()
    checked = here("log", "verify", str(path), "--json")
    assert (checked.code, checked.json["ok"], checked.json["refolded"]) == (0, True, True)
    assert checked.json["fingerprint"] == told["fingerprint"]
    assert checked.json["records"] == told["last_seq"] - told["first_seq"] + 1
    monkeypatch.setenv("AEGIS_URL", "nats://127.0.0.1:1")  # nobody is there
    shown = here("replay", "--bundle", str(path), "--until", "end", "--json")
    assert shown.code == 0, shown.err
    assert "orders-1" in shown.out


def test_people_are_told_what_is_in_a_file(system: System, here: Run, path: Path) -> None:
    called(system, "x")
    done = here("log", "export", "--from", "start", "-o", str(path), "--redact", "account")
    assert done.code == 0
    first, redacted, fingerprint = done.out.splitlines()
    assert first.startswith("exported ")
    assert " records (1 to " in first
    assert first.endswith(f" to {path}")
    assert redacted == "  redacted: account"
    checked = here("log", "verify", str(path)).out.splitlines()
    assert checked[0].startswith(f"ok: {path} is what was exported: ")
    assert checked[1].startswith("  of namespace default, 20")
    assert checked[2:] == [redacted, fingerprint]


def test_a_part_is_named_by_points(system: System, here: Run, path: Path) -> None:
    first, last = called(system, "a"), called(system, "b")
    told = exported(here, path, "--from", first, "--to", f"last:{last}")
    assert 1 < told["first_seq"] < told["last_seq"]
    again = exported(here, path, "--from", told["first"], "--to", "-1ms", "--force")
    assert again["first_seq"] <= told["first_seq"]
    assert again["last_seq"] >= told["last_seq"]


def test_what_is_redacted_is_not_in_the_file(system: System, here: Run, path: Path) -> None:
    account = f"konto-{uuid.uuid4().hex}"
    call_id = called(system, account)
    told = exported(here, path, "--around", call_id, "--redact", "account", "--redact", "errors")
    assert told["redacted"] == ["account", "errors"]
    assert account.encode() not in path.read_bytes()
    part = path.with_name("part.aegis")
    again = here(
        "log", "export", "--bundle", str(path), "--from", "start", "-o", str(part), "--redact", "results"
    )
    assert again.code == 0, again.err
    assert here("log", "verify", str(part)).code == 0


def test_a_file_gets_a_name_of_its_own(
    system: System, here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_id = called(system, "x")
    monkeypatch.chdir(tmp_path)
    assert here("log", "export", "--around", call_id).code == 0
    assert here("log", "export", "--from", "1", "--to", "3").code == 0
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["default-1-3.aegis", f"default-call-{call_id[:8]}.aegis"]


def test_a_changed_byte_is_refused_and_its_sequence_named(system: System, here: Run, path: Path) -> None:
    told = exported(here, path, "--from", "1", "--to", "5")
    content = bytearray(path.read_bytes())
    content[content.rindex(b".ha.")] ^= 1
    path.write_bytes(content)
    error = error_of(here("log", "verify", str(path), "--json"))
    assert error["code"] == "bundle_damaged"
    assert 1 <= error["details"]["seq"] <= told["last_seq"]
    people = here("log", "verify", str(path))
    assert f"record {error['details']['seq']} on" in people.err
    path.write_bytes(content[:-100])
    for words in (("replay", "--bundle", str(path)), ("log", "import", str(path), "--namespace", "never")):
        assert error_of(here(*words, "--json"))["code"] == "bundle_damaged"


def test_a_bundle_becomes_a_log_again(system: System, here: Run, path: Path) -> None:
    called(system, "x")
    told = exported(here, path, "--from", "start")
    namespace = f"rehearsal-{uuid.uuid4().hex[:8]}"
    done = here("log", "import", str(path), "--namespace", namespace)
    assert done.code == 0, done.err
    assert f"of namespace default into namespace {namespace}" in done.out
    assert "times are those of this import" in done.out
    tail = here("log", "tail", "-n", "1", "--namespace", namespace, "--json")
    assert tail.json["seq"] == told["last_seq"]
    again = error_of(here("log", "import", str(path), "--namespace", namespace, "--json"))
    assert (again["code"], again["details"]) == ("namespace_in_use", {"namespace": namespace})
    router = system.aegis.start("router", "--namespace", namespace, "--name", "rehearsing", "--json")
    assert json.loads(router.ready())["position"] >= told["last_seq"]
    assert router.stop() == 0


def test_what_cannot_be_exported_is_said(system: System, here: Run, path: Path) -> None:
    def refused(*words: str) -> str:  # to the path as of then
        code: str = error_of(here("log", "export", *words, "-o", str(path), "--json"))["code"]
        return code

    assert refused("--around", NOBODYS) == "unknown_call"
    assert refused("--from", "5", "--to", "2") == "bad_range"
    assert refused("--from", "2020-01-01") == "point_outside_log"
    assert refused("--from", "1", "--to", "99999999") == "point_outside_log"
    assert refused("--from", "1", "--namespace", "nobody-s") == "log_missing"
    assert refused("--from", "1", "--bundle", str(path)) == "os_error"
    assert not path.exists()
    exported(here, path, "--from", "1", "--to", "2")
    assert refused("--from", "1") == "bundle_exists"
    path = path.parent / "nowhere" / "x.aegis"
    assert refused("--from", "1") == "os_error"


@pytest.mark.parametrize(
    "words", [["log", "verify"], ["replay", "--bundle"], ["log", "export", "--from", "1", "--bundle"]]
)
def test_reading_a_long_bundle_ends_at_ctrl_c(aegis: Aegis, tmp_path: Path, words: list[str]) -> None:
    """Of a pipe into which nobody writes no reading ever ends by itself."""
    path = tmp_path / "endless"
    os.mkfifo(path)
    program = aegis.start(*words, str(path))
    with path.open("wb"):  # opened as soon as it is read
        assert program.stop(signal.SIGINT) == 130
    assert program.err == []


def test_another_file_is_no_bundle(here: Run, path: Path) -> None:
    path.write_text("hello", encoding="utf-8")
    assert error_of(here("log", "verify", str(path), "--json"))["code"] == "not_a_bundle"
    missing = here("log", "verify", str(path.with_name("none")), "--json")
    assert (missing.code, missing.error["code"]) == (1, "os_error")


@pytest.mark.parametrize(
    "words",
    [
        ["export"],
        ["export", "--around", NOBODYS, "--from", "1"],
        ["export", "--around", "nothing"],
        ["export", "--around", "5"],
        ["export", "--from", "yesterday"],
        ["export", "--from", "1", "--redact", ""],
        ["verify"],
        ["import"],
        ["import", "x.aegis", "--replicas", "0"],
        ["verify", "x.aegis", "--url", "nats://x"],
    ],
)
def test_what_makes_no_sense_is_bad_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["log", *words])
    assert ended.value.code == 2
    assert "usage: aegis log" in capsys.readouterr().err

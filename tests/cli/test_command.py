"""The command itself: how it starts, what it says about itself, how it fails."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest

from aegisipc.eventstore import cli
from aegisipc.eventstore.nats.options import DEFAULT_URL
from aegisipc.router.cli import dispatch
from aegisipc.router.cli.main import VERSION, main
from aegisipc.sdk.connect_options import DEFAULT_NAMESPACE
from tests.cli.programs import COMMAND, SERVICES, Aegis, Ended, System
from tests.support.fake_server import fake_server

HEAVY = {"asyncio", "nats", "pydantic", "statemachine", "structlog", "uvloop", "rich", "msgpack"}
IMPORTED = """
import sys
from aegisipc.router.cli.main import main
main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
"""


def modules_after(words: list[str], environment: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_the_version_is_told_with_next_to_nothing_imported(environment: dict[str, str]) -> None:
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules, file=sys.stderr)"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    extra = modules_after(["--version"], environment) - set(bare.stderr.split())
    assert all(name.startswith("aegisipc") for name in extra), extra
    assert len(extra) <= 6
    assert "aegisipc.router.cli.dispatch" not in extra


@pytest.mark.parametrize("words", [["--help"], ["help"]])
def test_the_list_of_verbs_imports_nothing_heavy(words: list[str], environment: dict[str, str]) -> None:
    assert modules_after(words, environment).isdisjoint(HEAVY)


@pytest.mark.parametrize("verb", ["dev", "router", "serve", "call", "status", "log", "doubt"])
def test_the_help_of_a_verb_imports_nothing_heavy_and_shows_an_example(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert f"aegis {verb}" in out.partition("examples:")[2]
    assert max(map(len, out.splitlines())) <= 120


def test_the_version_is_that_of_the_distribution() -> None:
    assert metadata.version("aegisipc-router") == VERSION


def test_the_installed_script_is_this_command(environment: dict[str, str]) -> None:
    script = Path(sys.executable).with_name("aegis")
    done = subprocess.run([script, "--version"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"aegis {VERSION}\n"


def test_the_defaults_are_those_of_the_library() -> None:
    assert (cli.DEFAULT_URL, cli.DEFAULT_NAMESPACE) == (DEFAULT_URL, DEFAULT_NAMESPACE)


def test_help_lists_every_verb_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("dev", "router", "serve", "call", "status", "log", "doubt"):
        assert f"\n  {name} " in out


def test_every_verb_is_called_what_the_table_says() -> None:
    for name in dispatch.OWN:
        verb = dispatch.load(name)
        assert verb is not None
        assert verb.name == name
        assert verb.help[0].islower()
        assert not verb.help.endswith(".")


def test_nothing_is_bad_usage_and_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "meant"), [("stauts", "status"), ("route", "router"), ("cal", "call")])
def test_an_unknown_verb_suggests_the_nearest(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([typed]) == 2
    assert f"did you mean {meant!r}?" in capsys.readouterr().err


def test_an_unknown_verb_like_no_other_suggests_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qqqqqq"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_options_before_the_verb_are_told_where_to_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "nats://x", "status"]) == 2
    assert "the verb comes first" in capsys.readouterr().err


def test_a_verb_that_cannot_be_loaded_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(dispatch.OWN, "broken", "no.such.module:VERB")
    assert main(["--help"]) == 0
    assert "cannot be loaded" in capsys.readouterr().out
    assert main(["broken"]) == 1
    assert "error: cannot load the verb 'broken'" in capsys.readouterr().err


# -- errors of every verb that talks to a server -----------------------------------------------------------

CALL = ("call", "orders.position")
SERVE = ("serve", "shop:orders", "--wait", "0")
VERBS = [("status",), ("log", "tail"), ("doubt", "list"), CALL, SERVE, ("router", "--wait", "0")]


def outcomes(aegis: Aegis, commands: Sequence[Sequence[str]], *options: str) -> Iterator[tuple[str, Ended]]:
    """Run commands side by side; what each of them is, and how it ended."""
    running = [aegis.start(*words, "--json", *options) for words in commands]
    for words, program in zip(commands, running, strict=True):
        code = program.ended()
        yield words[0], Ended(code, "\n".join(program.out), "\n".join(program.err))


def test_no_server_is_an_error_in_one_line(aegis: Aegis) -> None:
    for verb, done in outcomes(aegis, VERBS, "--url", "nats://127.0.0.1:1"):
        assert (done.code, done.error["code"]) == (1, "not_connected"), verb
        assert done.err == f"error: {done.error['message']}", verb


async def test_a_server_that_is_too_old_is_named(aegis: Aegis) -> None:
    info = {"version": "2.9.0", "server_id": "X", "max_payload": 1048576, "jetstream": True, "headers": True}
    async with fake_server(info) as url:
        ended = await asyncio.to_thread(lambda: list(outcomes(aegis, VERBS, "--url", url)))
    for verb, done in ended:
        assert (done.code, done.error["code"]) == (1, "server_unsuitable"), verb
        assert "2.9.0" in done.err


def test_an_illegal_namespace_is_an_error(aegis: Aegis, tmp_path: Path) -> None:
    for verb, done in outcomes(aegis, [*VERBS, ("dev", "--data", str(tmp_path))], "--namespace", "a.b"):
        assert (done.code, done.error["code"]) == (1, "invalid_name"), verb
        assert "namespace" in done.err, verb


def test_an_illegal_url_is_an_error_that_tells_no_password(aegis: Aegis) -> None:
    for verb, done in outcomes(aegis, VERBS, "--url", "http://user:secret@x"):
        assert (done.code, done.error["code"]) == (1, "invalid_name"), verb
        assert "secret" not in done.err + done.out, verb


def test_a_namespace_without_a_log_is_an_error(system: System) -> None:
    for verb, done in outcomes(system.aegis, VERBS[:5], "--namespace", "nobody"):
        assert (done.code, done.error["code"]) == (1, "log_missing"), verb
        assert "aegis router" in done.err, verb


def test_a_reader_that_goes_away_ends_the_command_quietly(system: System) -> None:
    env = system.aegis.env
    with subprocess.Popen(
        [*COMMAND, "log", "tail", "-f", "--from", "1"],
        env=env,
        cwd=SERVICES,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.stdout.close()
        while program.poll() is None:  # each call makes records, until the next write finds nobody
            system.aegis("call", "orders.position", '"acc_1"', "--resource-id", "acc_1")
        assert program.stderr is not None
        assert program.stderr.read() == b""
        assert program.returncode == 141


def test_ctrl_c_ends_a_command_without_a_traceback(system: System) -> None:
    follow = system.aegis.start("log", "tail", "-f", "--from", "1")
    follow.line("router.elected")
    assert follow.stop(signal.SIGINT) == 130
    assert follow.err == []

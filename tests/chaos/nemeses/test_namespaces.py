"""Real packets between network namespaces, and their loss. Without root, that the error says so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from aegisipc.chaos.nemeses.commands import run
from aegisipc.chaos.nemeses.errors import NemesisFailed, Unavailable
from aegisipc.chaos.nemeses.namespaces import HOST, Namespaces, sweep
from aegisipc.chaos.nemeses.processes import Victim
from aegisipc.eventstore.errors import AckUnknown
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.support.waiting import eventually

# Says "ready", and then the number of each datagram that it receives; sends one to the address for each line.
TALKER = """
import socket, sys, threading
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 5000))
def listen():
    while True:
        print(s.recv(99).decode(), flush=True)
threading.Thread(target=listen, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    address, word = line.split()
    s.sendto(word.encode(), (address, 5000))
    print("sent " + word, flush=True)
"""


def is_there(namespace: str) -> bool:
    return Path("/run/netns", namespace).exists()


def network_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


class Talker:
    """A process that sends and receives datagrams, in a namespace."""

    def __init__(self, prefix: list[str]) -> None:
        self.prefix = prefix
        self.heard: list[str] = []

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *self.prefix, sys.executable, "-c", TALKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"ready\n"
        self.hearing = asyncio.create_task(self._hear(self.process.stdout))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.kill()
        await self.process.wait()
        await self.hearing

    async def _hear(self, output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            self.heard.append(line.decode().strip())

    def say(self, address: str, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{address} {word}\n".encode())


async def is_said(sender: Talker, address: str, word: str) -> None:
    sender.say(address, word)
    await eventually(lambda: f"sent {word}" in sender.heard, within_s=10)


async def arrives(sender: Talker, receiver: Talker, address: str, word: str) -> None:
    for _ in range(50):
        sender.say(address, word)
        try:
            await eventually(lambda: word in receiver.heard, within_s=0.2)
        except AssertionError:
            continue
        return
    raise AssertionError(f"{word} never arrived")


async def test_packets_are_lost_one_way_both_ways_and_for_one_member() -> None:
    if os.geteuid() != 0:
        with pytest.raises(Unavailable, match="only root may"):
            await Namespaces().__aenter__()
        return
    async with Namespaces() as network:
        a, b = await network.add("a"), await network.add("b")
        async with Talker(network.prefix("a")) as at_a, Talker(network.prefix("b")) as at_b:
            assert network_of(at_a.process.pid) != network_of(os.getpid())
            await arrives(at_a, at_b, b, "before")
            await network.cut_one_way("a", "b")
            await is_said(at_a, b, "lost")
            await arrives(at_b, at_a, a, "other-way")
            await network.isolate("b")
            await is_said(at_b, a, "lost")
            await network.heal("b")
            await arrives(at_a, at_b, b, "after")
            await arrives(at_b, at_a, a, "after")
            assert "lost" not in at_a.heard + at_b.heard
        with pytest.raises(NemesisFailed, match="new short word"):
            await network.add("a")
        with pytest.raises(NemesisFailed, match="add it first"):
            network.address("c")
        host = network.address(HOST)
        assert host in await run(["ip", "address", "show"])
        names = [network.namespace(member) for member in ("a", "b", "sw")]
        assert all(map(is_there, names))
    assert not any(map(is_there, names))
    assert host not in await run(["ip", "address", "show"])


async def test_a_server_on_the_host_loses_a_client_of_another_namespace(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        with pytest.raises(Unavailable):
            await sweep()
        return
    async with Namespaces() as network:
        await network.add("a")
        host = network.address(HOST)
        assert network.prefix(HOST) == []
        # A relay inside of the namespace: the client's packets all pass the virtual cables.
        async with EmbeddedServer(tmp_path / "nats", host=host, fsync=False) as server:
            relay = await _relay(network, host, server.port)
            try:
                options = ConnectOptions(f"nats://{network.address('a')}:6000", name="far")
                async with await Connection.open(options) as connection:

                    async def answer(message: object) -> None:
                        await connection.publish("pong", b"")

                    await connection.subscribe("ping", answer)
                    await connection.wait_connected(5)
                    await network.isolate("a")
                    with pytest.raises(AckUnknown):
                        await connection.request("$JS.API.INFO", b"", timeout_s=0.3)
                    await network.heal()
                    async with asyncio.timeout(20):
                        while True:
                            try:
                                await connection.wait_connected(10)
                                await connection.request("$JS.API.INFO", b"", timeout_s=2)
                            except AckUnknown:
                                continue
                            break
            finally:
                Victim(relay.pid).kill()
                await relay.wait()


RELAY = """
import asyncio, sys
host, port = sys.argv[1], int(sys.argv[2])
async def pump(source, sink):
    while chunk := await source.read(65536):
        sink.write(chunk)
    sink.close()
async def serve(reader, writer):
    other_reader, other_writer = await asyncio.open_connection(host, port)
    await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", 6000) as server:
        print("ready", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


async def _relay(network: Namespaces, host: str, port: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *network.prefix("a"),
        sys.executable,
        "-c",
        RELAY,
        host,
        str(port),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def test_what_a_crashed_run_left_is_swept_and_nothing_else() -> None:
    if os.geteuid() != 0:
        with pytest.raises(Unavailable, match="run as root"):
            await sweep()
        return
    crashed = """
import asyncio, os
from aegisipc.chaos.nemeses.namespaces import Namespaces
async def main():
    network = await Namespaces().__aenter__()
    await network.add("a")
    print(network.namespace("a"), flush=True)
    os._exit(1)
asyncio.run(main())
"""
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", crashed, stdout=subprocess.PIPE)
    output, _ = await done.communicate()
    left = output.decode().strip()
    assert is_there(left)
    async with Namespaces(with_host=False) as network:  # sweeps as it begins
        await network.add("mine")
        assert not is_there(left)
        assert not any(str(os.getpid()) in name for name in await sweep())
        assert is_there(network.namespace("mine"))

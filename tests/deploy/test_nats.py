"""The NATS configuration: real servers accept it, and form a cluster."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from aegisipc.eventstore.log import Expect
from aegisipc.eventstore.streams import LogOptions, create_log
from aegisipc.router.infrastructure.server_config import find_server_binary
from tests.deploy.cluster import NATS, ROOT, SUBJECTS, Cluster, variables
from tests.deploy.commands import check_aegis_command


def check(config: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_server_binary(), "-t", "-c", config],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_server_accepts_the_configuration(tmp_path: Path) -> None:
    checked = check(
        NATS / "nats.conf", variables("nats-1", (4222, 6222, 8222), "[nats://127.0.0.1:6222]", tmp_path)
    )
    assert checked.returncode == 0, checked.stderr


def test_a_server_accepts_the_configuration_by_role(by_role: Path, tmp_path: Path) -> None:
    checked = check(by_role, variables("nats-1", (4222, 6222, 8222), "[nats://127.0.0.1:6222]", tmp_path))
    assert checked.returncode == 0, checked.stderr


def test_a_server_refuses_to_start_without_a_password(tmp_path: Path) -> None:
    environment = variables("nats-1", (4222, 6222, 8222), "[nats://127.0.0.1:6222]", tmp_path)
    del environment["AEGIS_PASSWORD"]
    checked = check(NATS / "nats.conf", environment)
    assert checked.returncode != 0
    assert "AEGIS_PASSWORD" in checked.stderr


def test_the_page_shows_only_commands_that_exist() -> None:
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("aegis ")]
    assert {shlex.split(command)[1] for command in commands} >= {"router", "serve", "call"}
    for command in commands:
        check_aegis_command(shlex.split(command)[1:])


@pytest.mark.slow
async def test_three_servers_form_a_cluster_that_keeps_three_copies(cluster: Cluster) -> None:
    async with await cluster.connect("router") as router:
        log = await create_log(router, SUBJECTS, LogOptions(replicas=3, max_bytes=1 << 30))
        appended = await log.append(SUBJECTS.term, b"elected", expect=Expect(0))
        answer = await router.request(f"$JS.API.STREAM.INFO.{SUBJECTS.stream}", b"", timeout_s=5)
    assert appended.seq == 1
    peers = json.loads(answer.payload)["cluster"]
    assert {peers["leader"], *(peer["name"] for peer in peers["replicas"])} == {"nats-1", "nats-2", "nats-3"}

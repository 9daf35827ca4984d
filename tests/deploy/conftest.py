"""Servers for these tests: one cluster per module, since its log begins empty."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegisipc.router.infrastructure.child import ChildProcess
from aegisipc.router.infrastructure.free_ports import choose_free_port
from aegisipc.router.infrastructure.server_config import find_server_binary
from tests.deploy.cluster import NATS, Cluster, variables, wait_healthy

START_S = 30.0


@pytest.fixture(scope="module")
def by_role(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration with the change that the page describes."""
    folder = tmp_path_factory.mktemp("by-role")
    shutil.copytree(NATS, folder, dirs_exist_ok=True)
    config = folder / "nats.conf"
    text = config.read_text(encoding="utf-8")
    changed = text.replace("include ./accounts.conf", "include ./accounts-by-role.conf")
    assert changed != text
    config.write_text(changed, encoding="utf-8")
    return config


@pytest.fixture(scope="module")
def cluster(by_role: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers on free ports, started the way the page starts them."""
    folder = tmp_path_factory.mktemp("cluster")
    taken: list[int] = []
    for _ in range(9):
        taken.append(choose_free_port("127.0.0.1", avoid=taken))
    routes = ", ".join(f"nats://route:route-secret@127.0.0.1:{port}" for port in taken[3:6])
    env = shutil.which("env")
    assert env is not None
    children: list[ChildProcess] = []
    try:
        for index in range(3):
            ports = (taken[index], taken[index + 3], taken[index + 6])
            settings = variables(f"nats-{index + 1}", ports, f"[{routes}]", folder / f"nats-{index + 1}")
            words = [f"{name}={value}" for name, value in settings.items()]
            argv = [env, *words, str(find_server_binary()), "-c", str(by_role)]
            children.append(ChildProcess(argv, folder / f"nats-{index + 1}.log"))
        deadline = time.monotonic() + START_S
        for monitor_port in taken[6:]:
            wait_healthy(monitor_port, deadline)
        yield Cluster(tuple(taken[:3]), tuple(folder / f"nats-{index + 1}.log" for index in range(3)))
    finally:
        for child in children:
            child.send(signal.SIGKILL)
            child.exit_status.result(10)

"""Fixtures: the command in a clean environment, and one running ``aegis dev`` for all who do it no harm."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cli.programs import SERVICES, Aegis, System, clean_environment


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return clean_environment(tmp_path_factory.mktemp("pycache"))


@pytest.fixture
def aegis(environment: dict[str, str]) -> Iterator[Aegis]:
    """The command; whatever a test leaves running is killed."""
    runner = Aegis(environment, SERVICES, [])
    yield runner
    runner.kill_all()


@pytest.fixture(scope="session")
def shared_system(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    root = tmp_path_factory.mktemp("system")
    runner = Aegis(environment | {"TRACE": str(root / "trace")}, SERVICES, [])
    try:
        dev = runner.start("dev", "--data", str(root / "data"), "--port", "0", "--no-fsync", "--json")
        url = json.loads(dev.ready())["url"]
        here = runner.at(url)
        here.start(
            "serve",
            "shop:orders",
            "--group",
            "g1",
            "--resource",
            "acc_1",
            "--resource",
            "acc_2",
            "--instance",
            "orders-1",
        ).ready()
        yield System(url, "orders-1", here)
    finally:
        for program in reversed(runner.running):
            program.stop()


@pytest.fixture
def system(shared_system: System, aegis: Aegis) -> System:
    """The shared system; what a test starts there itself is killed at its end."""
    runner = Aegis(shared_system.aegis.env, SERVICES, aegis.running)
    return System(shared_system.url, shared_system.instance, runner)

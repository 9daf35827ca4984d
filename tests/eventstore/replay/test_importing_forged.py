"""Importing what no export wrote, though each byte is what its chain says."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegisipc.eventstore.errors import LogMissing
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.replay import CannotImport, import_bundle
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.eventstore.conftest import connect_options
from tests.eventstore.replay.bundle_kit import Incident, entries_of, exported
from tests.eventstore.replay.test_bundle_damage import forged


async def test_records_of_no_log_are_not_left_out_in_silence(
    shared_server: EmbeddedServer, tmp_path: Path
) -> None:
    """No export writes such a bundle; whoever did wants something."""
    path, namespace = tmp_path / "forged.aegis", "forged1"
    await exported(Incident().source, path)
    forged(path, lambda entries: entries[-2].__setitem__(2, "$JS.API.STREAM.PURGE.AEGIS_t"))
    assert entries_of(path)[-2].kind == "record"
    async with await Connection.open(connect_options(shared_server.url)) as connection:
        with pytest.raises(CannotImport, match="records are of no log"):
            await import_bundle(connection, path, namespace)
        with pytest.raises(LogMissing):
            await open_log(connection, subjects_of(namespace))

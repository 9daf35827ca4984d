"""``aegis projector`` and ``aegis router --sql``: the read model, kept by the real command."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from aegisipc.router.cli.main import main
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.cli.programs import Aegis

PATIENCE_S = 30.0


def count(path: Path, what: str) -> int:
    connection = sqlite3.connect(path)
    try:
        found: int = connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
    finally:
        connection.close()
    return found


def eventually(path: Path, what: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not count(path, what):
        assert time.monotonic() < give_up_at, f"not in time: {what}"
        time.sleep(0.05)


def test_it_fills_the_tables_and_status_says_how_far(
    aegis: Aegis, shared_server: EmbeddedServer, tmp_path: Path
) -> None:
    here = aegis.at(shared_server.url, "cli-projector")
    router = here.start("router", "--name", "r1")
    router.ready()
    sql = f"sqlite:///{tmp_path / 'model.db'}"
    missing = here("projector", "--sql", sql, "--json")
    assert (missing.code, missing.error["code"]) == (1, "database_unreachable")
    assert "aegis migrate up" in missing.error["message"]
    assert aegis("migrate", "up", "--sql", sql).code == 0
    projector = here.start("projector", "--sql", sql, "--json")
    told = json.loads(projector.ready())
    assert (told["ready"], told["namespace"], told["pid"]) == (True, "cli-projector", projector.pid)
    serving = here.start("serve", "shop:orders", "--group", "g1", "--resource", "acc_1", "--instance", "o-1")
    serving.ready()
    eventually(tmp_path / "model.db", "aegis_groups WHERE holder = 'o-1'")
    assert serving.stop() == 0
    eventually(tmp_path / "model.db", "aegis_instances WHERE state = 'left'")
    status = aegis("migrate", "status", "--sql", sql, "--url", shared_server.url, "--json").json
    assert status["checkpoint"]["namespace"] == "cli-projector"
    assert status["log_end"] - status["checkpoint"]["position"] == status["lag_records"]
    assert projector.stop() == 0
    done = here("migrate", "rebuild", "--sql", sql, "--json").json
    assert (done["level"], done["position"]) == ("all", status["log_end"])
    other = aegis.at(shared_server.url, "cli-projector-2")
    second = other.start("router")
    second.ready()
    refused = other("projector", "--sql", sql, "--json")
    assert (refused.code, refused.error["code"]) == (1, "wrong_namespace")
    assert router.stop() == 0
    assert second.stop() == 0


def test_a_router_keeps_the_read_model_and_is_not_hurt_by_it(
    aegis: Aegis, shared_server: EmbeddedServer, tmp_path: Path
) -> None:
    here = aegis.at(shared_server.url, "cli-router-sql")
    path = tmp_path / "model.db"
    sql = f"sqlite:///{path}"
    router = here.start("router", "--sql", sql)
    router.ready()
    router.line("projector_failed", stream="err")
    router.line('"leading"', stream="err")
    assert aegis("migrate", "up", "--sql", sql).code == 0
    serving = here.start("serve", "shop:orders", "--group", "g1", "--resource", "a", "--instance", "o-1")
    serving.ready()
    eventually(path, "aegis_groups WHERE holder = 'o-1'")
    assert status(here)["error"] is None
    assert status(here)["position"] > 0
    assert serving.stop() == 0
    assert router.stop() == 0


def status(here: Aegis) -> dict[str, Any]:
    found: dict[str, Any] = here("status", "--json").json["router"]["projector"]
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["projector", "--calls", "some"],
        ["projector", "--capture", "bodies"],
        ["projector", "--capture", "results", "--calls", "failures"],
        ["projector", "--redact", "a\nb"],
        ["projector", "--keep-calls", "long"],
        ["projector", "--keep-calls", "0d"],
        ["projector", "--keep-history", "-1d"],
        ["router", "--calls", "some"],
        ["router", "--redact", "iban"],
        ["router", "--keep-calls", "30d"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_told_as_such(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_a_router_refuses_what_can_be_no_database(aegis: Aegis, shared_server: EmbeddedServer) -> None:
    done = aegis.at(shared_server.url, "cli-router-no-sql")(
        "router", "--sql", "mysql://u:secret@h/d", "--json"
    )
    assert done.code == 1
    assert '"database_unsupported"' in done.out
    assert "secret" not in done.out + done.err

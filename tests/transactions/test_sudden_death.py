"""The proof: a process that is killed at any moment of a call leaves one effect, or none and the next run
makes it; and all runs after that tell the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import select

from aegisipc.eventstore.codec import decode
from tests.support.postgres import PostgresServer
from tests.transactions.kit import Entry, Place

ROOT = Path(__file__).parents[2]


def die(url: str) -> dict[str, Any]:
    found = subprocess.run(
        [sys.executable, "-m", "tests.transactions.dying", url, "1000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    told: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return told


def entries(place: Place) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    with place.plain() as engine, engine.connect() as connection:
        for account, number in connection.execute(select(Entry.account, Entry.id)):
            found.setdefault(account, []).append(number)
    return found


def check(place: Place, least: int) -> None:
    told = die(place.async_url)
    killed, (first, second) = told["killed"], told["runs"]
    assert told["lived"] is not None, "it never came to its end"
    assert len(killed) >= least, "it had fewer awaits than it must have: it was not killed at all of them"
    assert first == second, "runs after the deaths tell different things"
    assert [(mark, len(emitted)) for mark, _, emitted in first] == [("SUCCEEDED", 1)] * len(killed)
    lines = entries(place)
    effects = {number: len(lines.get(str(number), [])) for number in killed}
    assert effects == dict.fromkeys(killed, 1), "not exactly one effect of each"
    assert [decode(bytes.fromhex(body)) for _, body, _ in first] == [lines[str(n)][0] for n in killed]
    assert len(lines) == len(killed) + 2, "there are others than these, the one that lived, and the warm-up"


def test_killed_at_every_await_it_takes_effect_exactly_once_in_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    place = Place(f"sqlite+aiosqlite:///{path}", f"sqlite:///{path}")
    place.make_tables()
    check(place, 30)


def test_killed_at_every_await_it_takes_effect_exactly_once_in_postgresql(
    postgres: PostgresServer, postgres_database: str
) -> None:
    place = Place(postgres.url(postgres_database), postgres.url(postgres_database, "psycopg"))
    place.make_tables()
    check(place, 20)

"""docs/read-model.md: the tables are those that it names, and its statements run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from aegisipc.eventstore.sql.models import Base

PAGE = (Path(__file__).parents[2] / "docs" / "read-model.md").read_text(encoding="utf-8")
STATEMENTS = [
    statement.strip()
    for block in re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for statement in block.split(";")
    if statement.strip()
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_each_statement_runs(statement: str, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'model.db'}")
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        assert connection.execute(text(statement)).all() == []
    engine.dispose()


@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_each_table_is_told_with_all_its_columns(table: str) -> None:
    (row,) = re.findall(rf"^\| `{table}` \|.*$", PAGE, re.MULTILINE)
    told = set(re.findall(r"`(\w+)`", row)) - {table}
    assert set(Base.metadata.tables[table].columns.keys()) <= told

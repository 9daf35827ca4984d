"""The examples of docs/transactions.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert, select

from aegisipc.sdk.transactions import create_table
from tests.transactions.kit import execute, value

PAGE = (Path(__file__).parents[2] / "docs" / "transactions.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^ *```python\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
URL = '"postgresql+asyncpg://accounts@db/accounts"'


async def test_the_first_example_credits_once(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    (code,) = (found for found in EXAMPLES if "async def credit" in found)
    assert URL in code
    names: dict[str, Any] = {"__name__": "example"}
    exec(
        compile(code.replace(URL, f'"sqlite+aiosqlite:///{path}"'), "docs/transactions.md", "exec", 0, True),
        names,
    )
    engine = create_engine(f"sqlite:///{path}")
    create_table(engine)
    names["Base"].metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(names["Account"]).values(name="a", balance=1))
    done = [await execute(names["accounts"], "credit", "a", 5, instance=instance) for instance in "ab"]
    await names["engine"].dispose()
    with engine.connect() as connection:
        balance = connection.execute(select(names["Account"].balance)).scalar_one()
    engine.dispose()
    assert [value(one) for one in done] == [6, 6]
    assert balance == 6


def test_the_example_of_a_migration_names_what_there_is() -> None:
    (code,) = (found for found in EXAMPLES if "def upgrade" in found)
    names: dict[str, Any] = {}
    exec(compile("\n".join(line[2:] for line in code.splitlines()), "docs/transactions.md", "exec"), names)
    assert "aegis_effects" in names["metadata"].tables

"""The databases of tests/transactions; and no trace of a command that ran in this process."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.transactions.conftest import postgres, postgres_database

__all__ = ["postgres", "postgres_database"]


@pytest.fixture(autouse=True)
def _own_garbage() -> Iterator[None]:
    """A command tunes the collection of garbage for its short life."""
    usual = gc.get_threshold()
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()

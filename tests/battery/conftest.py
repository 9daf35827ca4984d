"""Fixtures: the process that forks all others, and servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.battery.zygote import Zygote, running_zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    with running_zygote() as found:
        yield found

"""Fixtures: the process that forks all others, and servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aegisipc.chaos.real.zygote import Zygote, running_zygote
from tests.battery.roles import IMPORTED


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with running_zygote(tmp_path_factory.mktemp("zygote"), first=IMPORTED) as found:
        yield found

"""Of processes that end by themselves: which are only started again, and which are told of as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from aegisipc.chaos.real.members import Shape
from aegisipc.chaos.real.scene import Scene
from aegisipc.chaos.real.zygote import Child, Zygote

TOLD = "error: cannot connect to nats://127.0.0.1:1: refused\n"


class NoZygote:
    """Forks nothing; what it would have forked runs for ever."""

    def fork(self, _function: str, output: Path, _args: dict[str, Any], **_more: Any) -> Child:
        return Child(cast("Zygote", self), 1, output)

    def ask(self, **_request: Any) -> dict[str, Any]:
        return {"code": None}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(Shape(), [], cast("Zygote", NoZygote()), tmp_path, "seed")
    made.start(made.members["caller1"])
    return made


def _ends(scene: Scene, said: str, code: int = 1) -> list[str]:
    """Let it say that and end, and look; return what is told of it."""
    child = scene.members["caller1"].child
    assert child is not None
    child.output.write_text(said, encoding="utf-8")
    child.code = code
    scene.look()
    assert scene.members["caller1"].lives == 2
    return scene.ended


def test_who_cannot_begin_while_something_is_broken_is_only_started_again(scene: Scene) -> None:
    with scene.fault("kill", "server1"):
        assert _ends(scene, "warning\n" + TOLD) == []


def test_that_counts_also_if_it_was_healed_meanwhile(scene: Scene) -> None:
    with scene.fault("kill", "server1"):
        pass
    assert _ends(scene, TOLD) == []


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('{"event": "ready"}\n' + TOLD, 1),
        ("Traceback (most recent call last):\nKeyError: 'x'\n", 1),
        (TOLD, -11),
        ("", 1),
    ],
)
def test_of_any_other_end_the_last_that_was_said_is_kept(scene: Scene, said: str, code: int) -> None:
    with scene.fault("kill", "server1"):
        (told,) = _ends(scene, said, code)
    assert told == f"caller1 ended by itself with exit code {code}: {said.rstrip()}"


def test_who_cannot_begin_though_nothing_is_broken_is_told_of(scene: Scene) -> None:
    (told,) = _ends(scene, TOLD)
    assert told.endswith(TOLD.rstrip())

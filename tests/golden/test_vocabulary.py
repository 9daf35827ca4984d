"""Whatever was ever written into a log can be read: no type, version or mark goes, or comes, unnoticed."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path
from typing import Any, Final

import pytest

from aegisipc import eventstore
from aegisipc.eventstore import frames
from aegisipc.eventstore.events import REGISTRY
from aegisipc.eventstore.frames import Mark
from tests.eventstore import test_frames
from tests.golden.reading import bundles, expected_of, type_of

TYPE: Final = re.compile(r"[a-z_]+(\.[a-z_]+)*\.v[0-9]+")

FRAMES: Final = ("GOLDEN_CALLS_HEX", "GOLDEN_CALLS_V1_HEX", "GOLDEN_PEN_HEX")
"""Frames whose bytes are frozen in tests/eventstore/test_frames.py."""

NOT_FROZEN: Final[dict[str, str]] = {}
"""What is neither in a golden history nor in a fixture, and why that is as it should be."""


def known() -> set[str]:
    """All that this version can read: types of events, of frames and of other records; marks."""
    marks = {f"mark {mark.name.lower()}" for mark in Mark}
    return REGISTRY.classes.keys() | REGISTRY.upcasters.keys() | frame_types() | other_types() | marks


def frame_types() -> set[str]:
    return {*frames._CALLS_READERS, *frames._PEN_READERS}


def other_types() -> set[str]:
    """Types that a module of the event store names in a constant of its own: ``SEGMENT_TYPE``."""
    found: set[str] = set()
    for module in pkgutil.iter_modules(eventstore.__path__, f"{eventstore.__name__}."):
        if not module.ispkg:
            values = vars(importlib.import_module(module.name)).values()
            found |= {value for value in values if isinstance(value, str) and TYPE.fullmatch(value)}
    return found


def recorded() -> set[str]:
    """All that is in a golden history."""
    return {word for path in bundles() for word in expected_of(path)["words"]}


def fixed() -> set[str]:
    """All that is in a fixture."""
    path = Path(test_frames.__file__).parent / "fixtures" / "events.json"
    fixtures: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    frozen = (bytes.fromhex(getattr(test_frames, name)) for name in FRAMES)
    return {fixture["type"] for fixture in fixtures} | {type_of(frame) for frame in frozen}


def test_the_search_finds_what_there_is() -> None:
    assert {"calls.v1", "calls.v2", "pen.v1"} == frame_types()
    assert {"group.snapshot.v2", "keys.v1", "system.snapshot.v1", "system.snapshot_part.v1"} <= other_types()
    assert "mark claimed" in recorded() & known()
    assert "group.promoted.v1" in recorded() & fixed() & known()


def test_whatever_can_be_written_is_frozen_somewhere_or_it_is_said_why_not() -> None:
    frozen = recorded() | fixed()
    assert known() - frozen == NOT_FROZEN.keys(), "record it (tests/golden/record.py), or say why not"
    assert all(NOT_FROZEN.values())


def test_whatever_was_ever_recorded_can_still_be_read() -> None:
    assert recorded() | fixed() <= known()


@pytest.mark.parametrize("mark", Mark, ids=lambda mark: mark.name.lower())
def test_every_mark_is_in_a_history_of_a_real_system(mark: Mark) -> None:
    assert f"mark {mark.name.lower()}" in recorded()


def test_marks_keep_their_numbers() -> None:
    assert {mark.name: mark.value for mark in Mark} == {
        "CLAIMED": 0,
        "SUCCEEDED": 1,
        "FAILED": 2,
        "EXPIRED": 3,
        "IN_DOUBT": 4,
        "NOT_EXECUTED": 5,
        "EXECUTED": 6,
        "EMITTED": 7,
        "CHECKED": 8,
        "ATTEMPTED": 9,
        "DEAD_LETTERED": 10,
        "KEYED": 11,
        "RELEASED": 12,
        "DUPLICATE": 13,
        "RETRY_SCHEDULED": 14,
        "REQUEUED": 15,
        "DISCARDED": 16,
        "CANCELLED": 17,
    }

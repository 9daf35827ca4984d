"""Call ids: UUIDv7 that rise within a session, whatever its clock does."""

from __future__ import annotations

import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.errors import MalformedPayload
from aegisipc.eventstore.ids import SESSION_BITS, CallIds, format_call_id, parse_call_id, time_of

NOW_MS = 1_763_000_000_000
times = st.integers(0, (1 << 48) - 1)
sessions = st.integers(0, (1 << SESSION_BITS) - 1)


def test_an_id_is_frozen_bytes_of_time_counter_and_session() -> None:
    ids = CallIds(0x155_5555_5555)
    assert format_call_id(ids.next(NOW_MS)) == "019a7afd-1e00-7000-8000-055555555555"
    assert format_call_id(ids.next(NOW_MS)) == "019a7afd-1e00-7000-8000-095555555555"


@given(sessions, st.lists(times, min_size=1, max_size=50))
def test_ids_of_a_session_rise_strictly_even_when_its_clock_steps_back(
    session: int, clock: list[int]
) -> None:
    ids = CallIds(session)
    made = [ids.next(now_ms) for now_ms in clock]
    assert all(a < b for a, b in pairwise(made))


@given(sessions, times)
def test_an_id_is_a_uuid_of_version_7_that_says_when_it_was_made(session: int, now_ms: int) -> None:
    call_id = CallIds(session).next(now_ms)
    value = uuid.UUID(bytes=call_id)
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert time_of(call_id) == now_ms


@given(sessions, sessions, times)
def test_sessions_never_share_an_id(one: int, other: int, now_ms: int) -> None:
    assert (CallIds(one).next(now_ms) == CallIds(other).next(now_ms)) == (one == other)


def test_ids_go_on_rising_when_the_counter_is_used_up() -> None:
    ids = CallIds(7)
    ids._counter = (1 << 32) - 3
    made = [ids.next(NOW_MS) for _ in range(6)]
    assert all(a < b for a, b in pairwise(made))
    assert time_of(made[-1]) == NOW_MS + 1


@given(sessions, times)
def test_an_id_is_read_back_from_its_text(session: int, now_ms: int) -> None:
    call_id = CallIds(session).next(now_ms)
    assert parse_call_id(format_call_id(call_id)) == call_id
    assert parse_call_id(format_call_id(call_id).upper()) == call_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        str(uuid.UUID(int=0)),
        "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        "{019a7afd-1e00-7000-8000-055555555555}",
        "urn:uuid:019a7afd-1e00-7000-8000-055555555555",
        "019a7afd1e0070008000055555555555",
        "019a7afd-1e00-7000-0000-055555555555",
    ],
)
def test_other_texts_are_refused_with_what_to_give(text: str) -> None:
    with pytest.raises(MalformedPayload, match="give a UUID of version 7, as submit"):
        parse_call_id(text)


@given(st.text())
def test_reading_an_id_raises_nothing_but_malformed_payload(text: str) -> None:
    with pytest.raises(MalformedPayload):
        parse_call_id(text)

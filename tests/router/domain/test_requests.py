"""Operators' requests as they arrive: read if they are of the right form, refused with the place if not."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.router.domain.refusals import InvalidRequest
from aegisipc.router.domain.requests import (
    MAX_REQUEST_BYTES,
    Drain,
    ListDoubts,
    Pause,
    Promote,
    Request,
    Resume,
    read_request,
)

PROMOTE = {"service": "s", "group": "g", "instance": "i", "author": "alice"}


def told(**changes: object) -> bytes:
    return json.dumps({key: value for key, value in {**PROMOTE, **changes}.items() if value != ()}).encode()


def test_a_request_is_read_field_by_field() -> None:
    assert read_request(Promote, told(reason="r")) == Promote(
        service="s", group="g", instance="i", author="alice", reason="r"
    )
    assert read_request(Drain, b'{"instance": "i", "author": "a"}').force is False
    assert read_request(Pause, b'{"service": "s", "group": null, "author": "a"}').group is None
    assert read_request(Resume, b'{"service": "s", "group": "_pool", "author": "a"}').group == "_pool"
    assert read_request(ListDoubts, b"{}").limit == 100


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "request: Invalid JSON"),
        (b"[]", "request: Input should be an object"),
        (b"\xff", "request: Invalid JSON"),
        (b'{"author": "\\ud800"}', "Invalid JSON"),
        (told(service=()), "service: Field required"),
        (told(service="a.b"), "service: String should match pattern"),
        (told(service="s\n"), "service: String should match pattern"),
        (told(service="_router"), "service: String should match pattern"),
        (told(group="_group"), "group: String should match pattern"),
        (told(instance="*"), "instance: String should match pattern"),
        (told(instance="x" * 64), "instance: String should match pattern"),
        (told(author=""), "author: String should have at least 1 character"),
        (told(author="x" * 129), "author: String should have at most 128 characters"),
        (told(reason="x" * 501), "reason: String should have at most 500 characters"),
        (told(reason=7), "reason: Input should be a valid string"),
        (told(more=1), "more: Extra inputs are not permitted"),
    ],
)
def test_a_request_of_the_wrong_form_is_refused_and_told_where(payload: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_request(Promote, payload)
    assert caught.value.message.startswith("cannot read the request: ")
    assert said in caught.value.message
    assert any(said in problem for problem in caught.value.problems)


@pytest.mark.parametrize("limit", [0, 1001, "7", True])
def test_no_more_than_a_thousand_doubts_can_be_asked_for(limit: object) -> None:
    with pytest.raises(InvalidRequest, match="limit: "):
        read_request(ListDoubts, json.dumps({"limit": limit}).encode())


def test_a_request_that_is_too_long_is_not_even_read() -> None:
    with pytest.raises(InvalidRequest, match="the limit is 16384"):
        read_request(Promote, told(reason="x" * MAX_REQUEST_BYTES))


def test_what_is_said_of_a_hostile_request_is_short() -> None:
    hostile = {("k" * 400) + str(n): n for n in range(30)}
    with pytest.raises(InvalidRequest) as caught:
        read_request(Promote, told(**hostile))
    assert len(caught.value.problems) == 8
    assert len(json.dumps(caught.value.to_plain())) < 5000


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_no_bytes_make_reading_fail_in_another_way(payload: bytes) -> None:
    classes: tuple[type[Request], ...] = (Promote, Drain, Pause, Resume, ListDoubts)
    for cls in classes:
        with contextlib.suppress(InvalidRequest):
            assert isinstance(read_request(cls, payload), cls)

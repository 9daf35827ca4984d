"""The schemas of a contract as they are written into the log."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.contracts import (
    MAX_PACKED_BYTES,
    MAX_SCHEMA_BYTES,
    as_text,
    fingerprint_of,
    pack,
    read_schemas,
    unpack,
)
from aegisipc.eventstore.errors import LimitExceeded, MalformedPayload
from aegisipc.eventstore.events import ServiceContract, encode_event

TEXT = as_text({"arguments": {"type": "object"}, "returns": True, "$defs": {}})
OTHER = as_text({"arguments": {"type": "object", "required": ["ä"]}, "returns": {}, "$defs": {}})


def packed(whole: bytes, digest: str | None = None) -> ServiceContract:
    told = hashlib.sha256(whole).hexdigest() if digest is None else digest
    return ServiceContract(digest=told, schemas=base64.b64encode(zlib.compress(whole)).decode())


def test_schemas_are_read_back_by_their_fingerprints() -> None:
    assert unpack(pack({"place": TEXT, "place@2": OTHER})) == {
        fingerprint_of(TEXT): read_schemas(TEXT),
        fingerprint_of(OTHER): read_schemas(OTHER),
    }


def test_the_same_contract_has_the_same_digest_in_whatever_order() -> None:
    assert pack({"a": TEXT, "b": OTHER}) == pack({"b": OTHER, "a": TEXT})
    assert pack({"a": TEXT}).digest != pack({"a": OTHER}).digest


def test_schemas_that_are_too_large_are_refused_and_any_others_fit_into_a_record() -> None:
    with pytest.raises(LimitExceeded, match="offer fewer methods or smaller types") as caught:
        pack({"a": "x" * MAX_SCHEMA_BYTES})
    assert caught.value.limit == MAX_SCHEMA_BYTES
    noise = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(20_000))
    with pytest.raises(LimitExceeded, match="compressed") as caught:
        pack({"a": noise})
    assert caught.value.limit == MAX_PACKED_BYTES
    largest = pack({"a": noise[: MAX_PACKED_BYTES * 5 // 4]})
    assert len(encode_event(largest)) > MAX_PACKED_BYTES / 2


@pytest.mark.parametrize(
    "event",
    [
        ServiceContract(digest="", schemas=""),
        ServiceContract(digest="", schemas="ä"),
        ServiceContract(digest="", schemas=base64.b64encode(b"no zlib").decode()),
        packed(b"[]"),
        packed(b"{}", digest="0" * 64),
        packed(b'{"m": 1}'),
        packed(b'{"m": "[]"}'),
        packed(b'{"m": "{}"}'),
        packed(b'{"m": "no json"}'),
        packed(json.dumps({"m": "[" * 200_000}).encode()),
        packed(b" " * (MAX_SCHEMA_BYTES + 1)),
        ServiceContract(
            digest=hashlib.sha256(b"{}").hexdigest(),
            schemas=base64.b64encode(zlib.compress(b"{}")[:-2]).decode(),
        ),
    ],
    ids=lambda event: f"{event.schemas[:12]}…{len(event.schemas)}",
)
def test_what_is_no_contract_is_malformed(event: ServiceContract) -> None:
    with pytest.raises(MalformedPayload, match="cannot read the schemas of a contract"):
        unpack(event)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_nothing_but_malformed_payload(raw: bytes) -> None:
    for event in (packed(raw), ServiceContract(digest="", schemas=base64.b64encode(raw).decode())):
        with suppress(MalformedPayload):
            unpack(event)

"""References: they come back as they were, nothing else is taken for one, and broken ones are refused."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore.codec import decode, encode
from aegisipc.eventstore.errors import AegisError, InvalidName, MalformedPayload
from aegisipc.eventstore.ids import CallIds, session_of
from aegisipc.eventstore.object_layout import (
    NUID_CHARS,
    Bucket,
    ObjectEntry,
    bucket_of,
    decode_entry,
    encode_entry,
    is_nuid_of,
    nuid_for,
)
from aegisipc.eventstore.references import (
    MAX_OBJECT_NAME_BYTES,
    MAX_OBJECT_SIZE,
    ObjectName,
    Reference,
    arguments_name,
    encode_reference,
    parse_object_name,
    reference_in,
    result_name,
)
from aegisipc.eventstore.subjects import subjects_of

DIGEST = hashlib.sha256(b"").digest()
CALL = CallIds(session_of("x")).next(1_700_000_000_000)
PART = st.text("abcXYZ019-_", min_size=1, max_size=20)
NAME = st.lists(PART, min_size=1, max_size=5).map(".".join)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 2030, max_value=1 << 2100)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.uuids()
    | st.datetimes()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(NAME, st.integers(0, MAX_OBJECT_SIZE), st.binary(min_size=32, max_size=32))
def test_a_reference_comes_back_as_it_was(name: str, size_bytes: int, sha256: bytes) -> None:
    reference = Reference(name, size_bytes, sha256)
    assert reference_in(encode_reference(reference)) == reference


@given(ANYTHING)
def test_no_value_of_the_codec_is_taken_for_a_reference(value: Any) -> None:
    assert reference_in(encode(value)) is None


def test_a_whole_number_with_the_same_header_but_for_the_code_is_an_ordinary_body() -> None:
    body = encode(1 << 2048)
    assert body[0] == 0xC8
    assert reference_in(body) is None


def test_no_reader_of_values_takes_a_reference_for_one() -> None:
    with pytest.raises(MalformedPayload, match="extension code"):
        decode(encode_reference(Reference("a", 1, DIGEST)))


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_malformed(noise: bytes) -> None:
    for body in (noise, b"\xc8\x00\x29\x20" + noise, encode_reference(Reference("a.b", 5, DIGEST)) + noise):
        try:
            reference_in(body)
        except MalformedPayload:
            continue


@given(st.data())
def test_a_reference_that_was_cut_or_grew_is_refused(data: st.DataObject) -> None:
    whole = encode_reference(Reference("orders.g1.x.args", 70_000, DIGEST))
    cut = data.draw(st.integers(4, len(whole) - 1))
    for broken in (whole[:cut], whole + b"x"):
        with pytest.raises(MalformedPayload):
            reference_in(broken)


@pytest.mark.parametrize("body", [b"", b"\xc8", b"\xc8\x00", b"\xc8\x00\x29"])
def test_less_than_a_header_is_an_ordinary_body(body: bytes) -> None:
    assert reference_in(body) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a\x00b",
        "a\nb",
        "a*",
        ">",
        "a/b",
        "ä",
        "a" * (MAX_OBJECT_NAME_BYTES + 1),
    ],
)
def test_a_name_with_odd_characters_is_refused_in_both_directions(name: str) -> None:
    with pytest.raises(MalformedPayload):
        encode_reference(Reference(name, 1, DIGEST))
    raw = name.encode("utf-8")
    head = b"\xc8" + (41 - 1 + len(raw)).to_bytes(2) + b"\x20" + (1).to_bytes(8) + DIGEST
    with pytest.raises(MalformedPayload):
        reference_in(head + raw)


@pytest.mark.parametrize("size_bytes", [-1, MAX_OBJECT_SIZE + 1, 1 << 64])
def test_a_size_that_no_object_has_is_refused(size_bytes: int) -> None:
    with pytest.raises(MalformedPayload):
        encode_reference(Reference("a", size_bytes, DIGEST))


@pytest.mark.parametrize("sha256", [b"", DIGEST[:-1], DIGEST + b"x"])
def test_a_digest_of_another_length_is_refused(sha256: bytes) -> None:
    with pytest.raises(MalformedPayload, match="digest"):
        encode_reference(Reference("a", 1, sha256))


def test_names_say_what_they_hold() -> None:
    arguments = arguments_name("orders", "_pool", CALL)
    result = result_name("orders", "g1", CALL, "orders-1", 7)
    assert parse_object_name(arguments) == ObjectName("orders", "_pool", CALL, is_result=False)
    assert parse_object_name(result) == ObjectName("orders", "g1", CALL, True, "orders-1", 7)


def test_the_longest_names_that_there_are_can_be_encoded() -> None:
    name = result_name("s" * 63, "g" * 63, CALL, "i" * 63, (1 << 63) - 1)
    assert reference_in(encode_reference(Reference(name, 1, DIGEST))) == Reference(name, 1, DIGEST)
    assert parse_object_name(name).epoch == (1 << 63) - 1


@pytest.mark.parametrize(
    "name",
    [
        "orders",
        "orders.g1.args",
        "orders.g1.not-an-id.args",
        "orders.g1.01890000-0000-7000-8000-000000000000.other",
        "orders.g1.01890000-0000-7000-8000-000000000000.result.i1",
        "orders.g1.01890000-0000-7000-8000-000000000000.result.i1.-1",
        "orders.g1.01890000-0000-7000-8000-000000000000.result.i1.01",
        "orders.g1.01890000-0000-7000-8000-000000000000.args.more",
    ],
)
def test_a_name_of_another_form_says_nothing(name: str) -> None:
    with pytest.raises(MalformedPayload):
        parse_object_name(name)


# -- the entries of the store ---------------------------------------------------------------------------

BUCKET = bucket_of(subjects_of("trading"))
ENTRY = ObjectEntry("orders.g1.x.args", "abcDEF123", 70_000, 1, DIGEST)


def test_the_bucket_is_where_the_tools_of_nats_look() -> None:
    assert Bucket("AEGIS_trading_OBJECTS") == BUCKET
    assert BUCKET.stream == "OBJ_AEGIS_trading_OBJECTS"
    assert BUCKET.chunks("n") == "$O.AEGIS_trading_OBJECTS.C.n"
    assert BUCKET.entry("a?>") == "$O.AEGIS_trading_OBJECTS.M.YT8-"
    assert BUCKET.nuid_of("$O.AEGIS_trading_OBJECTS.C.n1") == "n1"
    assert BUCKET.nuid_of("$O.AEGIS_trading_OBJECTS.C.*") == ""
    assert BUCKET.nuid_of("$O.AEGIS_other_OBJECTS.C.n1") == ""


@given(NAME, NAME, st.text(NUID_CHARS, min_size=11, max_size=11))
def test_a_nuid_tells_whose_pieces_it_is_for(name: str, other: str, salt: str) -> None:
    nuid = nuid_for(name, salt)
    assert BUCKET.nuid_of(BUCKET.chunks(nuid)) == nuid
    assert is_nuid_of(nuid, name)
    assert is_nuid_of(nuid, other) == (other == name)
    assert not is_nuid_of(nuid[:-1], name)


def test_an_entry_comes_back_as_it_was() -> None:
    assert decode_entry(encode_entry(ENTRY, BUCKET, "2026-01-01T00:00:00Z")) == ENTRY


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"nuid":"abcDEF123"', '"nuid":"*"'),
        ('"nuid":"abcDEF123"', '"nuid":">"'),
        ('"nuid":"abcDEF123"', '"nuid":""'),
        ('"nuid":"abcDEF123"', '"nuid":7'),
        ('"nuid":"abcDEF123"', '"nuid":"a.b"'),
        ('"size":70000', '"size":-1'),
        ('"size":70000', '"size":true'),
        ('"size":70000', '"size":1e300'),
        ('"size":70000', '"size":99999999999999999999'),
        ('"digest":"SHA-256=', '"digest":"MD5='),
        ('"digest":"SHA-256=', '"digest":"SHA-256=AAAA'),
        ('"digest":"SHA-256=', '"digest":"SHA-256=\\u00e4'),
        ('"name":"orders.g1.x.args"', '"name":null'),
    ],
)
def test_an_entry_that_is_none_is_refused(old: str, new: str) -> None:
    text = encode_entry(ENTRY, BUCKET, "").decode()
    assert old in text
    with pytest.raises(MalformedPayload):
        decode_entry(text.replace(old, new).encode())


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", b"{}", b"[" * 60_000, b" " * (1 << 17)])
def test_what_is_no_entry_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedPayload):
        decode_entry(payload)


def test_the_refusal_of_a_name_says_what_is_allowed() -> None:
    with pytest.raises(MalformedPayload, match="letters, digits") as refused:
        encode_reference(Reference("a b", 1, DIGEST))
    assert isinstance(refused.value.__cause__, InvalidName)
    assert isinstance(refused.value, AegisError)
